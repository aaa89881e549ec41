r"""The 2x2: test-time training on or off, external memory on or off.

    mattt sweep --config=ablation --out=runs/ablation --workers=2

Four systems on each of three tasks, three seeds each: 36 runs, of 1 to 5
minutes on one core. `hard` recalls more than these fast weights hold, `rule`
applies a rule to a recalled item, `plain` is what TTT alone can do (see
`recall.py` and `rule.py`, whose settings these are).

Expected (answers right at the training length, means over seeds 1, 2, 3, in
results/hard.md, rule.md, recall.md):

           neither   TTT    memory  both
    plain    0.01    1.00    1.00   1.00    either part is enough
    hard      -      0.02    1.00   1.00    the memory is needed
    rule     0.12    0.12    0.12   1.00    both are needed (chance 1/8)

Refuted if TTT alone answers `hard`, if one part alone answers `rule`, or if
both together are worse than the better part anywhere.

Arguments: `task` (hard, rule or plain), `inner` and `memory` (the 2x2; `kind`
is which memory), `tiny`, `seed` and `steps` as in `recall.py`.
"""

from ml_collections import ConfigDict

from mattt_jax import systems
from mattt_jax.config import parse_arg, require_choice
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import param, product

TASKS = {"hard": "recall:hard", "rule": "rule:", "plain": "recall:"}
_ARGS = dict(tiny=False, task="hard", inner=True, memory=True, kind="episodic",
             seed=0, steps=0)  # fmt: skip


def sweep(arg: str = "") -> list[dict]:
  """2x2 on every task and three seeds; `tiny`: 2x2 of one."""
  square = product(
    param("inner", [False, True]), param("memory", [False, True])
  )
  if parse_arg(arg, **_ARGS).tiny:
    return square
  return product(param("task", list(TASKS)), square, param("seed", [1, 2, 3]))


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)
  require_choice("task", args.task, tuple(TASKS))
  system = systems.square(args.kind)[2 * args.memory + args.inner]
  base = TASKS[args.task]
  given = [f"system={system}", f"seed={args.seed}", f"steps={args.steps}"]
  if args.tiny:
    base, given = base.removesuffix("hard"), [*given, "tiny"]
  comma = "" if base.endswith(":") else ","
  return load_config(base + comma + ",".join(given))
