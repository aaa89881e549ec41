r"""Ways of bringing weights and memory together, on associative recall.

    mattt sweep --config=coordination --out=runs/coordination
    mattt sweep --config=coordination:write --out=runs/write
    mattt compare --config=coordination --systems=ttt_memory --seeds=1,2,3 \
      --each=how:joint,max_drift --out=runs/drift

`how` names one of `HOW`: a change of TTT + episodic memory trained jointly from
the first step on. Those that start with `write_` keep 64 pairs, chosen so, of
the whole context; `write` compares them, without TTT. The task is that of
`recall.py` with twice the pairs, of 1024 keys, which fast weights alone do not
learn in 200 steps. A run takes 1.5 minutes on one core: 39 runs, and 21.

Expected: results/coordination.md, write.md. Refuted, that training both from
the first step on is enough, if a way answers more than `joint`; that the choice
of pairs matters, if pairs drawn at random are answered as often as those of any
score.
"""

from ml_collections import ConfigDict

from mattt_jax.config import parse_arg, require_choice
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import param, product

_MEMORY_FIRST = {"coordination.inner_start": 80}
_SCHEDULED = _MEMORY_FIRST | {"coordination.inner_off_share": 0.5}
_RESIDUAL = {"memory.read": "residual"}
_FULL = {"memory.capacity": 64, "memory.policy": "score"}

HOW = {
  "joint": {},
  # When each part learns.
  "memory_first": _MEMORY_FIRST,
  "scheduled": _SCHEDULED,
  "memory_sometimes": {"coordination.memory_off_share": 0.25},
  "read_loss": {"coordination.read_loss": 0.5},
  # The work of each part.
  "inner_without_memory": {"coordination.inner_loss": "without_memory"},
  "surprise": {"coordination.surprise_power": 1.0},
  "rate_from_memory": {"coordination.rate_from_memory": True},
  "learn_rate": {"inner.learn_rate": True},
  # Which reads stay valid.
  "residual": _RESIDUAL,
  "residual_scheduled": _RESIDUAL | _SCHEDULED,
  "residual_hidden": _RESIDUAL | {"memory.address": "hidden"},
  "residual_rekey": _RESIDUAL | {"memory.address": "hidden",
                                 "memory.rekey": True},
  # Which weights stay bounded.
  "retention": {"inner.retention": 0.9, "inner.learn_retention": True},
  "max_drift": {"inner.max_drift": 3.0},
  "random_lengths": {"train.random_lengths": (288, 384, 576)},
  # Replay.
  "replay": {"coordination.replay": 1},
  # Pairs written, at equal capacity.
  "write_all": {},
} | {
  f"write_{score}": _FULL | {"memory.score": score}
  for score in ("recency", "surprise", "gradient", "random", "learned",
                "oracle")
}  # fmt: skip


COMPARED = ("joint", "scheduled", "memory_first", "memory_sometimes",
            "read_loss", "inner_without_memory", "surprise",
            "rate_from_memory", "learn_rate", "residual", "residual_scheduled",
            "retention", "replay")  # fmt: skip
_ARGS = dict(tiny=False, write=False, system="ttt_memory", how="joint", seed=0,
             steps=0)  # fmt: skip


def sweep(arg: str = "") -> list[dict]:
  """COMPARED on three seeds; `write`: what is written; `tiny`: two runs."""
  args = parse_arg(arg, **_ARGS)
  if args.tiny:
    return param("how", ["joint", "retention"])
  writes = [how for how in HOW if how.startswith("write_")]
  return product(
    param("system", ["swa_episodic" if args.write else "ttt_memory"]),
    param("how", writes if args.write else COMPARED),
    param("seed", [1, 2, 3]),
    param("config.eval.parts_off", [True]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)
  require_choice("how", args.how, tuple(HOW))
  given = f"system={args.system},seed={args.seed},steps={args.steps}"
  config = load_config(f"recall:{given}" + ",tiny" * args.tiny)
  if not args.tiny:
    config.length = 288
    config.task.update(num_keys=1024, num_pairs=32, gap_share=0.45)
    config.eval.update(lengths=(288, 1152, 4608), sequences=16)
  config.update_from_flattened_dict(HOW[args.how])
  return config
