"""Whole chunks of the past: found by one embedding, read token by token.

Every token takes the R stored chunks whose embeddings are most like its own,
and attends to their tokens and to a learned null:

    s_n = q . e_n                                     e_n: chunk n, unit vectors
    w_nt = softmax over null and the tokens of the best R of
           a s_n + b q_h . k_nth

A chunk's score is a part of its tokens' scores, so that embeddings learn
although top-k has no gradient: hierarchical attention (2105.14039, there with a
softmax for each level).

The index alone (`Chunks`, `add`, `retrieve`) gives chunks back as tokens.

Shapes: C tokens that ask, N chunks of T tokens, E embedding, R = top_k chunks,
H heads, K head dim.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least, require_positive
from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import copied_param, full_param, normal_param
from mattt_jax.memory.base import BaseConfig, Gate, Memory, Pairs, ResidualRead

_EMPTY = -1e30  # score of what is not there; finite, so that gradients are


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings; a chunk's embedding is made of `address`, as tokens' keys are."""

  capacity: int = 0  # chunks, a ring that forgets the oldest; 0: all
  top_k: int = 4  # chunks that a token attends to
  chunk_dim: int = 32  # of a chunk's embedding
  num_heads: int = 4
  head_dim: int = 16
  chunk_temperature: float = 3.0  # of unit embeddings, at init
  temperature: float = 3.0  # of a head's unit keys and queries, at init
  null_bias: float = 0.0  # score of "none of them", at init

  SPLIT: ClassVar = {"num_heads": "tensor"}

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "ChunkStore":
    return ChunkStore(self, dim, chunk, rngs)

  def check(self, experiment) -> None:
    super().check(experiment)
    require_at_least("memory.capacity", self.capacity, 0)
    for field in ("top_k", "chunk_dim", "num_heads", "head_dim"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    for field in ("chunk_temperature", "temperature"):
      require_positive(f"memory.{field}", getattr(self, field))
    require(
      not self.capacity or self.top_k <= self.capacity,
      f"memory.top_k={self.top_k} must be <= memory.capacity={self.capacity}, "
      "the chunks kept",
    )


@struct.dataclass
class Chunks:
  """A ring of chunks, and what they are found by."""

  embedding_NxE: Array  # unit vectors; or of rag, counts of words
  token_NxT: Array  # int32 ids
  valid_NxT: Array  # bool: False for padding, and in empty places
  written: Array  # int32: chunks stored since the start

  AXES: ClassVar = {
    "embedding_NxE": (), "token_NxT": (), "valid_NxT": (), "written": ()
  }  # fmt: skip


def empty(capacity: int, chunk: int, dim: int) -> Chunks:
  """Room for `capacity` chunks of `chunk` tokens with embeddings of `dim`."""
  return Chunks(
    embedding_NxE=jnp.zeros((capacity, dim), jnp.float32),
    token_NxT=jnp.zeros((capacity, chunk), jnp.int32),
    valid_NxT=jnp.zeros((capacity, chunk), bool),
    written=jnp.zeros((), jnp.int32),
  )


def add(
  chunks: Chunks, embedding_E: Array, token_T: Array, valid_T: Array
) -> Chunks:
  """Stores a chunk in the place of the oldest, if any of it is valid."""
  put = _writer(chunks, valid_T)
  return Chunks(
    embedding_NxE=put(chunks.embedding_NxE, embedding_E),
    token_NxT=put(chunks.token_NxT, token_T),
    valid_NxT=put(chunks.valid_NxT, valid_T),
    written=chunks.written + jnp.any(valid_T),
  )


def retrieve(
  chunks: Chunks, score_N: Array, k: int
) -> tuple[Array, Array, Array]:
  """The k chunks with the highest of the scores [N], best first.

  Returns:
    Token ids [k, T]; scores [k]; and whether there is such a chunk [k] (if
    not, its score is -1e30).

  Raises:
    ValueError: k is not in 1 .. the chunks that there is room for.
  """
  room = len(chunks.token_NxT)
  require(1 <= k <= room, f"k={k} must lie in 1 .. {room}, the chunks kept")
  score_k, at_k = _best(chunks, score_N, k)
  return chunks.token_NxT[at_k], score_k, score_k > _EMPTY / 2


def _best(chunks: Chunks, score_xN: Array, k: int) -> tuple[Array, Array]:
  return jax.lax.top_k(jnp.where(stored(chunks), score_xN, _EMPTY), k)


def stored(chunks: Chunks) -> Array:
  """Which places hold a chunk, [N] bool."""
  return jnp.any(chunks.valid_NxT, axis=-1)


def _writer(chunks: Chunks, valid_T: Array):
  at = chunks.written % len(chunks.token_NxT)
  some = jnp.any(valid_T)

  def put(slots_Nx: Array, new_x: Array) -> Array:
    new_x = jnp.where(some, new_x.astype(slots_Nx.dtype), slots_Nx[at])
    return slots_Nx.at[at].set(new_x)

  return put


@struct.dataclass
class State:
  """The chunks; their token ids are those that FOLLOWED each address (t+1)."""

  chunks: Chunks
  key_NxTxHxK: Array
  value_NxTxHxK: Array

  AXES: ClassVar = {
    "key_NxTxHxK": (None, None, "tensor", None),
    "value_NxTxHxK": (None, None, "tensor", None),
  }


class ChunkStore(Memory):
  """Parameters: projections of tokens and chunks, temperatures, null, gate."""

  def __init__(self, config: Config, dim: int, chunk: int, rngs: nnx.Rngs):
    self.config = config
    self.chunk = chunk
    self.dim = dim
    width = config.num_heads * config.head_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, width), std)
    self.chunk_wq = normal_param(rngs, (dim, config.chunk_dim), std)
    # Queries start as keys: look-up of what is similar, before any training.
    self.wk = copied_param(self.wq)
    self.chunk_wk = copied_param(self.chunk_wq)
    self.wv = normal_param(rngs, (dim, width), std)
    self.wo = normal_param(rngs, (width, dim), 1 / math.sqrt(width))
    self.log_temperature = full_param(math.log(config.temperature))
    self.log_chunk_temperature = full_param(math.log(config.chunk_temperature))
    self.null_bias = full_param(config.null_bias)
    self.null_weight = full_param(0, dim)
    self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """Empty places: `capacity`, or one for every chunk of the context."""
    c, n = self.config, self._room(context_length)
    zeros = jnp.zeros((n, self.chunk, c.num_heads, c.head_dim), jnp.float32)
    return State(empty(n, self.chunk, c.chunk_dim), zeros, zeros)

  def embed(self, hidden_CxD: Array) -> Array:
    """What chunks are looked up with, [C, E]."""
    return unit(self.norm(hidden_CxD) @ self.chunk_wq[...])

  def read(self, state: State, hidden_CxD: Array) -> ResidualRead:
    """Softmax over null and all tokens of the best chunks."""
    top_k = min(self.config.top_k, len(state.key_NxTxHxK))
    score_CxN = self.embed(hidden_CxD) @ state.chunks.embedding_NxE.T
    score_CxR, at_CxR = _best(state.chunks, score_CxN, top_k)
    hidden_CxD = self.norm(hidden_CxD)
    q_CxHxK = unit(self._heads(hidden_CxD, self.wq))
    score_CxHxRxT = jnp.einsum(
      "chk,crthk->chrt", q_CxHxK, state.key_NxTxHxK[at_CxR]
    )
    score_CxR *= jnp.exp(self.log_chunk_temperature[...])
    score_CxHxRxT *= jnp.exp(self.log_temperature[...])
    score_CxHxRxT = jnp.where(
      state.chunks.valid_NxT[at_CxR][:, None],
      score_CxHxRxT + score_CxR[:, None, :, None],
      _EMPTY,
    )
    null_C = self.null_bias[...] + hidden_CxD @ self.null_weight[...]
    rows = score_CxHxRxT.shape[:2]
    null_CxHx1 = jnp.broadcast_to(null_C[:, None, None], (*rows, 1))
    score_CxHxJ = score_CxHxRxT.reshape(*rows, -1)
    weight_CxHxJ = jax.nn.softmax(
      jnp.concatenate([null_CxHx1, score_CxHxJ], axis=-1)
    )
    out_CxHxK = jnp.einsum(
      "chrt,crthk->chk",
      weight_CxHxJ[..., 1:].reshape(score_CxHxRxT.shape),
      state.value_NxTxHxK[at_CxR],
    )
    out_CxD = out_CxHxK.reshape(len(hidden_CxD), -1) @ self.wo[...]
    null_C = jnp.mean(weight_CxHxJ[..., 0], axis=-1)
    return self.gate(hidden_CxD, out_CxD, null_C)

  def write(self, state: State, pairs: Pairs) -> State:
    """Stores the chunk; its embedding is of the mean over its valid tokens."""
    hidden_CxD = self.norm(pairs.hidden_CxD)
    valid_C = pairs.valid_C
    number = jnp.maximum(jnp.sum(valid_C), 1)
    mean_D = jnp.sum(jnp.where(valid_C[:, None], hidden_CxD, 0.0), 0) / number
    put = _writer(state.chunks, valid_C)
    embedding_E = unit(mean_D @ self.chunk_wk[...])
    key_TxHxK = unit(self._heads(hidden_CxD, self.wk))
    value_TxHxK = self._heads(pairs.value_CxD, self.wv)
    return State(
      chunks=add(state.chunks, embedding_E, pairs.next_token_C, valid_C),
      key_NxTxHxK=put(state.key_NxTxHxK, key_TxHxK),
      value_NxTxHxK=put(state.value_NxTxHxK, value_TxHxK),
    )

  def flops_per_token(self, context_length: int) -> float:
    """Projections, one score a chunk, and attention to `top_k` chunks."""
    c, dim = self.config, self.dim
    width, room = c.num_heads * c.head_dim, self._room(context_length)
    tokens = min(c.top_k, room) * self.chunk
    read = dim * (2 * width + c.chunk_dim + 2) + room * c.chunk_dim
    read += 2 * tokens * width
    write = 2 * dim * width + dim * c.chunk_dim / self.chunk
    return 2.0 * (read + write)

  def _room(self, context_length: int) -> int:
    return self.config.capacity or math.ceil(context_length / self.chunk)

  def _heads(self, x_CxD: Array, w) -> Array:
    return (x_CxD @ w[...]).reshape(len(x_CxD), self.config.num_heads, -1)
