"""Exact next-token pairs of past chunks, read by top-k softmax.

Pointer read (default): the memory keeps (key, id of the next token); the scores
of the heads are summed, a learned null score sets the gate, and

    p(y) = null p_model(y) + sum_j w_j [token_j = y],   null + sum_j w_j = 1

(pointer sentinel 1609.07843, kNN-LM 1911.00172; here learned end to end).
Residual read: it keeps (key, value vector) and each head adds the softmax
average of its values through an output gate (Memorizing Transformer,
2203.08913).

Shapes: M slots, H heads, K head dim, J = top_k candidates.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least, require_positive
from mattt_jax.memory.base import (
  BaseConfig,
  Gate,
  Memory,
  Pairs,
  PointerRead,
  ResidualRead,
)
from mattt_jax.model.layers import RMSNorm, normal_param, unit

_EMPTY = -1e30  # score of an empty slot; finite, so that gradients are


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the episodic memory."""

  read: str = "pointer"
  capacity: int = 0  # slots, a ring that forgets the oldest; 0: all pairs
  top_k: int = 32  # slots that a read attends to; 0: all
  num_heads: int = 4
  head_dim: int = 16
  temperature: float = 3.0  # of a head's unit keys and queries, at init
  null_bias: float = 5.0  # score of "none of them", at init

  reads: ClassVar[tuple[str, ...]] = ("pointer", "residual")

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Episodic":
    """The module; one at the head, or one in each suffix block."""
    return Episodic(self, dim, chunk, rngs)

  def check(self, experiment) -> None:
    """Raises `ValueError` naming the field that does not fit."""
    super().check(experiment)
    for field in ("capacity", "top_k"):
      require_at_least(f"memory.{field}", getattr(self, field), 0)
    for field in ("num_heads", "head_dim"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require_positive("memory.temperature", self.temperature)
    require(
      self.capacity % experiment.chunk == 0,
      f"memory.capacity={self.capacity} must be a multiple of chunk="
      f"{experiment.chunk} (whole chunks are written), or 0 for all pairs",
    )


@struct.dataclass
class State:
  """The slots; `value` is a token id (pointer) or a vector a head."""

  key_HxMxK: Array
  value: Array  # [M] int32, or [H, M, K]
  valid_M: Array
  written: Array  # int32: slots written since the start, padding included


class Episodic(Memory):
  """Parameters: address projections, temperature, null score, value path."""

  def __init__(self, config: Config, dim: int, chunk: int, rngs: nnx.Rngs):
    self.config = config
    self.chunk = chunk
    heads, head_dim = config.num_heads, config.head_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, heads * head_dim), std)
    # Queries start as keys: the memory begins as nearest-neighbour look-up of
    # similar contexts, and so gets a gradient from the first step on.
    self.wk = nnx.Param(jnp.array(self.wq[...], copy=True))
    self.log_temperature = nnx.Param(
      jnp.asarray(math.log(config.temperature), jnp.float32)
    )
    # The null score competes with the stored pairs' scores; it may look at the
    # query, because whether memory should answer depends on the token.
    self.null_bias = nnx.Param(jnp.asarray(config.null_bias, jnp.float32))
    self.null_weight = nnx.Param(jnp.zeros((dim,), jnp.float32))
    if config.read == "residual":
      self.wv = normal_param(rngs, (dim, heads * head_dim), std)
      self.wo = normal_param(
        rngs, (heads * head_dim, dim), 1 / math.sqrt(heads * head_dim)
      )
      self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """Empty slots: `capacity`, or one for every token of the context."""
    heads, head_dim = self.config.num_heads, self.config.head_dim
    slots = self.config.capacity
    if not slots:
      slots = math.ceil(context_length / self.chunk) * self.chunk
    if self.config.read == "pointer":
      value = jnp.zeros((slots,), jnp.int32)
    else:
      value = jnp.zeros((heads, slots, head_dim), jnp.float32)
    return State(
      key_HxMxK=jnp.zeros((heads, slots, head_dim), jnp.float32),
      value=value,
      valid_M=jnp.zeros((slots,), bool),
      written=jnp.zeros((), jnp.int32),
    )

  def read(self, state: State, hidden_CxD: Array) -> PointerRead | ResidualRead:
    """Softmax over the best `top_k` slots and null."""
    hidden_CxD = self.norm(hidden_CxD)
    q_HxCxK = unit(self._heads(hidden_CxD, self.wq))
    temperature = jnp.exp(self.log_temperature[...])
    null_C = self.null_bias[...] + hidden_CxD @ self.null_weight[...]
    if self.config.read == "pointer":
      # One score a slot: all heads agree on the token.
      score_CxM = temperature * jnp.einsum(
        "hck,hmk->cm", q_HxCxK, state.key_HxMxK
      )
      score_CxJ, slot_CxJ = self._best(score_CxM, state.valid_M)
      log_prob = jax.nn.log_softmax(
        jnp.concatenate([null_C[:, None], score_CxJ], axis=-1)
      )
      return PointerRead(
        token_CxJ=state.value[slot_CxJ],
        log_prob_CxJ=log_prob[:, 1:],
        log_null_C=log_prob[:, 0],
      )
    score_HxCxM = temperature * jnp.einsum(
      "hck,hmk->hcm", q_HxCxK, state.key_HxMxK
    )
    score_HxCxJ, slot_HxCxJ = self._best(score_HxCxM, state.valid_M)
    null_HxCx1 = jnp.broadcast_to(null_C[:, None], score_HxCxJ.shape[:2] + (1,))
    weight_HxCxJ = jax.nn.softmax(
      jnp.concatenate([null_HxCx1, score_HxCxJ], axis=-1)
    )
    null_C = jnp.mean(weight_HxCxJ[..., 0], axis=0)
    weight_HxCxJ = weight_HxCxJ[..., 1:]
    value_HxCxJxK = jax.vmap(lambda v_MxK, i_CxJ: v_MxK[i_CxJ])(
      state.value, slot_HxCxJ
    )
    out_HxCxK = jnp.einsum("hcj,hcjk->hck", weight_HxCxJ, value_HxCxJxK)
    out_CxHK = out_HxCxK.swapaxes(0, 1).reshape(len(hidden_CxD), -1)
    return self.gate(hidden_CxD, out_CxHK @ self.wo[...], null_C)

  def write(self, state: State, pairs: Pairs) -> State:
    """Stores the chunk in the next C slots (the oldest ones of a full ring);
    where a pair is not valid, its slot keeps what it held."""
    start = state.written % state.valid_M.shape[0]
    chunk = len(pairs.valid_C)

    def put(slots, new, axis=0):
      old = jax.lax.dynamic_slice_in_dim(slots, start, chunk, axis)
      valid = jnp.expand_dims(pairs.valid_C, range(1, slots.ndim - axis))
      new = jnp.where(valid, new, old)
      return jax.lax.dynamic_update_slice_in_dim(slots, new, start, axis)

    key_HxCxK = unit(self._heads(self.norm(pairs.hidden_CxD), self.wk))
    if self.config.read == "pointer":
      value = put(state.value, pairs.next_token_C)
    else:
      value = put(state.value, self._heads(pairs.value_CxD, self.wv), 1)
    return State(
      key_HxMxK=put(state.key_HxMxK, key_HxCxK, 1),
      value=value,
      valid_M=put(state.valid_M, pairs.valid_C),
      written=state.written + chunk,
    )

  def _heads(self, x_CxD: Array, w) -> Array:
    y = x_CxD @ w[...]
    return y.reshape(len(y), self.config.num_heads, -1).swapaxes(0, 1)

  def _best(self, score: Array, valid_M: Array) -> tuple[Array, Array]:
    """The top-k scores and their slots, along the last axis."""
    score = jnp.where(valid_M, score, _EMPTY)
    slots = score.shape[-1]
    if 0 < self.config.top_k < slots:
      return jax.lax.top_k(score, self.config.top_k)
    return score, jnp.broadcast_to(jnp.arange(slots), score.shape)
