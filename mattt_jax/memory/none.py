"""No external memory: fast weights and the attention window alone."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Config:
  """Nothing to set."""

  read: ClassVar[None] = None  # nothing is read

  def check(self, experiment) -> None:
    """Fits everything."""
