"""Batches of a task's examples, in a fixed order, prepared by threads.

Example i of outer step s has index `s * batch_size + i`: a batch depends on
its step alone, so a run resumes anywhere from one number.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from mattt_jax.config import Experiment, require, require_at_least
from mattt_jax.tasks._drafts import Draft
from mattt_jax.tasks.base import Example, Task

Batch = dict[str, np.ndarray]  # the arrays of an Example, [B, L]

_THREADS = 2


def train_batches(
  task: Task,
  experiment: Experiment,
  start_step: int = 0,
  *,
  place: Callable[[Batch], Any] | None = None,
  rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
  """Iterates over the batches of steps `start_step` .. `train.steps - 1`.

  Arrays are [B, L], where L is the training length at that step. The iterator's
  state is JSON: the number of the next step.

  Args:
    task: makes the examples.
    experiment: sizes, seed, and how many batches are kept ready.
    start_step: the first step.
    place: applied to each batch by the threads that make it; it may move the
      batch to the devices.
    rows: the examples of a batch to make, by default all; processes divide
      them.

  Raises:
    ValueError: `start_step` is not one of 0 .. train.steps.
  """
  size, steps = experiment.batch_size, experiment.train.steps
  require(
    0 <= start_step <= steps,
    f"start_step={start_step} must lie in 0 .. train.steps={steps}",
  )

  def batch(step: int) -> Any:
    length = train_length(task, experiment, step)
    here = range(size) if rows is None else rows
    indices = [step * size + row for row in here]
    made = stack([task.example("train", i, length, step) for i in indices])
    return made if place is None else place(made)

  steps_made = grain.MapDataset.range(steps).map(batch)
  batches = iter(_prefetched(steps_made, experiment.train.prefetch))
  grain.experimental.set_next_index(batches, start_step)
  return batches


def train_length(task: Task, experiment: Experiment, step: int) -> int:
  """Tokens of the training sequences of outer step `step`."""
  choices = experiment.train.random_lengths
  if not choices:
    return task.train_length(experiment.length, step)
  rng = np.random.default_rng((experiment.seed, step))
  return int(rng.choice(choices))


def eval_batches(
  task: Task, split: str, length: int, sequences: int, batch_size: int
) -> Iterator[Batch]:
  """Iterates once over the first `sequences` examples, or all if fewer.

  Arrays are [B, L]; the last batch is filled up with rows of weight 0.
  """
  require_at_least("length", length, 1)
  require_at_least("sequences", sequences, 1)
  require_at_least("batch_size", batch_size, 1)
  size = task.size(split, length)
  number = sequences if size is None else min(sequences, size)

  def batch(start: int) -> Batch:
    indices = range(start, min(start + batch_size, number))
    examples = [task.example(split, i, length) for i in indices]
    filling = batch_size - len(examples)
    return stack(examples + [empty_example(length)] * filling)

  starts = grain.MapDataset.range(0, number, batch_size)
  return iter(_prefetched(starts.map(batch), _THREADS))


def empty_example(length: int) -> Example:
  """An example of `length` tokens in which nothing counts."""
  return Draft(np.zeros(0), length).example()


def stack(examples: list[Example]) -> Batch:
  """Stacks examples of equal length, [L], into a batch, [B, L]."""
  return {
    key: np.stack([example[key] for example in examples])  # type: ignore[literal-required]
    for key in examples[0]
  }


def _prefetched(batches: grain.MapDataset, number: int) -> grain.IterDataset:
  """Keeps up to `number` batches ready, in order."""
  # Threads, not processes: examples are cheap next to a step of the model.
  threads = min(_THREADS, number)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=number)
  return batches.to_iter_dataset(options)
