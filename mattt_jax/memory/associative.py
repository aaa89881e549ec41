"""A matrix a head that maps addresses to values: linear attention, delta rules.

    S_t = a_t S_{t-1} + k_t (v_t - e_t a_t S_{t-1})          read: q S

`rule` says what is erased (e) and what decays (a); b = sigmoid(.) is a write
strength (`layers/linear_attention.py` has the recurrence):

  linear         nothing and nothing; read q S / q z with z = sum_t k_t
                 (Infini-attention 2404.07143)
  linear_delta   e = k / (k z), what is already recalled (2404.07143, with
                 segments of one token, so that chunks do not matter)
  delta          e = b k, and b v instead of v (2102.11174)
  decayed_delta  and a learned decay a head
  gated_delta    and a_t = exp(-exp(A) softplus(.)) a token (2412.06464)

`features` says what keys and queries are: unit vectors, elu + 1, or DPFP, the
last two divided by their sum under the delta rules (2102.11174).

Shapes: H heads, K key dim, F features of a key, E value dim.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least, require_choice
from mattt_jax.layers import linear_attention
from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import copied_param, full_param, normal_param
from mattt_jax.memory.base import BaseConfig, Gate, Memory, Pairs, ResidualRead

NORMALIZED = ("linear", "linear_delta")  # rules that read q S / q z
DECAYED = ("decayed_delta", "gated_delta")
RULES = (*NORMALIZED, "delta", *DECAYED)
FEATURES = ("unit", "elu", "dpfp")


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the associative memory."""

  rule: str = "decayed_delta"
  features: str = "unit"
  num_heads: int = 4
  key_dim: int = 16
  value_dim: int = 16
  dpfp_nu: int = 1  # features="dpfp" makes 2 key_dim dpfp_nu of key_dim
  decay: float = 0.999  # a token, at init (rules with a decay)
  # Reads a chunk by matrix products and a triangular solve, or else token by
  # token: the same result.
  chunkwise: bool = True

  SPLIT: ClassVar = {"num_heads": "tensor"}

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Associative":
    return Associative(self, dim, chunk, rngs)

  def check(self, experiment) -> None:
    super().check(experiment)
    require_choice("memory.rule", self.rule, RULES)
    require_choice("memory.features", self.features, FEATURES)
    for field in ("num_heads", "key_dim", "value_dim", "dpfp_nu"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require(0 < self.decay < 1, f"memory.decay={self.decay} must lie in (0, 1)")
    require(
      self.rule not in NORMALIZED or self.features != "unit",
      f"memory.features={self.features!r} may be negative, but memory.rule="
      f"{self.rule!r} divides by their sum: use 'elu' or 'dpfp'",
    )
    require(
      self.dpfp_nu < 2 * self.key_dim,
      f"memory.dpfp_nu={self.dpfp_nu} must be below 2 * memory.key_dim="
      f"{2 * self.key_dim}, or products repeat",
    )

  @property
  def num_features(self) -> int:
    """What a key of `key_dim` becomes."""
    if self.features == "dpfp":
      return 2 * self.key_dim * self.dpfp_nu
    return self.key_dim


@struct.dataclass
class State:
  """What is remembered."""

  matrix_HxFxE: Array
  normalizer_HxF: Array | None  # z, of the rules that divide by it

  AXES: ClassVar = {
    "matrix_HxFxE": ("tensor", None, None),
    "normalizer_HxF": ("tensor", None),
  }


class Associative(Memory):
  """Parameters: projections, write strength, decay, output gate."""

  def __init__(self, config: Config, dim: int, chunk: int, rngs: nnx.Rngs):
    self.config = config
    self.chunk = chunk
    self.dim = dim
    heads = config.num_heads
    keys, values = heads * config.key_dim, heads * config.value_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, keys), std)
    # Queries start as keys: what was bound in a similar context is recalled
    # from the first step on.
    self.wk = copied_param(self.wq)
    self.wv = normal_param(rngs, (dim, values), std)
    self.wo = normal_param(rngs, (values, dim), 1 / math.sqrt(values))
    if config.rule not in NORMALIZED:
      self.strength_bias = full_param(0, heads)
      self.strength_weight = full_param(0, dim, heads)
    bias = linear_attention.decay_bias(config.decay)
    if config.rule == "decayed_delta":
      self.decay_logit = full_param(-bias, heads)
    if config.rule == "gated_delta":
      self.decay_bias = full_param(bias, heads)
      self.decay_log_scale = full_param(0, heads)
      self.decay_weight = full_param(0, dim, heads)
    self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """Zeros, whatever the length."""
    c = self.config
    shape = c.num_heads, c.num_features
    return State(
      matrix_HxFxE=jnp.zeros((*shape, c.value_dim), jnp.float32),
      normalizer_HxF=(
        jnp.zeros(shape, jnp.float32) if c.rule in NORMALIZED else None
      ),
    )

  def read(self, state: State, hidden_CxD: Array) -> ResidualRead:
    """q S for each head, or q S / q z, projected back and gated."""
    hidden_CxD = self.norm(hidden_CxD)
    q_HxCxF = self._features(self._heads(hidden_CxD, self.wq))
    out_HxCxE = q_HxCxF @ state.matrix_HxFxE
    if state.normalizer_HxF is not None:
      sum_HxC = jnp.sum(q_HxCxF * state.normalizer_HxF[:, None], axis=-1)
      out_HxCxE = _divide(out_HxCxE, sum_HxC[..., None])
    out_CxHE = out_HxCxE.swapaxes(0, 1).reshape(len(hidden_CxD), -1)
    return self.gate(hidden_CxD, out_CxHE @ self.wo[...])

  def write(self, state: State, pairs: Pairs) -> State:
    """The rule over the tokens of the chunk, in order."""
    hidden_CxD = self.norm(pairs.hidden_CxD)
    valid_Cx1 = pairs.valid_C[:, None]
    k_HxCxF = self._features(self._heads(hidden_CxD, self.wk))
    k_HxCxF = jnp.where(valid_Cx1, k_HxCxF, 0.0)
    v_HxCxE = jnp.where(valid_Cx1, self._heads(pairs.value_CxD, self.wv), 0.0)
    erase_HxCxF, normalizer_HxF = None, state.normalizer_HxF
    if normalizer_HxF is not None:
      sums_HxC1xF = jnp.cumsum(
        jnp.concatenate([normalizer_HxF[:, None], k_HxCxF], axis=1), axis=1
      )
      normalizer_HxF = sums_HxC1xF[:, -1]
      if self.config.rule == "linear_delta":
        before_HxC = jnp.sum(k_HxCxF * sums_HxC1xF[:, :-1], axis=-1)
        erase_HxCxF = _divide(k_HxCxF, before_HxC[..., None])
    else:
      strength_CxH = jax.nn.sigmoid(
        self.strength_bias[...] + hidden_CxD @ self.strength_weight[...]
      )
      v_HxCxE *= strength_CxH.T[..., None]
      erase_HxCxF = strength_CxH.T[..., None] * k_HxCxF
    log_decay_HxC = jnp.where(valid_Cx1, self._log_decay(hidden_CxD), 0.0).T
    recurrence = (
      linear_attention.chunk_parallel
      if self.config.chunkwise
      else linear_attention.token_scan
    )
    matrix_HxFxE, _ = jax.vmap(recurrence)(
      state.matrix_HxFxE, k_HxCxF, v_HxCxE, log_decay_HxC, erase_HxCxF
    )
    return State(matrix_HxFxE, normalizer_HxF)

  def flops_per_token(self, context_length: int) -> float:
    """Projections, the rule, and one product with the matrix to read."""
    c, dim = self.config, self.dim
    projections = 2 * c.key_dim + 2 * c.value_dim  # q, k, v, out
    gates = int(c.rule not in NORMALIZED) + int(c.rule == "gated_delta")
    rule = linear_attention.flops_per_token(
      c.num_features,
      c.value_dim,
      self.chunk,
      erase=c.rule != "linear",
      chunkwise=c.chunkwise,
    )
    read = 2 * c.num_features * c.value_dim
    per_head = 2 * dim * (projections + gates) + rule + read
    return c.num_heads * per_head + 2 * dim  # and the output gate

  def _heads(self, x_CxD: Array, w) -> Array:
    y = x_CxD @ w[...]
    return y.reshape(len(y), self.config.num_heads, -1).swapaxes(0, 1)

  def _features(self, x_HxCxK: Array) -> Array:
    if self.config.features == "unit":
      return unit(x_HxCxK)
    if self.config.features == "elu":
      features = jax.nn.elu(x_HxCxK) + 1
    else:
      features = dpfp(x_HxCxK, self.config.dpfp_nu)
    if self.config.rule in NORMALIZED:
      return features
    return _divide(features, jnp.sum(features, axis=-1, keepdims=True))

  def _log_decay(self, hidden_CxD: Array) -> Array:
    shape = len(hidden_CxD), self.config.num_heads
    if self.config.rule == "decayed_delta":
      return jnp.broadcast_to(jax.nn.log_sigmoid(self.decay_logit[...]), shape)
    if self.config.rule == "gated_delta":
      return linear_attention.softplus_decay(
        self.decay_log_scale[...],
        hidden_CxD @ self.decay_weight[...] + self.decay_bias[...],
      )
    return jnp.zeros(shape)


def dpfp(x: Array, nu: int) -> Array:
  """Products of neighbours, [..., K] -> [..., 2 K nu] (DPFP, 2102.11174):
  r = relu([x, -x]), r_i r_(i+j) for j = 1 .. nu."""
  r = jax.nn.relu(jnp.concatenate([x, -x], axis=-1))
  return jnp.concatenate(
    [r * jnp.roll(r, -j, axis=-1) for j in range(1, nu + 1)], axis=-1
  )


def _divide(x: Array, total: Array) -> Array:
  """x / total, and 0 where there is nothing to divide by."""
  some = total > 1e-6
  return jnp.where(some, x / jnp.where(some, total, 1.0), 0.0)
