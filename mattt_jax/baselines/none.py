"""No baseline: the recurrence of fast weights, memory and window itself."""

import dataclasses

from mattt_jax.baselines.base import BaseConfig


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Nothing to set."""

  def make(self, experiment, vocab_size):
    """The recurrence, as the experiment's other settings say."""
    from mattt_jax.training.build import build_recurrence

    return build_recurrence(experiment, vocab_size)

  def check(self, experiment) -> None:
    """Fits everything."""
