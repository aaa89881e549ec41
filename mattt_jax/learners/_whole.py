"""What learners share that read only whole sequences."""

from typing import NoReturn

from mattt_jax.config import Experiment, require
from mattt_jax.ttt.learner import Learner


def require_inner_loop(experiment: Experiment, name: str, *unused: str) -> None:
  """Raises `ValueError` unless learner `name` has the inner loop alone, and the
  settings `unused` ("section.field") at their defaults."""
  require(
    experiment.inner.enabled,
    f"inner.enabled=False leaves learner {name} without its inner steps: use "
    "learner=recurrence, or inner.enabled=True",
  )
  require(
    experiment.memory.read is None,
    f"learner {name} has no external memory: use memory=none",
  )
  for setting in unused:
    section, field = setting.split(".")
    config = getattr(experiment, section)
    value, default = getattr(config, field), getattr(type(config), field)
    require(
      value == default,
      f"{setting}={value} does nothing in learner {name}: use {default}",
    )


class WholeReader(Learner):
  """A learner with a `read_whole` and `state_parts` of its own, and no state
  that a stream could carry on."""

  name: str  # of the learner
  streams = False

  def init_state(self, context_length: int, streaming: bool = True) -> NoReturn:
    """Raises `ValueError`: only whole sequences are read, not streams."""
    raise ValueError(
      f"learner {self.name} reads whole sequences only (`read_whole`): use "
      "learner=recurrence to read token by token"
    )
