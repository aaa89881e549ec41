"""What baselines share that read whole sequences and nothing in parts."""

from typing import NoReturn

from mattt_jax.ttt.inner_loop import Learner


class WholeReader(Learner):
  """A learner with a `read_whole` and `state_bytes` of its own, and no state
  that a stream could carry on."""

  name: str  # of the baseline
  streams = False

  def init_state(self, context_length: int, streaming: bool = True) -> NoReturn:
    """Raises `ValueError`: only whole sequences are read, not streams."""
    raise ValueError(
      f"baseline {self.name} reads whole sequences only (`read_whole`): use "
      "baseline=none to read token by token"
    )
