"""Exact next-token pairs of past chunks, read by top-k softmax.

Pointer read (default): the memory keeps (key, id of the next token); the scores
of the heads are summed, a learned null score sets the gate, and

    p(y) = null p_model(y) + sum_j w_j [token_j = y],   null + sum_j w_j = 1

(pointer sentinel 1609.07843, kNN-LM 1911.00172; here learned end to end).
Residual read: it keeps (key, value vector) and each head adds the softmax
average of its values through an output gate (Memorizing Transformer,
2203.08913).

Shapes: M slots, H heads, K head dim, J = top_k candidates, W pairs written of a
chunk.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import (
  require,
  require_at_least,
  require_choice,
  require_positive,
)
from mattt_jax.memory import _search, _selection
from mattt_jax.memory.base import (
  BaseConfig,
  Gate,
  Memory,
  Pairs,
  PointerRead,
  ResidualRead,
)
from mattt_jax.model.layers import RMSNorm, normal_param, unit

_CHOICES = {
  "policy": _selection.POLICIES,
  "score": _selection.SCORES,
  "search": ("exact", "approx"),
  "pointer_gate": _search.GATES,
}


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the episodic memory."""

  read: str = "pointer"
  # What is kept.
  capacity: int = 0  # slots; 0: enough for the whole context
  policy: str = "ring"  # forgets the oldest, or "score": the lowest-scored
  write_top: int = 0  # of a chunk, so many of the best-scored; 0: every token
  # What a pair is worth: "recency", "surprise", "gradient", "random", "oracle"
  # or "learned", which also adds log sigmoid(score) to the score of a read.
  score: str = "recency"
  # How it is found.
  top_k: int = 32  # slots that a read attends to; 0: all
  search: str = "exact"  # or "approx" (faster on TPUs, the same elsewhere)
  shards: int = 1  # blocks searched apart, for slots split over devices
  num_heads: int = 4
  head_dim: int = 16
  temperature: float = 3.0  # of a head's unit keys and queries, at init
  null_bias: float = 5.0  # score of "none of them", at init
  # "null": one softmax over null and slots; "sigmoid": the slots' own softmax,
  # times a gate that sees the query alone, sigmoid(-null score).
  pointer_gate: str = "null"
  # Of pairs that match about as well, the newest takes most of the share
  # (pointer read): the last binding of a key counts.
  latest_wins: bool = False
  # Keeps what keys are made of, and makes them with the weights of the reader:
  # right where fast weights change what the key of a context is.
  rekey: bool = False
  # No gradient into the past network through what was stored, as published
  # (2203.08913); the memory's own projections learn all the same.
  stop_gradient_keys: bool = False
  # The suffix blocks see the recalled tokens' mean embedding (pointer read).
  feed: bool = False

  reads: ClassVar[tuple[str, ...]] = ("pointer", "residual")

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Episodic":
    """The module; one at the head, or one in each suffix block."""
    return Episodic(self, dim, chunk, rngs)

  def slots(self, context_length: int, chunk: int) -> int:
    """Number of slots; `ValueError` if `shards` does not divide it."""
    chunks = math.ceil(context_length / chunk)
    slots = self.capacity or chunks * (self.write_top or chunk)
    require(
      slots % self.shards == 0,
      f"memory.shards={self.shards} must divide the number of slots, which is "
      f"{slots} at {context_length} tokens",
    )
    return slots

  def check(self, experiment) -> None:
    """Raises `ValueError` naming the field that does not fit."""
    super().check(experiment)
    for field in ("capacity", "top_k", "write_top"):
      require_at_least(f"memory.{field}", getattr(self, field), 0)
    for field in ("num_heads", "head_dim", "shards"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require_positive("memory.temperature", self.temperature)
    for field, choices in _CHOICES.items():
      require_choice(f"memory.{field}", getattr(self, field), choices)
    self._check_sizes(experiment)
    self._check_use()

  def _check_sizes(self, experiment) -> None:
    chunk = experiment.chunk
    require(
      self.write_top <= chunk,
      f"memory.write_top={self.write_top} must be <= chunk={chunk}, or 0 for "
      "every token",
    )
    unit = "write_top" if self.write_top else "chunk"
    width = self.write_top or chunk
    require(
      self.capacity % width == 0,
      f"memory.capacity={self.capacity} must be a multiple of {unit}={width} "
      "(so many are written at once), or 0 for all pairs",
    )
    require(
      not self.capacity or self.top_k <= self.capacity,
      f"memory.top_k={self.top_k} must be <= memory.capacity={self.capacity}, "
      "or 0 for all slots",
    )
    for _, length in experiment.lengths:
      self.slots(length, chunk)

  def _check_use(self) -> None:
    """Settings that would do nothing."""
    require(
      self.policy == "ring" or self.capacity > 0,
      f"memory.policy={self.policy!r} chooses what to forget, but memory."
      "capacity=0 forgets nothing: set a capacity",
    )
    require(
      self.score in ("recency", "learned")
      or self.policy == "score"
      or self.write_top > 0,
      f"memory.score={self.score!r} decides nothing: set memory.policy='score'"
      " or memory.write_top",
    )
    require(
      self.top_k > 0 or (self.search == "exact" and self.shards == 1),
      f"memory.top_k=0 reads all slots, so that memory.search={self.search!r} "
      f"and memory.shards={self.shards} do nothing: set memory.top_k",
    )
    for field, off in (
      ("feed", False),
      ("latest_wins", False),
      ("pointer_gate", "null"),
    ):
      value = getattr(self, field)
      require(
        self.read == "pointer" or value == off,
        f"memory.{field}={value!r} needs memory.read='pointer'",
      )


@struct.dataclass
class State:
  """The slots. An address is a key, or (`rekey`) what it is made of; a value is
  a token id (pointer) or a vector a head."""

  address: Array  # [H, M, K], or [M, D]
  value: Array  # [M] int32, or [H, M, K]
  valid_M: Array
  score_M: Any  # None where the settings do not need it
  # int32: valid tokens since, its own included; None without `latest_wins`.
  age_M: Any
  written: Array  # int32: tokens since the start, padding included


class Episodic(Memory):
  """Parameters: address projections, temperature, null score, value path."""

  def __init__(self, config: Config, dim: int, chunk: int, rngs: nnx.Rngs):
    self.config = config
    self.chunk = chunk
    self.width = config.write_top or chunk
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
    if config.latest_wins:
      # Half of the share, not all: with a margin of 3 whatever is newest takes
      # it before keys are learned, and training is slow.
      self.log_sharpness = nnx.Param(jnp.asarray(math.log(4.0), jnp.float32))
      self.margin = nnx.Param(jnp.zeros((), jnp.float32))
    if config.score == "learned":
      # Not zero: equal scores would keep whatever came first.
      self.score_weight = normal_param(rngs, (dim,), std)
      self.score_bias = nnx.Param(jnp.zeros((), jnp.float32))

  def init_state(self, context_length: int) -> State:
    """Empty slots: `capacity`, or enough for the whole context.

    Raises:
      ValueError: the settings' `shards` do not divide their number.
    """
    c = self.config
    slots = c.slots(context_length, self.chunk)
    dim = len(self.null_weight[...])
    per_head = jnp.zeros((c.num_heads, slots, c.head_dim), jnp.float32)
    pointer = c.read == "pointer"
    scored = c.policy == "score" or c.score == "learned"
    return State(
      address=jnp.zeros((slots, dim), jnp.float32) if c.rekey else per_head,
      value=jnp.zeros((slots,), jnp.int32) if pointer else per_head,
      valid_M=jnp.zeros((slots,), bool),
      score_M=jnp.zeros((slots,), jnp.float32) if scored else None,
      age_M=jnp.zeros((slots,), jnp.int32) if c.latest_wins else None,
      written=jnp.zeros((), jnp.int32),
    )

  def read(self, state: State, hidden_CxD: Array) -> PointerRead | ResidualRead:
    """Softmax over the best `top_k` slots and null."""
    hidden_CxD = self.norm(hidden_CxD)
    q_HxCxK = unit(self._heads(hidden_CxD, self.wq))
    key_HxMxK = state.address
    if self.config.rekey:
      key_HxMxK = unit(self._heads(state.address, self.wk))
    temperature = jnp.exp(self.log_temperature[...])
    null_C = self.null_bias[...] + hidden_CxD @ self.null_weight[...]
    if self.config.read == "pointer":
      # One score a slot: all heads agree on the token.
      score_CxM = temperature * jnp.einsum("hck,hmk->cm", q_HxCxK, key_HxMxK)
      score_CxJ, slot_CxJ = self._best(score_CxM, state)
      log_null_C, log_prob_CxJ = _search.shares(
        null_C, score_CxJ, self.config.pointer_gate
      )
      if self.config.latest_wins:
        log_prob_CxJ = _search.latest(
          score_CxJ,
          log_prob_CxJ,
          state.age_M[slot_CxJ],
          jnp.exp(self.log_sharpness[...]),
          self.margin[...],
        )
      return PointerRead(
        token_CxJ=state.value[slot_CxJ],
        log_prob_CxJ=log_prob_CxJ,
        log_null_C=log_null_C,
      )
    score_HxCxM = temperature * jnp.einsum("hck,hmk->hcm", q_HxCxK, key_HxMxK)
    score_HxCxJ, slot_HxCxJ = self._best(score_HxCxM, state)
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
    """Stores the chunk's pairs, or the best `write_top`, in the oldest slots or
    instead of lower scores; a pair that is not valid replaces nothing."""
    c = self.config
    if c.stop_gradient_keys:
      pairs = jax.lax.stop_gradient(pairs)
    valid_C = pairs.valid_C
    # Valid tokens from each one on: padding makes nothing older.
    age_C = jnp.cumsum(valid_C[::-1], dtype=jnp.int32)[::-1]
    feature_CxD = self.norm(pairs.hidden_CxD)
    if c.score == "learned":
      score_C = self.score_bias[...] + feature_CxD @ self.score_weight[...]
    else:
      score_C = _selection.fixed_score(c.score, pairs, state.written)
    new = (pairs, feature_CxD, score_C, age_C)
    if c.write_top or c.policy == "score":
      chosen_W = _selection.best_valid(score_C, valid_C, self.width)
      new = jax.tree.map(lambda x: x[chosen_W], new)
    pairs, feature_WxD, score_W, age_W = new
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

    if c.rekey:
      address = put(state.address, feature_WxD)
    else:
      address = put(state.address, unit(self._heads(feature_WxD, self.wk)), 1)
    if c.read == "pointer":
      value = put(state.value, pairs.next_token_C)
    else:
      value = put(state.value, self._heads(pairs.value_CxD, self.wv), 1)
    score_M, age_M = state.score_M, state.age_M
    if score_M is not None:
      score_M = put(score_M, score_W)
    if age_M is not None:
      age_M = put(age_M + age_C[0], age_W)
    return State(
      address=address,
      value=value,
      valid_M=put(state.valid_M, keep_W),
      score_M=score_M,
      age_M=age_M,
      written=state.written + len(valid_C),
    )

  def flops_per_token(self, context_length: int) -> float:
    """Of a read: query, null score, all keys, the best values; of a write: the
    share of the pairs that is stored."""
    c = self.config
    dim, heads = len(self.null_weight[...]), c.num_heads * c.head_dim
    slots = c.slots(context_length, self.chunk)
    stored = self.width / self.chunk
    keyed = slots / self.chunk if c.rekey else stored
    total = dim * heads + dim + slots * heads + keyed * dim * heads
    if c.read == "residual":
      found = min(c.top_k or slots, slots)
      # Average, wo, gate; and the values written.
      total += found * heads + heads * dim + dim + stored * dim * heads
    if c.score == "learned":
      total += dim
    return 2.0 * total

  def _heads(self, x_CxD: Array, w) -> Array:
    y = x_CxD @ w[...]
    return y.reshape(len(y), self.config.num_heads, -1).swapaxes(0, 1)

  def _best(self, score: Array, state: State) -> tuple[Array, Array]:
    """The top-k scores and their slots, along the last axis."""
    c = self.config
    if c.score == "learned":
      score = score + jax.nn.log_sigmoid(state.score_M)
    score = jnp.where(state.valid_M, score, _search.EMPTY)
    return _search.best(
      score, c.top_k, shards=c.shards, approx=c.search == "approx"
    )
