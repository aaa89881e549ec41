"""No external memory: fast weights and the attention window alone."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Config:
  """Nothing to set."""

  read: ClassVar[None] = None  # nothing is read
  SPLIT: ClassVar[dict[str, str]] = {}

  def scores_per_token(self, context_length: int, chunk: int) -> int:
    return 0

  def check(self, experiment) -> None:
    """Fits everything."""
