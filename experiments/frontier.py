r"""How many pairs a state of so many bytes can hold.

    mattt sweep --config=frontier --out=runs/frontier \
      --results=results/frontier.jsonl --workers=2

Contexts full of pairs, one in 8 tokens, without interference: trained on 32 of
4096 keys in 256 tokens, then read 8 pairs in 256 tokens to 4096 in 32768. The
state of each system has several sizes: fast weights (`model.fast_mlp_dim`), and
slots of an episodic memory that keeps what a learned score says; an associative
matrix and learned slots have one. Each size is trained anew, three seeds.

Question: which state holds most pairs a byte, and does it hold more when it is
larger? Refuted, that a memory of pairs holds more than fast weights of as many
bytes, if at some number of bytes the fast weights answer as much of 1024 or
4096 pairs. Expected: an episodic memory of n slots answers all of n pairs and
about n / N of N; fast weights fewer.

The last two must learn where to look for each of the keys, for which 300 steps
are few (they learn 8 pairs of 64, results/easy.md): their rows then say that,
not what they can hold. Outer and inner rates are those of `retention.py`, not
tuned for each size. A run takes 2 to 6 minutes on one core; 27 runs.

Arguments: `system` and `size` (below; any system of `retention.py` as it is),
`seed`, `steps`; `tiny`.
"""

from ml_collections import ConfigDict

from mattt_jax.config import parse_arg, require
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import chain, param, product

# System of retention.py: what its size changes, sizes.
STATES = {
  "ttt_e2e": ("model.fast_mlp_dim", (32, 128, 512)),
  "swa_episodic": ("memory.capacity", (64, 256, 1024, 4096)),
  "swa_associative": ("memory.key_dim", (64,)),
  "swa_slots": ("memory.capacity", (256,)),
}
TOKENS = 8  # of context for a pair
PAIRS = (8, 32, 128, 512, 1024, 2048, 4096)
_ARGS = dict(tiny=False, system="ttt_e2e", size=0, seed=0, steps=300)


def sweep(arg: str = "") -> list[dict]:
  """Every size of every state on three seeds; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("system", ["ttt_e2e", "swa_episodic"])
  return product(
    chain(
      *(
        product(param("system", [system]), param("size", sizes))
        for system, (_, sizes) in STATES.items()
      )
    ),
    param("seed", [1, 2, 3]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)
  require(args.size >= 0, f"size={args.size} must be >= 1, or 0: as it is")
  require(
    not args.size or args.system in STATES,
    f"size={args.size} goes with one of {', '.join(STATES)}, not with system="
    f"{args.system!r}",
  )
  given = f"retention:system={args.system},seed={args.seed},steps={args.steps}"
  config = load_config(given + ",tiny" * args.tiny)
  if args.tiny:
    return config
  if args.size:
    field, _ = STATES[args.system]
    config.update_from_flattened_dict({field: args.size})
    if args.system == "swa_episodic":
      config.memory.update(policy="score", score="learned")
  config.task.update(
    num_keys=4096, num_pairs=32, num_queries=8, interference=0.0
  )
  config.eval.update(lengths=(256,), sequences=8, parts_off=False)
  config.eval.tasks = tuple(
    f"associative_recall:num_pairs={pairs},"
    f"num_queries={min(max(8, pairs // 4), 64)}@{max(256, TOKENS * pairs)}"
    for pairs in PAIRS
  )
  return config
