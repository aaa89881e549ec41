"""What learners share that read only whole sequences."""

from typing import NoReturn

from mattt_jax.ttt.learner import Learner


class WholeReader(Learner):
  """A learner with a `read_whole` and `state_bytes` of its own, and no state
  that a stream could carry on."""

  name: str  # of the learner
  streams = False

  def init_state(self, context_length: int, streaming: bool = True) -> NoReturn:
    """Raises `ValueError`: only whole sequences are read, not streams."""
    raise ValueError(
      f"learner {self.name} reads whole sequences only (`read_whole`): use "
      "learner=recurrence to read token by token"
    )
