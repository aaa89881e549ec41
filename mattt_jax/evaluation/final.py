"""What a run ends with: all that is measured of the trained learner.

The task itself at `eval.lengths`; with `eval.parts_off` also without the inner
loop and without the memory, at the training length; and `eval.tasks`. It is
part of the run, so that the rows of a sweep have all of it.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from mattt_jax.config import Experiment, require
from mattt_jax.evaluation.evaluator import evaluate_with
from mattt_jax.evaluation.reader import Reader
from mattt_jax.evaluation.task_text import task_experiment
from mattt_jax.learners.build import make_task
from mattt_jax.tasks.base import Task
from mattt_jax.ttt.coordination import rate_scale
from mattt_jax.ttt.parts import parts_of

More = list[tuple[str, Experiment, Task, tuple[int, ...]]]


def check(experiment: Experiment, vocab_size: int) -> None:
  """Refuses before training what `measure` would after it: reads nothing.

  Raises:
    ValueError: as `more_tasks`.
  """
  more_tasks(experiment, vocab_size)


def more_tasks(experiment: Experiment, vocab_size: int) -> More:
  """The text, settings, task and lengths (tokens) of each of `eval.tasks`.

  Raises:
    ValueError: an unknown task or field, sizes that do not fit, or more tokens
      than `vocab_size`, the model's.
  """
  more: More = []
  for text in experiment.eval.tasks:
    name, at, length = text.rpartition("@") if "@" in text else (text, "", "")
    try:
      require(not at or length.isdecimal(), f"@{length} must be @TOKENS")
      lengths = (int(length),) if at else experiment.eval.lengths
      lengths = lengths or (experiment.length,)
      changed = task_experiment(experiment, name, lengths)
      task = make_task(changed)
      require(
        task.vocab_size <= vocab_size,
        f"it has {task.vocab_size} tokens, the model {vocab_size}",
      )
    except ValueError as error:
      raise ValueError(f"eval.tasks {text!r}: {error}") from error
    more.append((text, changed, task, lengths))
  return more


def without_each_part(reader: Reader, task: Task) -> dict[str, Any]:
  """Summaries at the training length without "inner" and without "memory",
  where there is one."""
  experiment, off = reader.experiment, {}
  for part, enabled in parts_of(experiment)._asdict().items():
    if enabled:
      without = reader.of(experiment, reader.parts._replace(**{part: False}))
      result = evaluate_with(
        without, task, experiment.eval.split, (experiment.length,)
      )
      off[part] = result["lengths"][str(experiment.length)]
  return off


def measure(
  experiment: Experiment,
  learner: tuple[nnx.GraphDef, Any],
  task: Task,
  *,
  step: int,
  mesh: Mesh,
) -> dict[str, Any]:
  """Reads `eval.split` of the trained task and of all that `eval` names.

  Args:
    experiment: the settings of the run.
    learner: its graphdef and parameters.
    task: the one it was trained on.
    step: outer step whose warm-up of the inner learning rate applies.
    mesh: splits the sequences of a batch.

  Returns:
    A JSON value: what `evaluate` gives, and `parameters` (how many),
    `state_bytes` (of a sequence, by length and part), `parts_off` (summaries
    without each part), `tasks` (the summary of each text and length).
  """
  split = experiment.eval.split
  lengths = experiment.eval.lengths or (experiment.length,)
  scale = rate_scale(experiment.inner, step)
  reader = Reader(learner, experiment, mesh, None, scale)
  off = without_each_part(reader, task) if experiment.eval.parts_off else {}
  return {
    **evaluate_with(reader, task, split, lengths),
    "parameters": sum(x.size for x in jax.tree.leaves(reader.params)),
    "state_bytes": {str(n): reader.learner.state_bytes(n) for n in lengths},
    "parts_off": off,
    # Made anew, so that their texts are not held while the run trains.
    "tasks": {
      text: evaluate_with(reader.of(changed), other, split, at)["lengths"]
      for text, changed, other, at in more_tasks(experiment, task.vocab_size)
    },
  }
