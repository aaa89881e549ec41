"""From settings to a task, and to a learner with initial parameters or to its
shapes."""

from typing import Any

import jax
from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment
from mattt_jax.data import pipeline
from mattt_jax.model import fast_weights
from mattt_jax.model.transformer import Transformer
from mattt_jax.ttt.inner_loop import Learner, make_learner


def make_task(experiment: Experiment):
  """Makes the experiment's task."""
  name = config_lib.to_dict(experiment)["task"]["name"]
  task = registry.load(config_lib.TASKS, name).Task
  return task(experiment.task, experiment.seed)


def build_learner(experiment: Experiment, vocab_size: int) -> Learner:
  """The learner of an experiment, initialised from its seed.

  Raises:
    ValueError: as `build_recurrence`.
  """
  return experiment.baseline.make(experiment, vocab_size)


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
  batch = pipeline.stack([pipeline.empty_example(length)])
  return {
    name: jax.ShapeDtypeStruct((sequences, length), x.dtype)
    for name, x in batch.items()
  }


def build_recurrence(experiment: Experiment, vocab_size: int) -> Learner:
  """The transformer with the experiment's memory, and how it learns.

  Raises:
    ValueError: `model.fast` matches nothing while the inner loop is on, or
      something that cannot be fast.
  """
  model = Transformer(
    experiment.model,
    vocab_size,
    experiment.memory,
    experiment.chunk,
    nnx.Rngs(experiment.seed),
  )
  _, fast, _ = fast_weights.split(model)
  if experiment.inner.enabled and not jax.tree.leaves(fast):
    raise ValueError(
      f"inner.enabled=True, but model.fast={experiment.model.fast} matches no "
      "parameter: set model.fast_mlp_dim > 0 and model.num_suffix > 0, or "
      "inner.enabled=False"
    )
  return make_learner(
    model, experiment.inner, experiment.chunk, experiment.coordination
  )
