"""The external memory: `read` and `write`, pure functions over a state.

A memory is an `nnx.Module` with parameters (projections, gates); its contents
are a pytree of arrays of static shape, carried from chunk to chunk. It stores
next-token pairs: an address made of the hidden state at t, and the token t+1.
It serves one of two sites (`Config.read`):
  pointer   at the head: stored token ids, a distribution over the next token
            that is mixed with the model's own (1609.07843, 1911.00172).
  residual  in every suffix block: value vectors added to the residual stream.

Shapes: C tokens of a chunk, D model, J candidates of a token.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require_choice
from mattt_jax.layers.norms import rms_normalize
from mattt_jax.layers.parameters import full_param

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

PLACES = ("before_attention", "after_attention", "after_mlp")
GATES = ("sigmoid", "zero")
VALUES = ("next_token", "hidden")


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """Settings that every memory shares."""

  read: str = "residual"
  # What addresses are made of. "prefix": the prefix blocks' output, which no
  # fast weight changes, so that stored keys stay valid; "hidden": the hidden
  # state at the memory's place (residual read only).
  address: str = "prefix"
  place: str = "after_attention"  # in the suffix blocks (residual read only)
  # A residual read recalls the embedding of the token that followed, or the
  # hidden state itself (as attention does).
  value: str = "next_token"
  # A residual read's: "sigmoid", half open at first, or "zero", a tanh that
  # starts closed.
  gate: str = "sigmoid"
  normalize_read: bool = False  # unit RMS in front of the gate

  reads: ClassVar[tuple[str, ...]] = ("residual",)  # what this memory offers
  # Settings that a mesh axis must divide: {"num_heads": "tensor"}.
  SPLIT: ClassVar[dict[str, str]] = {}

  @property
  def wants_gradient(self) -> bool:
    """Whether `write` needs `Pairs.gradient_C`."""
    return False

  def scores_per_token(self, context_length: int, chunk: int) -> int:
    """Scores that a read holds of each token at once, over all heads with
    their own: what the planner counts beside the state."""
    return 0

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Memory":
    """The memory module for a model of width `dim`, written by chunks."""
    raise NotImplementedError

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if a setting is unknown or does not fit."""
    require_choice("memory.read", self.read, self.reads)
    require_choice("memory.address", self.address, ("prefix", "hidden"))
    require_choice("memory.place", self.place, PLACES)
    require_choice("memory.value", self.value, VALUES)
    require_choice("memory.gate", self.gate, GATES)
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
  value_CxD: Array  # embedding of the token that followed (`BaseConfig.value`)
  next_token_C: Array  # int32, its id
  surprise_C: Array  # its loss before anything was learned, no gradient
  # Norm of that loss's gradient at the final hidden state, no gradient; None
  # unless the memory's `score` is of it.
  gradient_C: Array | None
  relevant_C: Array  # bool: the task says that it will be asked for (an oracle)
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
  gate_C: Array  # how far the gate was open
  null_C: Array  # share of the read that fell on "nothing"; 0 without a null


class Gate(nnx.Module):
  """gate * output, the gate looking at the hidden state that asked."""

  def __init__(self, config: BaseConfig, dim: int):
    self.kind = config.gate
    self.normalize = config.normalize_read
    self.bias = full_param(0)
    self.weight = full_param(0, dim)

  def __call__(
    self, hidden_CxD: Array, output_CxD: Array, null_C: Array | None = None
  ) -> ResidualRead:
    """The read that the memory returns."""
    activation = jax.nn.sigmoid if self.kind == "sigmoid" else jnp.tanh
    gate_C = activation(self.bias[...] + hidden_CxD @ self.weight[...])
    if self.normalize:
      output_CxD = rms_normalize(output_CxD, 1e-6)
    if null_C is None:
      null_C = jnp.zeros_like(gate_C)
    return ResidualRead(gate_C[:, None] * output_CxD, gate_C, null_C)


class Memory(nnx.Module):
  """Base class of the memories: override `init_state`, `read`, `write` and
  `flops_per_token`.

  A state is a flax struct that says how its arrays are split over the mesh:

      AXES: ClassVar = {"matrix_HxFxE": ("tensor", None, None)}

  has a mesh axis (or None) for each axis of an array, or of each array of a
  field; () if every device holds it whole. A struct in a field has its own.
  """

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

  def flops_per_token(self, context_length: int) -> float:
    """Multiplications and additions of the matrix products that a read and a
    write of one token take (forward, at the state of `context_length`)."""
    raise NotImplementedError


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays (or abstract arrays) of a pytree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
