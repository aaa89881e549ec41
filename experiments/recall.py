r"""Associative recall under interference, one system at a time.

    mattt train --config=recall:system=ttt_memory,seed=0 \
      --workdir=runs/recall/ttt_memory

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
answers that outweigh the rest),
`capacity` (`hard`, read along each of its axes: 1x to 64x the length, 16 to 512
keys, values of 1 to 4 tokens)
and `system`, one of those that `mattt list` shows, or `swa_MEMORY`,
`ttt_MEMORY`.

    mattt sweep --config=recall --out=runs/recall
    mattt sweep --config=recall:hard --out=runs/hard --workers=2
    mattt sweep --config=recall:easy --out=runs/easy
    mattt sweep --config=recall:easy,induction --out=runs/induction

The first trains the window and TTT, without and with an episodic memory, on
three seeds; the second what knows at least some of the pairs, on three seeds:
12 runs each, of 1 to 4 minutes on one core; the others every system, or three,
on one. Expected: results/recall.md, hard.md, easy.md, induction.md. Refuted,
that the memory is needed, if TTT alone recalls as much as with the memory where
`hard` asks for more than the fast weights hold.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, require, template
from mattt_jax.sweeps.sweep import param, product

_ARGS = dict(tiny=False, hard=False, easy=False, induction=False,
             capacity=False, system="ttt_memory", seed=0,
             steps=0)  # fmt: skip
HARD = ("swa_episodic", "ttt_e2e", "ttt_memory", "ttt_memory_scheduled")
EASY = ("swa_associative", "swa_neural", "swa_slots", "swa_chunk_store",
        "sliding_window", "sliding_window_equal_bytes", "full_attention",
        "gated_delta_net", "titans", "infini_attention",
        "memorizing_transformer", "rag", "rag_bm25", "ttt_nn", "perk",
        "dynamic_evaluation", "ttt_e2e", "ttt_e2e_first_order", "ttt_memory",
        "ttt_memory_scheduled")  # fmt: skip
INDUCTION = ("gated_delta_net", "full_attention", "infini_attention")


def sweep(arg: str = "") -> list[dict]:
  """The 2x2 of TTT and memory, on three seeds; `hard`, `capacity`: HARD;
  `easy`: EASY on one seed, with `induction` INDUCTION; `tiny`: two runs."""
  args = parse_arg(arg, **_ARGS)
  seeds = param("seed", [1] if args.easy else [1, 2, 3])
  if args.tiny:
    return param("system", ["sliding_window", "ttt_memory"])
  if args.capacity:
    return product(param("system", HARD), seeds)
  if not (args.hard or args.easy):
    return product(param("system", systems.square("episodic")), seeds)
  names = HARD if args.hard else INDUCTION if args.induction else EASY
  return product(
    param("system", names),
    seeds,
    param("steps", [3000]) if args.induction else [{}],
    param("config.eval.parts_off", [True]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)

  config = template("associative_recall")
  config.seed = args.seed
  config.length = 256
  config.chunk = 32
  config.batch_size = 8
  config.model.update(sizes.SIZES["small"], window=32)
  config.task.interference = 0.8
  config.task.answer_weight = 8.0
  config.task.interference_ramp = (0, 60)
  config.outer.learning_rate = 5e-3
  config.train.steps = 200
  config.eval.lengths = (256, 512, 1024, 2048, 4096)
  args.hard = args.hard or args.capacity
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
  if args.capacity:
    config.eval.update(
      lengths=(768, 3072, 12288, 49152),
      sequences=8,
      tasks=(
        *(
          f"associative_recall:num_pairs={n},updates={n // 3}@12288"
          for n in (16, 128, 512)
        ),
        *(f"associative_recall:value_length={n}@12288" for n in (1, 2)),
      ),
    )

  if args.induction:
    config.model.update(num_heads=2, rope_theta=100.0)
    config.task.context_weight = 0.1
    config.outer.update(learning_rate=3e-3, final_learning_rate=3e-4)

  if args.tiny:
    config.length = 64
    config.chunk = 8
    config.batch_size = 2
    config.model.update(sizes.TINY, window=8)
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
