"""What is carried from chunk to chunk, and the model that the carry needs."""

from typing import Any, ClassVar, Protocol

from flax import struct
from jax import Array


@struct.dataclass
class ContextState:
  """One sequence's state after the tokens read so far. Memory, cache and replay
  are structs that say how their arrays are split over the mesh (`AXES`)."""

  fast: Any  # W_i, nnx.State of the FastWeights
  inner_opt: Any  # optax state of the inner optimiser
  memory: Any  # M_i
  cache: Any  # C_i
  position: Array  # int32, tokens read
  replay: Any = None  # past chunks, where they are learned again

  AXES: ClassVar = {"position": ()}


class ChunkModel(Protocol):
  """What the recurrence asks of a model (an nnx.Module with FastWeights).

  `x_CxD` is whatever `read_prefix` made of the tokens, which no fast weight
  touches. A cache is a dataclass with the fields `prefix` and `suffix`.
  """

  vocab_size: int

  def init_cache(self, context_length: int, streaming: bool) -> Any: ...

  def init_memory(self, context_length: int) -> Any: ...

  def read_prefix(self, tokens_L, cache, position) -> tuple[Array, Any]: ...

  def forward(self, x_CxD, cache, memory, position) -> Any:
    """`memory` None: as if there were none."""

  def score(self, forward, targets_C) -> tuple[Array, Array]:
    """(loss of each token, whether it was the most likely one), each [C]."""

  def read_loss(self, forward, targets_C) -> tuple[Array, Array]: ...

  def memory_use(self, forward) -> Array: ...

  def diagnostics(self, forward) -> dict[str, Array]: ...

  def write(
    self, memory, forward, targets_C, surprise_C, relevant_C, valid_C
  ) -> Any: ...
