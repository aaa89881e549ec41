"""Learners: one file for each way of learning while reading.

A learner's `Config.make` gives a `Learner`, all that training and evaluation
ask for. `recurrence` is this project's own; the others bring their own
`read_whole` and `state_parts`.
"""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from mattt_jax.config import Experiment
  from mattt_jax.ttt.learner import Learner


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """What every learner file's `Config` must offer."""

  def make(self, experiment: "Experiment", vocab_size: int) -> "Learner":
    """The learner, initialised from the experiment's seed."""
    raise NotImplementedError

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if a setting is unknown or does not fit."""
    raise NotImplementedError
