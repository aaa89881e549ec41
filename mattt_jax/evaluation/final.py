"""What a run ends with: all that is measured of the trained learner.

The task itself at `eval.lengths`; with `eval.parts_off` also without the inner
loop and without the memory, at the training length; and `eval.tasks`, the same
learner on other tasks, or on the same with other settings. It is part of the
run, so that a sweep has all of it in its rows and needs no checkpoint after.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from mattt_jax.config import Experiment, require
from mattt_jax.evaluation import suite
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.learners.build import make_task
from mattt_jax.tasks.base import Task

Asked = list[tuple[str, Experiment, Task, tuple[int, ...]]]


def more_tasks(experiment: Experiment, vocab_size: int) -> Asked:
  """Those of `eval.tasks`: text, settings, task, lengths in tokens.

  Raises:
    ValueError: an unknown task or field, sizes that do not fit, or more tokens
      than `vocab_size`, the model's.
  """
  asked: Asked = []
  for text in experiment.eval.tasks:
    name, at, length = text.rpartition("@") if "@" in text else (text, "", "")
    try:
      require(not at or length.isdecimal(), f"@{length} must be @TOKENS")
      lengths = (int(length),) if at else experiment.eval.lengths
      lengths = lengths or (experiment.length,)
      changed = suite.task_experiment(experiment, name, lengths)
      task = make_task(changed)
      require(
        task.vocab_size <= vocab_size,
        f"it has {task.vocab_size} tokens, the model {vocab_size}",
      )
    except ValueError as error:
      raise ValueError(f"eval.tasks {text!r}: {error}") from error
    asked.append((text, changed, task, lengths))
  return asked


def without_each_part(
  experiment: Experiment,
  learner: nnx.Module | tuple[nnx.GraphDef, Any],
  task: Task,
  *,
  step: int,
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """From "inner" and "memory", where there is one, to the summary at the
  training length without it; arguments are as of `evaluate`."""
  there = {
    "inner": experiment.inner.enabled,
    "memory": experiment.memory.read is not None,
  }
  at = experiment.length
  return {
    part: evaluate(
      experiment, learner, task, experiment.eval.split, (at,),
      step=step, mesh=mesh, **{part: False},
    )["lengths"][str(at)]
    for part in there if there[part]
  }  # fmt: skip


def measure(
  experiment: Experiment,
  learner: tuple[nnx.GraphDef, Any],
  task: Task,
  *,
  step: int,
  mesh: Mesh,
) -> dict[str, Any]:
  """Reads `eval.split` of all that was asked for.

  Args:
    experiment: the settings of the run.
    learner: its graphdef and parameters.
    task: the one it was trained on.
    step: outer step whose warm-up of the inner learning rate applies.
    mesh: splits the sequences of a batch.

  Returns:
    A JSON value: what `evaluate` gives, and `parameters` (how many),
    `state_bytes` (of a sequence, by length and part), `parts_off` (from "inner"
    and "memory", where there is one, to the summary without it), `tasks` (from
    each text and length to its summary).
  """
  split, lengths = experiment.eval.split, experiment.eval.lengths
  # Made anew, so that their texts are not held while the run trains.
  asked = more_tasks(experiment, task.vocab_size)

  def read(changed, other, lengths):
    return evaluate(
      changed, learner, other, split, lengths, step=step, mesh=mesh
    )

  off = {}
  if experiment.eval.parts_off:
    off = without_each_part(experiment, learner, task, step=step, mesh=mesh)
  whole = nnx.merge(*learner)
  return {
    **read(experiment, task, lengths or (experiment.length,)),
    "parameters": sum(x.size for x in jax.tree.leaves(learner[1])),
    "state_bytes": {
      str(n): whole.state_bytes(n) for n in lengths or (experiment.length,)
    },
    "parts_off": off,
    "tasks": {
      text: read(changed, other, lengths)["lengths"]
      for text, changed, other, lengths in asked
    },
  }
