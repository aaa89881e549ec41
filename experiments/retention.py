r"""Who still knows it: recall against distance, interference and how much.

    mattt sweep --config=retention:tune --out=runs/retention_tune \
      --results=results/retention_tune.jsonl --workers=2
    mattt sweep --config=retention --out=runs/retention \
      --results=results/retention.jsonl --workers=2
    mattt sweep --config=retention:long --out=runs/retention_long \
      --results=results/retention_long.jsonl --workers=2
    mattt sweep --config=retention:size=125m --together \
      --out=/mnt/mattt/retention-125m

16 pairs, of 1024 keys, among filler of which 80 % is made of keys and values,
in 256 tokens; 8 questions further back than attention reaches. That is little
enough that TTT alone learns it. The same models then read 1x to 64x the length,
and, at 64x, 64, 256 and 1024 pairs (every key), which nobody trained on; and
4096 tokens without interference.

Question: does fast memory alone hold what it was given, and for how long?
Refuted, that an external memory is needed: if TTT alone, or TTT with four times
the fast weights, or a window of as many bytes, recalls as much as the memory
does at every distance and number of pairs. Refuted, that the memory's lead is
more than its bytes: if it is gone where the memory has no more bytes than the
fast weights (`swa_episodic_small`, `ttt_memory_small`: a learned score says
which pairs are kept).

Expected, from a first try on seed 0: the memory answers all of 1024 pairs, TTT
alone all of 16 and 64, two thirds of 256 and a tenth of 1024; what must first
learn to look one token back learns nothing in 240 steps.

Each system has the same budget: three outer learning rates (`rate`) and, where
there is an inner one, three of those (`inner`, which multiplies the system's
own; a fourth where the best was the largest), on seed 0 and the `tune` split;
what has the lowest loss on the answers at 256 and 1024 tokens, in `RATES`, is
trained on seeds 1, 2 and 3 (HEADLINE: to 5) and reads the `test` split. A run
takes 1 to 3 minutes on one core (ttt_nn, perk: 6): about 3 hours of one core to
tune, 4 to report.

With `long`, TTT alone is trained for 3000 steps rather than 240. Refuted, that
it lacks capacity rather than training: if it then holds as many pairs as a
memory of its bytes does. 14 minutes a run.

With `size`, the same at a published size, for the slice of TPUs that
`context_scaling.py` names: 256 of 65536 keys in 32768 tokens, windows and
chunks of 512, so that 32 blocks reach no answer, read to 524288 tokens with as
many as 32768 pairs. Rates and steps are those of `context_scaling`, not tuned.

Arguments: `system` (the table below, or any of `mattt list`), `seed`, `rate`
and `inner` (0: as tuned), `steps`; `tune`; `long`; `size` (125m, 350m, 760m,
1b, 3b); `tiny`.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes
from mattt_jax.config import parse_arg, require, require_choice, template
from mattt_jax.registry import load_config, load_experiment
from mattt_jax.sweeps.sweep import chain, param, product

# Outer rate, and the factor of the system's own inner rate, from
# results/retention_tune.jsonl.
RATES = {
  "ttt_e2e": (5e-3, 3.0),
  "ttt_memory": (1e-2, 1.0),
  "ttt_memory_scheduled": (1e-2, 1.0),
  "swa_episodic": (1e-2, 1.0),
  "sliding_window": (1e-2, 1.0),
  "ttt_e2e_wide": (5e-3, 10.0),
  "ttt_memory_small": (1e-2, 1.0),
  "swa_episodic_small": (1e-2, 1.0),
  "full_attention": (5e-3, 1.0),
  "gated_delta_net": (1e-2, 1.0),
  "swa_associative": (1e-2, 1.0),
  "swa_neural": (5e-3, 1.0),
  "memorizing_transformer": (1e-2, 1.0),
  "titans": (1e-2, 1.0),
  "infini_attention": (1e-2, 1.0),
  "sliding_window_equal_bytes": (1e-2, 1.0),
  "ttt_e2e_first_order": (5e-3, 10.0),
  "dynamic_evaluation": (1e-2, 1.0),
  "rag": (1e-2, 1.0),
  "rag_bm25": (1e-2, 1.0),
  "swa_chunk_store": (1e-2, 1.0),
  "ttt_nn": (2.5e-3, 1.0),
  "perk": (2.5e-3, 1.0),
}
OUTER = (2.5e-3, 5e-3, 1e-2)
# Systems that `mattt list` does not have: what they are made of.
_SMALL = {"memory.capacity": 736, "memory.policy": "score",
          "memory.score": "learned"}  # fmt: skip
VARIANTS = {
  # Slots of as many bytes as the fast weights have, 192 KiB.
  "swa_episodic_small": ("swa_episodic", _SMALL),
  "ttt_memory_small": ("ttt_memory_scheduled", _SMALL),
  # Four times the fast weights, 768 KiB.
  "ttt_e2e_wide": ("ttt_e2e", {"model.fast_mlp_dim": 512}),
}
SYSTEMS = ("ttt_e2e", "ttt_memory", "swa_episodic", "sliding_window",
           "ttt_e2e_wide", "ttt_memory_small", "swa_episodic_small",
           "full_attention", "gated_delta_net", "swa_associative",
           "swa_neural", "memorizing_transformer", "titans",
           "infini_attention", "sliding_window_equal_bytes",
           "ttt_e2e_first_order", "dynamic_evaluation", "rag", "rag_bm25",
           "swa_chunk_store", "ttt_nn", "perk",
           "ttt_memory_scheduled")  # fmt: skip
STEPS = 240
# With `long`: could it hold more, had it learned longer?
LONG, LONG_STEPS = ("ttt_e2e",), 3000
# The systems with an inner rate.
INNER_LOOP = ("ttt_e2e", "ttt_memory", "ttt_memory_scheduled", "ttt_e2e_wide",
              "ttt_memory_small", "ttt_e2e_first_order", "dynamic_evaluation",
              "ttt_nn", "perk")  # fmt: skip
# The systems whose best inner rate was the largest of the three: one more.
AT_EDGE = ("ttt_e2e", "ttt_e2e_wide", "ttt_e2e_first_order")
# The systems on which the answer depends: five seeds.
HEADLINE = ("ttt_e2e", "ttt_memory", "swa_episodic", "ttt_e2e_wide",
            "ttt_memory_small", "swa_episodic_small",
            "ttt_memory_scheduled")  # fmt: skip
# Their cost of a token grows with the length: no further than 16x.
SLOW = ("full_attention", "rag", "rag_bm25", "ttt_nn", "perk",
        "memorizing_transformer", "swa_chunk_store")  # fmt: skip
# On TPUs: sizes, systems; of VOCABULARY tokens, so many are keys and values.
CONTEXT, *_ = load_experiment("context_scaling")
SIZES, VOCABULARY = tuple(sizes.PUBLISHED), CONTEXT.VOCABULARY
SIZED = ("sliding_window", "full_attention", "ttt_e2e", "swa_episodic",
         "ttt_memory")  # fmt: skip
KEYS, VALUES = 65536, 16384
_ARGS = dict(tiny=False, tune=False, long=False, system="ttt_memory", seed=0,
             rate=0.0, inner=0.0, steps=0, size="")  # fmt: skip


def _parse(arg: str) -> ConfigDict:
  args = parse_arg(arg, **_ARGS)
  given = [name for name in ("tiny", "tune", "long", "size") if args[name]]
  require(len(given) < 2, f"{', '.join(given)}: choose one of them")
  return args


def sweep(arg: str = "") -> list[dict]:
  """Every system on three seeds or five; `tune`: at every rate; `long`: LONG;
  of a `size`, SIZED, one seed; `tiny`: two runs."""
  args = _parse(arg)
  if args.tiny:
    return param("system", ["sliding_window", "ttt_memory_small"])
  if args.size:
    return product(param("system", SIZED), param("seed", [1]))
  if args.long:
    return product(param("system", LONG), param("seed", [1, 2, 3]))
  if not args.tune:
    return chain(
      product(param("system", SYSTEMS), param("seed", [1, 2, 3])),
      product(param("system", HEADLINE), param("seed", [4, 5])),
    )
  return chain(
    *(
      product(
        param("system", [system]),
        chain(
          product(param("rate", OUTER), param("inner", [1.0])),
          product(param("rate", [5e-3]), param("inner", [0.3, 3.0]))
          if system in INNER_LOOP
          else [],
          product(param("rate", [5e-3]), param("inner", [10.0]))
          if system in AT_EDGE
          else [],
        ),
      )
      for system in SYSTEMS
    )
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = _parse(arg)
  if args.size:
    return _published(args)
  system, changes = VARIANTS.get(args.system, (args.system, {}))
  steps = args.steps or (LONG_STEPS if args.long else STEPS)
  given = f"recall:system={system},seed={args.seed},steps={steps}"
  config = load_config(given + ",tiny" * args.tiny)
  config.update_from_flattened_dict(changes)
  outer, inner = RATES.get(args.system, (5e-3, 1.0))
  config.outer.learning_rate = args.rate or outer
  config.outer.final_learning_rate = config.outer.learning_rate / 10
  config.inner.learning_rate *= args.inner or inner
  if args.tiny:
    return config
  config.task.update(num_keys=1024, num_queries=8)
  config.eval.update(lengths=(256, 1024), sequences=16)
  if args.tune:
    config.eval.split = "tune"
    return config
  # `sliding_window_equal_bytes` is as wide as answers are far, at 256 tokens.
  same = "associative_recall"
  config.eval.tasks = (f"{same}:interference=0.0@4096",)
  config.eval.lengths = (256, 1024, 4096)
  if args.system not in SLOW:
    config.eval.lengths += (16384,)
    config.eval.tasks += tuple(
      f"{same}:num_pairs={pairs}@16384" for pairs in (64, 256, 1024)
    )
  config.eval.parts_off = True
  return config


def _published(args: ConfigDict) -> ConfigDict:
  require_choice("size", args.size, SIZES)
  given = f"size={args.size},system={args.system},seed={args.seed}"
  config = load_config(
    f"context_scaling:{given},steps={args.steps},length=32768,data=made"
  )
  config.task = template("associative_recall").task
  config.task.update(
    num_keys=KEYS, num_values=VALUES,
    num_fillers=VOCABULARY - 3 - KEYS - VALUES, num_pairs=256, num_queries=64,
    answer_weight=8.0, interference_ramp=(0, config.train.steps // 4),
  )  # fmt: skip
  config.model.window = 512
  if config.inner.enabled or config.memory.name != "none":
    config.chunk = 512
  if config.memory.name == "episodic":
    config.memory.search = "landmarks"  # of 524288 pairs
  config.outer.learning_rate = args.rate or config.outer.learning_rate
  config.inner.learning_rate *= args.inner or 1.0
  config.eval.lengths = (32768, 131072)
  config.eval.sequences = 16
  if args.system not in SLOW:
    config.eval.lengths += (524288,)
    config.eval.tasks = tuple(
      f"associative_recall:num_pairs={pairs}@524288" for pairs in (4096, 32768)
    )
  return config
