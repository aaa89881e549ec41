r"""Facts that must be put together, further back than attention reaches.

    mattt sweep --config=reasoning --out=runs/reasoning \
      --results=results/reasoning.jsonl --workers=2

Trained at 256 tokens, read at 1x, 4x and 16x that; evidence and question lie
further apart than attention reaches. An answer is one token.

    qa1        where somebody is: the last of the places they went to
    qa2        where an object is: who has it, then where that one is
    qa3        where an object was before: two facts about it, and a place
    variables  which variables have a value: x = 12, y = x (RULER's, one hop)
    records    the grade of one student of eight (Student Records)
    relation   which of two students has the higher grade

Question: is a memory of what was read enough to answer what takes more than one
fact? Refuted, that it is: if with it qa2 and qa3 are answered no better than by
the window, which must guess, while qa1 and records are. Refuted, that test-time
training helps to reason: if `ttt_memory` answers no more than `swa_episodic`
anywhere. Added when there were answers: the stories name few places, so that
facts were put together only in what is answered beyond the rules that
`babi.Task.guessing` knows, which link none.

Expected: what takes one fact is answered with the memory, what takes two is
not, as a memory is read once a token. (A first try of `ttt_memory_scheduled` on
seed 0, by which sizes were chosen: qa1 and records all, variables none.)

Eight of 16 students appear: with 64, no system learned to find one in as many
steps. Nothing is tuned here: a system's rates are those of
`retention.py`, whose models are as large. The last binding counts in most of
these tasks, so the memory gives the newest match the most
(`memory.latest_wins`). A run takes about 2 minutes on one core; 99 runs.

Arguments: `task` (above), `system` (those of `retention.py`), `seed`, `steps`,
`tiny` (a few steps of a small model, to see that it runs).
"""

from ml_collections import ConfigDict

from mattt_jax.config import parse_arg, require_choice, template
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import chain, param, product

# One question where several would have the same answer, which a window then
# finds in the question before (it answered .6 of four of qa2).
_BABI = {"num_questions": 1, "num_facts": 8}
_RECORDS = {"fields": ("grade",), "num_ids": 16}
TASKS = {
  "qa1": ("babi", {**_BABI, "kind": "qa1", "num_questions": 4}),
  "qa2": ("babi", {"kind": "qa2", **_BABI}),
  "qa3": ("babi", {"kind": "qa3", **_BABI}),
  "variables": ("ruler", {"kind": "variable_tracking", "num_items": 2}),
  "records": ("student_records", _RECORDS),
  "relation": (
    "student_records",
    {**_RECORDS, "question": "relation", "num_questions": 5},
  ),
}
SYSTEMS = ("sliding_window", "full_attention", "ttt_e2e", "swa_episodic",
           "ttt_memory")  # fmt: skip
# Tasks of `ttt_memory_scheduled` too.
SCHEDULED = ("qa1", "records", "relation")
_ARGS = dict(tiny=False, task="qa1", system="ttt_memory", seed=0, steps=300)


def sweep(arg: str = "") -> list[dict]:
  """Task x system x three seeds; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("task", ["qa1", "records"])
  return product(
    chain(
      product(param("task", TASKS), param("system", SYSTEMS)),
      product(
        param("task", SCHEDULED), param("system", ["ttt_memory_scheduled"])
      ),
    ),
    param("seed", [1, 2, 3]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)
  require_choice("task", args.task, tuple(TASKS))
  given = f"retention:system={args.system},seed={args.seed},steps={args.steps}"
  config = load_config(given + ",tiny" * args.tiny)
  name, settings = TASKS[args.task]
  reach = config.task.out_of_reach  # a system's own
  config.task = template(name).task
  config.task.update(settings, answer_weight=8.0, out_of_reach=reach)
  if config.memory.get("read") == "pointer":
    config.memory.latest_wins = True
  config.eval.tasks = ()
  if args.tiny:
    config.length = 160
    config.eval.lengths = (160, 320)
    return config
  alone = settings.get("num_questions") == 1
  config.eval.update(lengths=(256, 1024, 4096), sequences=128 if alone else 32)
  return config
