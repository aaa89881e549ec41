r"""A rule for the weights, applied to items for the memory.

    mattt sweep --config=rule --out=runs/rule --workers=2

Each document has 48 pairs, of 1024 keys, and a permutation f of the 8 symbols,
shown twice for each; the questions far behind ask for f of the symbol that a
key was bound to (chance 1/8). f starts as the identity and moves all symbols
from step 250 on: then recall alone answers nothing. (A ramp twice as steep, to
step 150, failed on seed 1. With 16 pairs of 256 keys TTT alone holds the items
too, on two seeds of three.) 12 runs, of about 4 minutes on one core.

Expected: results/rule.md, chance without both parts. Refuted, that the task
needs both, if one part alone answers more.

Arguments: `tiny`, `seed`, `steps` and `system`, as in `recall.py`. An episodic
memory also feeds what it recalls to the suffix blocks (`memory.feed`), which
apply the rule to it.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, template
from mattt_jax.sweeps.sweep import param, product

_ARGS = dict(tiny=False, system="ttt_memory", seed=0, steps=0)


def sweep(arg: str = "") -> list[dict]:
  """The 2x2 of TTT and memory, on three seeds; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("system", ["sliding_window", "ttt_memory"])
  return product(
    param("system", systems.square("episodic")),
    param("seed", [1, 2, 3]),
    param("config.eval.parts_off", [True]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)

  config = template("rule_recall")
  config.seed = args.seed
  config.length = 512
  config.chunk = 32
  config.batch_size = 8
  config.model.update(sizes.SIZES["small"], window=32)
  config.task.update(num_keys=1024, num_pairs=48, num_symbols=8,
                     num_queries=16, num_rule_queries=16, gap_share=0.35,
                     rule_ramp=(50, 250))  # fmt: skip
  config.train.steps = 300
  config.eval.update(lengths=(512, 2048, 8192), batch_size=4)
  if args.tiny:
    config.update(length=128, chunk=8, batch_size=2)
    config.model.update(sizes.TINY, window=8)
    config.task.update(num_pairs=4, num_queries=2, num_symbols=4,
                       demonstrations=1, rule_ramp=(0, 2))  # fmt: skip
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.eval.update(lengths=(128,), sequences=2, batch_size=2)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  if config.memory.name == "episodic" and config.memory.read == "pointer":
    config.memory.feed = True
  return config
