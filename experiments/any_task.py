r"""Any task with any system, at one size: where to start from with a new task.

    mattt train --config=any_task:task=mqar,system=ttt_memory \
      --workdir=runs/mqar
    mattt compare --config=any_task:task=babi --systems=2x2:episodic \
      --out=runs/babi

The task has its default settings; `--config.task.FIELD=VALUE` changes them
(`mattt list` names the tasks, their files the fields). Trained on 512 tokens,
evaluated at 1x to 16x that. Nothing here is tuned for a task; results are from
the other experiments.

Arguments: `task`; `tiny` (a few steps of a small model, to see that it runs),
`seed`, `steps` and `system`, as in `recall.py`.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, template


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, tiny=False, task="mqar", system="ttt_memory", seed=0,
                   steps=0)  # fmt: skip

  config = template(args.task)
  config.seed = args.seed
  config.length = 512
  config.chunk = 32
  config.batch_size = 8
  config.model.update(sizes.SIZES["small"], window=32)
  if "answer_weight" in config.task:
    config.task.answer_weight = 8.0
  config.train.steps = 300
  config.eval.lengths = (512, 2048, 8192)

  if args.tiny:
    config.update(length=256, batch_size=2)
    config.model.update(sizes.TINY)
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.eval.update(lengths=(256,), sequences=4, batch_size=2)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  return config
