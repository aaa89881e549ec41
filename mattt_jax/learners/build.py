"""From settings to a task, and to a learner with initial parameters or to its
shapes."""

from typing import Any

import jax
from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment
from mattt_jax.tasks import batches
from mattt_jax.ttt.learner import Learner


def make_task(experiment: Experiment):
  """Makes the experiment's task."""
  name = config_lib.to_dict(experiment)["task"]["name"]
  task = registry.load(config_lib.TASKS, name).Task
  return task(experiment.task, experiment.seed)


def build_learner(experiment: Experiment, vocab_size: int) -> Learner:
  """The learner of an experiment, initialised from its seed.

  Raises:
    ValueError: settings that do not fit, as `recurrence.build`.
  """
  return experiment.learner.make(experiment, vocab_size)


def abstract_learner(
  experiment: Experiment, vocab_size: int
) -> tuple[nnx.GraphDef, Any]:
  """`nnx.split(build_learner(...))` with shapes for parameters: nothing is
  computed or allocated."""
  return nnx.split(
    nnx.eval_shape(lambda: build_learner(experiment, vocab_size))
  )


def abstract_batch(
  sequences: int, length: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of the pipeline, [B, L]."""
  batch = batches.stack([batches.empty_example(length)])
  return {
    name: jax.ShapeDtypeStruct((sequences, length), x.dtype)
    for name, x in batch.items()
  }
