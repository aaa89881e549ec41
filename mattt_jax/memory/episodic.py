"""Exact next-token pairs of past chunks, read by top-k softmax.

Pointer read (default): the memory keeps (key, id of the next token); the scores
of the heads are summed, a learned null score sets the gate, and

    p(y) = null p_model(y) + sum_j w_j [token_j = y],   null + sum_j w_j = 1

(pointer sentinel 1609.07843, kNN-LM 1911.00172; here learned end to end).
Residual read: it keeps (key, value vector), and each head adds the softmax
average of its values through a gate (Memorizing Transformer, 2203.08913).

Shapes: M slots, H heads, K head dim, J = top_k candidates, W pairs written of a
chunk of C.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import copied_param, full_param, normal_param
from mattt_jax.memory import _landmarks, _search, _selection
from mattt_jax.memory._episodic_settings import Settings
from mattt_jax.memory.base import Gate, Memory, Pairs, PointerRead, ResidualRead


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings of the episodic memory."""

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Episodic":
    return Episodic(self, dim, chunk, rngs)


@struct.dataclass
class State:
  """The slots; None stands for what the settings do not use."""

  key_HxMxK: Any
  feature_MxD: Any  # with `rekey`: what keys are made of
  token_M: Any  # pointer read: int32 ids
  value_HxMxK: Any  # residual read
  valid_M: Array
  score_M: Any
  born_M: Any  # with `latest_wins`: int32, tokens read before it
  written: Array  # int32: tokens since the start, padding included
  index: Any = None  # `_landmarks.Index`, [1, ...] (pointer) or [H, ...]

  AXES: ClassVar = {
    "key_HxMxK": ("tensor", "context", None),
    "feature_MxD": ("context", None),
    "token_M": ("context",),
    "value_HxMxK": ("tensor", "context", None),
    "valid_M": ("context",),
    "score_M": ("context",),
    "born_M": ("context",),
    "written": (),
  }


class Episodic(Memory):
  """Parameters: address projections, temperature, null score, value path."""

  def __init__(self, config: Config, dim: int, chunk: int, rngs: nnx.Rngs):
    self.config = config
    self.chunk = chunk
    self.dim = dim
    self.width = config.write_top or chunk
    width = config.num_heads * config.head_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, width), std)
    # Queries start as keys: look-up of similar contexts, which gets a gradient
    # from the first step on.
    self.wk = copied_param(self.wq)
    self.log_temperature = full_param(math.log(config.temperature))
    # The null score looks at the query: whether memory should answer depends on
    # the token.
    self.null_bias = full_param(config.null_bias)
    self.null_weight = full_param(0, dim)
    if config.read == "residual":
      self.wv = normal_param(rngs, (dim, width), std)
      self.wo = normal_param(rngs, (width, dim), 1 / math.sqrt(width))
      self.gate = Gate(config, dim)
    if config.latest_wins:
      # Half of the share, not all: with a margin of 3 whatever is newest takes
      # it before keys are learned, and training is slow.
      self.log_sharpness = full_param(math.log(4.0))
      self.margin = full_param(0)
    if config.score == "learned":
      # Not zero: equal scores would keep whatever came first.
      self.score_weight = normal_param(rngs, (dim,), std)
      self.score_bias = full_param(0)

  def init_state(self, context_length: int) -> State:
    """Empty slots: `capacity`, or enough for the whole context.

    Raises:
      ValueError: the settings' `shards` do not divide their number.
    """
    c = self.config
    slots = c.slots(context_length, self.chunk)
    per_head = jnp.zeros((c.num_heads, slots, c.head_dim), jnp.float32)
    pointer = c.read == "pointer"
    scored = c.policy == "score" or c.score == "learned"
    return State(
      key_HxMxK=None if c.rekey else per_head,
      feature_MxD=(
        jnp.zeros((slots, self.dim), jnp.float32) if c.rekey else None
      ),
      token_M=jnp.zeros((slots,), jnp.int32) if pointer else None,
      value_HxMxK=None if pointer else per_head,
      valid_M=jnp.zeros((slots,), bool),
      score_M=jnp.zeros((slots,), jnp.float32) if scored else None,
      born_M=jnp.zeros((slots,), jnp.int32) if c.latest_wins else None,
      written=jnp.zeros((), jnp.int32),
      index=self._empty_index(slots),
    )

  def _empty_index(self, slots: int) -> _landmarks.Index | None:
    c = self.config
    if not self._indexed(slots):
      return None
    groups = 1 if c.read == "pointer" else c.num_heads
    index = _landmarks.empty(slots, c.cell, c.num_heads * c.head_dim // groups)
    return jax.tree.map(lambda x: jnp.stack([x] * groups), index)

  def _indexed(self, slots: int) -> bool:
    """Whether so many slots are found by landmarks: else all are read."""
    return self.config.search == "landmarks" and self.config.top_k < slots

  def read(self, state: State, hidden_CxD: Array) -> PointerRead | ResidualRead:
    """Softmax over the best `top_k` slots and null."""
    hidden_CxD = self.norm(hidden_CxD)
    q_HxCxK = unit(self._heads(hidden_CxD, self.wq))
    null_C = self.null_bias[...] + hidden_CxD @ self.null_weight[...]
    if self.config.read == "pointer":
      # One score a slot: all heads agree on the token.
      score_CxJ, slot_CxJ = self._best(q_HxCxK, state)
      log_null_C, log_prob_CxJ = _search.shares(
        null_C, score_CxJ, self.config.pointer_gate
      )
      if self.config.latest_wins:
        log_prob_CxJ = _search.latest(
          score_CxJ,
          log_prob_CxJ,
          -state.born_M[slot_CxJ],
          jnp.exp(self.log_sharpness[...]),
          self.margin[...],
        )
      return PointerRead(state.token_M[slot_CxJ], log_prob_CxJ, log_null_C)
    score_HxCxJ, slot_HxCxJ = self._best(q_HxCxK, state)
    null_HxCx1 = jnp.broadcast_to(null_C[:, None], score_HxCxJ.shape[:2] + (1,))
    weight_HxCxJ = jax.nn.softmax(
      jnp.concatenate([null_HxCx1, score_HxCxJ], axis=-1)
    )
    null_C = jnp.mean(weight_HxCxJ[..., 0], axis=0)
    value_HxCxJxK = jax.vmap(lambda v_MxK, i_CxJ: v_MxK[i_CxJ])(
      state.value_HxMxK, slot_HxCxJ
    )
    out_HxCxK = jnp.einsum(
      "hcj,hcjk->hck", weight_HxCxJ[..., 1:], value_HxCxJxK
    )
    out_CxHK = out_HxCxK.swapaxes(0, 1).reshape(len(hidden_CxD), -1)
    return self.gate(hidden_CxD, out_CxHK @ self.wo[...], null_C)

  def write(self, state: State, pairs: Pairs) -> State:
    """Stores the chunk's pairs, or the best `write_top`, in the oldest slots or
    instead of lower scores; a pair that is not valid replaces nothing."""
    c = self.config
    if c.stop_gradient_keys:
      pairs = jax.lax.stop_gradient(pairs)
    valid_C = pairs.valid_C
    born_C = state.written + jnp.arange(len(valid_C), dtype=jnp.int32)
    feature_CxD = self.norm(pairs.hidden_CxD)
    if c.score == "learned":
      score_C = self.score_bias[...] + feature_CxD @ self.score_weight[...]
    else:
      score_C = _selection.fixed_score(c.score, pairs, state.written)
    chosen = (pairs, feature_CxD, score_C, born_C)
    if c.write_top or c.policy == "score":
      best_W = _selection.best_valid(score_C, valid_C, self.width)
      chosen = jax.tree.map(lambda x: x[best_W], chosen)
    pairs, feature_WxD, score_W, born_W = chosen
    if c.policy == "score":
      slot_W, keep_W = _selection.replace_lowest(
        state.score_M, state.valid_M, score_W, pairs.valid_C
      )
    else:
      start = state.written // self.chunk * self.width % len(state.valid_M)
      slot_W, keep_W = start + jnp.arange(self.width), pairs.valid_C

    def put(slots, new, axis=0):
      at = (slice(None),) * axis + (slot_W,)
      keep = jnp.expand_dims(keep_W, range(1, slots.ndim - axis))
      new = jnp.where(keep, new, slots[at])
      return slots.at[at].set(new, unique_indices=True)

    new: dict[str, Any] = {"valid_M": put(state.valid_M, keep_W)}
    if c.rekey:
      new["feature_MxD"] = put(state.feature_MxD, feature_WxD)
    else:
      key_HxWxK = unit(self._heads(feature_WxD, self.wk))
      new["key_HxMxK"] = put(state.key_HxMxK, key_HxWxK, 1)
      if state.index is not None:
        new["index"] = jax.vmap(_landmarks.add, in_axes=(0, 0, None, None))(
          state.index, self._indexed_by(key_HxWxK), slot_W, keep_W
        )
    if c.read == "pointer":
      new["token_M"] = put(state.token_M, pairs.next_token_C)
    else:
      value_HxWxK = self._heads(pairs.value_CxD, self.wv)
      new["value_HxMxK"] = put(state.value_HxMxK, value_HxWxK, 1)
    if state.score_M is not None:
      new["score_M"] = put(state.score_M, score_W)
    if state.born_M is not None:
      new["born_M"] = put(state.born_M, born_W)
    written = state.written + len(valid_C)
    return dataclasses.replace(state, written=written, **new)

  def flops_per_token(self, context_length: int) -> float:
    """A read takes query, null score, all keys and the best values; a write,
    the share of the pairs that is stored."""
    c = self.config
    dim, heads = self.dim, c.num_heads * c.head_dim
    slots = c.slots(context_length, self.chunk)
    stored = self.width / self.chunk
    keyed = slots / self.chunk if c.rekey else stored
    read = min(c.top_k or slots, slots)
    scored = slots
    if self._indexed(slots):
      n = _landmarks.landmarks(slots, c.cell)
      scored = min(c.probes, n * n) * c.cell + read + n * (1 + stored)
    elif read < slots and (c.block or c.score_dtype != "float32"):
      size = min(c.block or slots, slots)
      scored = math.ceil(slots / size) * size + read
    total = dim * heads + dim + scored * heads + keyed * dim * heads
    if c.read == "residual":
      # Average, wo, gate; and the values written.
      total += read * heads + heads * dim + dim + stored * dim * heads
    if c.score == "learned":
      total += dim
    return 2.0 * total

  def _heads(self, x_CxD: Array, w) -> Array:
    y = x_CxD @ w[...]
    return y.reshape(len(y), self.config.num_heads, -1).swapaxes(0, 1)

  def _best(self, q_HxCxK: Array, state: State) -> tuple[Array, Array]:
    """The top-k scores and their slots, [C, J] or (residual) [H, C, J]."""
    c = self.config
    slots = _search.Slots(
      key_HxMxK=unit(self._heads(state.feature_MxD, self.wk))
      if c.rekey
      else state.key_HxMxK,
      bias_M=state.score_M if c.score == "learned" else None,
      # What an index names was valid; to look again, devices that share the
      # slots would tell each other of all of them.
      valid_M=state.valid_M if state.index is None else None,
    )
    number = len(state.valid_M)
    each_head = c.read == "residual"
    asked = q_HxCxK, slots, jnp.exp(self.log_temperature[...])
    how = {"approx": c.search == "approx", "recall": c.recall_target}
    dtype = None if c.score_dtype == "float32" else jnp.bfloat16
    if state.index is not None:
      slot, live = self._near(*asked, state.index, dtype)
      score = _search.score_at(*asked, slot, each_head=each_head)
      return jnp.where(live, score, _search.EMPTY), slot
    if 0 < c.top_k < number and (c.block or dtype):
      slot = _search.best_in_blocks(
        *asked, c.top_k, c.block or number,
        each_head=each_head, dtype=dtype, **how,
      )  # fmt: skip
      return _search.score_at(*asked, slot, each_head=each_head), slot
    score = _search.score(*asked, each_head=each_head)
    return _search.best(score, c.top_k, shards=c.shards, **how)

  def _near(self, q_HxCxK, slots, temperature, index, dtype):
    """The top-k of the slots that the index names, and whether there are so
    many; without a gradient."""
    q_HxCxK, slots, temperature = jax.lax.stop_gradient(
      (q_HxCxK, slots, temperature)
    )
    each_head = self.config.read == "residual"
    slot, live = jax.vmap(_landmarks.candidates, in_axes=(0, 0, None))(
      index, self._indexed_by(q_HxCxK), self.config.probes
    )
    if not each_head:
      slot, live = slot[0], live[0]
    score = _search.score_at(
      q_HxCxK, slots, temperature, slot, each_head=each_head, dtype=dtype
    )
    score, at = jax.lax.top_k(
      jnp.where(live, score, _search.EMPTY),
      min(self.config.top_k, score.shape[-1]),
    )
    return jnp.take_along_axis(slot, at, axis=-1), score > _search.EMPTY / 2

  def _indexed_by(self, x_HxCxK: Array) -> Array:
    """Keys or queries as an index knows them, [1, C, H K] or [H, C, K]."""
    if self.config.read == "residual":
      return x_HxCxK
    return x_HxCxK.swapaxes(0, 1).reshape(1, x_HxCxK.shape[1], -1)
