r"""Language modelling of long documents, UTF-8 bytes as tokens.

    mattt train --config=language_modeling:system=ttt_e2e --workdir=runs/lm

Trained on windows of 512 bytes; held-out documents are read from their start,
up to 16 times as far. The default text is the Python standard library's own
source; `--config.task.source=directory:PATH` reads any text files.

Arguments: `tiny` (a few steps of a small model, to see that it runs), `seed`,
`steps` and `system`, as in `recall.py`.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, template


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, tiny=False, system="ttt_e2e", seed=0, steps=0)

  config = template("language_modeling")
  config.seed = args.seed
  config.length = 512
  config.chunk = 64
  config.batch_size = 8
  config.model.update(sizes.SIZES["medium"], window=64)
  config.outer.update(learning_rate=3e-3, final_learning_rate=3e-4)
  config.train.update(steps=150, checkpoint_every=50)
  config.eval.update(lengths=(512, 2048, 8192), sequences=8, batch_size=2)

  if args.tiny:
    config.update(length=64, chunk=16, batch_size=2)
    config.model.update(sizes.TINY, window=16)
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.eval.update(lengths=(64, 128), sequences=2)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  # Half of the steps with the inner loop off: the same model then also reads
  # well without learning, which makes "off" a fair comparison.
  config.coordination.inner_off_share = 0.5 if config.inner.enabled else 0.0
  return config
