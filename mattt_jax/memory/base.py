"""The external memory: `read` and `write`, pure functions over a state.

A memory is an `nnx.Module` that holds its parameters (projections, gates); its
contents are a pytree of arrays of static shape, carried from chunk to chunk.
What it stores are next-token pairs: an address made of the hidden state at
position t, and the token t+1.

A memory serves one of two sites (`Config.read`):
  pointer   at the head: stored token ids, a distribution over the next token
            that is mixed with the model's own (1609.07843, 1911.00172).
  residual  in every suffix block: value vectors added to the residual stream.

Shapes: C tokens of a chunk, D model, J candidates of a token.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require_choice

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

PLACES = ("before_attention", "after_attention", "after_mlp")


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """Settings that every memory shares."""

  read: str = "residual"
  # What addresses are made of. "prefix": the prefix blocks' output, which no
  # fast weight touches, so that stored keys stay valid while weights move;
  # "hidden": the hidden state at the memory's place (residual read only).
  address: str = "prefix"
  place: str = "after_attention"  # in the suffix blocks (residual read only)

  reads: ClassVar[tuple[str, ...]] = ("residual",)  # what this memory offers

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Memory":
    """The memory module for a model of width `dim`, written by chunks."""
    raise NotImplementedError

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if a setting is unknown or does not fit."""
    require_choice("memory.read", self.read, self.reads)
    require_choice("memory.address", self.address, ("prefix", "hidden"))
    require_choice("memory.place", self.place, PLACES)
    if self.read == "pointer" and self.address != "prefix":
      raise ValueError(
        f"memory.address={self.address!r} does not go with "
        "memory.read='pointer', which has no place in a block: use 'prefix'"
      )
    if self.read == "residual" and experiment.model.num_suffix < 1:
      raise ValueError(
        "memory.read='residual' reads in the suffix blocks, but "
        "model.num_suffix=0: use at least 1"
      )


@struct.dataclass
class Pairs:
  """The next-token pairs of a chunk, which `write` stores."""

  hidden_CxD: Array  # what addresses are made of
  next_embedding_CxD: Array  # embedding of the token that followed
  next_token_C: Array  # int32, its id
  surprise_C: Array  # its loss before anything was learned, no gradient
  valid_C: Array  # bool: False for padding, which is never stored


@struct.dataclass
class PointerRead:
  """A distribution over stored tokens and "none of them" (null)."""

  token_CxJ: Array  # int32 ids
  log_prob_CxJ: Array
  log_null_C: Array  # log of the mass left to the model's own distribution


@struct.dataclass
class ResidualRead:
  """What is added to the residual stream."""

  output_CxD: Array


class Memory(nnx.Module):
  """Base class of the memories: override the three methods."""

  config: Any  # the memory file's Config, a BaseConfig

  def init_state(self, context_length: int) -> Any:
    """An empty memory for a context of that many tokens."""
    raise NotImplementedError

  def read(self, state: Any, hidden_CxD: Array) -> Any:
    """What EARLIER chunks wrote about each token: a PointerRead or, at the
    site "residual", a ResidualRead."""
    raise NotImplementedError

  def write(self, state: Any, pairs: Pairs) -> Any:
    """Returns the state with the chunk's valid pairs stored."""
    raise NotImplementedError

  def state_bytes(self, context_length: int) -> int:
    """Bytes of the state of one sequence."""
    return tree_bytes(jax.eval_shape(lambda: self.init_state(context_length)))


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays (or abstract arrays) of a pytree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
