r"""Associative recall under interference, one system at a time.

    python -m mattt_jax.main --workdir=runs/recall/ttt_memory \
      --config=experiments/recall.py:system=ttt_memory,seed=0

16 key-value pairs, then questions about them, further back than attention can
reach; 80 % of the filler is made of the tokens of keys and values. Trained at
256 tokens, evaluated at 1x to 16x that length.

Arguments: `tiny` (a few steps of a small model, to see that it runs), `seed`,
`steps` (outer steps, on which schedules depend; 0: as here),
`hard` (48 of 1024 keys with values of 4 tokens, 16 of them overwritten, at 768
tokens: more than the fast weights of this model hold; the last binding counts),
`easy` (8 pairs, no interference, a longer training: what any memory must
learn),
`induction` (what attention needs to learn, in thousands of steps, to look one
token back, as seen on seed 0: wide heads, positions told apart by few tokens,
answers that outweigh the rest)
and `system`, one of those that `mattt list` shows, or made of parts: `swa`,
`ttt`, `swa_<memory>`, `ttt_<memory>`.

    mattt sweep --experiment=recall:hard --out=runs/sweep --workers=2

trains the window and TTT, without and with an episodic memory, on three seeds:
12 runs, of 1 to 4 minutes on one core. Expected: results/recall.md, hard.md.
That TTT alone recalled as much as with the memory where `hard` asks for more
than the fast weights hold would refute that the memory is needed for that.
"""

from ml_collections import ConfigDict

from mattt_jax import systems
from mattt_jax.config import parse_arg, require, template
from mattt_jax.sweeps.sweep import param, product

_ARGS = dict(tiny=False, hard=False, easy=False, induction=False,
             system="ttt_memory", seed=0, steps=0)  # fmt: skip


def sweep(arg: str = "") -> list[dict]:
  """The 2x2 of TTT and memory, on three seeds; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("system", ["swa", "ttt_episodic"])
  return product(
    param("system", ["swa", "ttt", "swa_episodic", "ttt_episodic"]),
    param("seed", [1, 2, 3]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)

  config = template("associative_recall")
  config.seed = args.seed
  config.length = 256
  config.chunk = 32
  config.batch_size = 8
  config.model.update(
    dim=64, num_layers=4, num_suffix=2, num_heads=4, window=32,
    mlp_dim=128, fast_mlp_dim=128, init_std=0.1, embedding_std=1.0,
    tie_embeddings=False,
  )  # fmt: skip
  config.task.interference = 0.8
  config.task.answer_weight = 8.0
  config.task.interference_ramp = (0, 60)
  config.outer.learning_rate = 5e-3
  config.train.steps = 200
  config.eval.lengths = (256, 512, 1024, 2048, 4096)
  require(not (args.hard and args.easy), "hard, easy: choose one of them")
  if args.easy:
    config.task.update(num_pairs=8, num_queries=8, interference=0.0)
    config.train.steps = 300
    config.eval.lengths = (256, 1024, 4096)
  if args.hard:
    config.length = 768
    config.task.update(num_keys=1024, num_pairs=48, updates=16, num_queries=16,
                       value_length=4, gap_share=0.3)  # fmt: skip
    config.train.steps = 300
    config.eval.update(lengths=(768, 3072, 12288), batch_size=4)

  if args.induction:
    config.model.update(num_heads=2, rope_theta=100.0)
    config.task.context_weight = 0.1
    config.outer.update(learning_rate=3e-3, final_learning_rate=3e-4)

  if args.tiny:
    config.length = 64
    config.chunk = 8
    config.batch_size = 2
    config.model.update(dim=16, num_heads=2, window=8, mlp_dim=32,
                        fast_mlp_dim=32)  # fmt: skip
    config.task.update(num_pairs=2, num_queries=2, gap_share=0.5)
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.task.interference_ramp = (0, 2)
    config.eval.update(lengths=(64, 128), sequences=4, batch_size=2)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  memory = config.memory
  if args.hard and memory.name == "episodic" and memory.read == "pointer":
    memory.latest_wins = True
  return config
