"""The project's own recurrence of window, fast weights and memory."""

import dataclasses

import jax
from flax import nnx

from mattt_jax.config import Experiment
from mattt_jax.learners.base import BaseConfig
from mattt_jax.model import fast_weights
from mattt_jax.model.transformer import Transformer
from mattt_jax.ttt.inner_loop import make_learner
from mattt_jax.ttt.learner import Learner


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Nothing to set: the experiment's other sections say all."""

  def make(self, experiment, vocab_size):
    """As `build`."""
    return build(experiment, vocab_size)

  def check(self, experiment) -> None:
    """Fits everything."""


def build(experiment: Experiment, vocab_size: int) -> Learner:
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
