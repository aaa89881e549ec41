"""A matrix a head that maps addresses to values, written by the delta rule.

    S_t = a_t S_{t-1} + b_t k_t (v_t - k_t a_t S_{t-1})      read: q S

with unit keys and queries, write strength b_t = sigmoid(.) of the hidden state
and a learned decay a_t a head, so that the state keeps its size however long
the context is (fast weight programmers 2102.11174; gated delta rule
2412.06464).

Shapes: H heads, K key dim, E value dim.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least
from mattt_jax.memory.base import (
  BaseConfig,
  Gate,
  Memory,
  Pairs,
  ResidualRead,
)
from mattt_jax.model.layers import RMSNorm, normal_param, unit


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the associative memory."""

  num_heads: int = 4
  key_dim: int = 16
  value_dim: int = 16
  decay: float = 0.999  # a token, at init; learned for each head

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Associative":
    """The module of one suffix block."""
    del chunk
    return Associative(self, dim, rngs)

  def check(self, experiment) -> None:
    """Raises `ValueError` naming the field that does not fit."""
    super().check(experiment)
    for field in ("num_heads", "key_dim", "value_dim"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require(0 < self.decay < 1, f"memory.decay={self.decay} must lie in (0, 1)")


@struct.dataclass
class State:
  """What is remembered, and nothing else."""

  matrix_HxKxE: Array


class Associative(Memory):
  """Parameters: projections, write strength, decay, output gate."""

  def __init__(self, config: Config, dim: int, rngs: nnx.Rngs):
    self.config = config
    heads = config.num_heads
    keys, values = heads * config.key_dim, heads * config.value_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, keys), std)
    self.wk = normal_param(rngs, (dim, keys), std)
    self.wv = normal_param(rngs, (dim, values), std)
    self.wo = normal_param(rngs, (values, dim), 1 / math.sqrt(values))
    self.strength_bias = nnx.Param(jnp.zeros((heads,), jnp.float32))
    self.strength_weight = nnx.Param(jnp.zeros((dim, heads), jnp.float32))
    logit = math.log(config.decay / (1 - config.decay))
    self.decay_logit = nnx.Param(jnp.full((heads,), logit, jnp.float32))
    self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """A zero matrix a head, whatever the length."""
    del context_length
    c = self.config
    return State(jnp.zeros((c.num_heads, c.key_dim, c.value_dim), jnp.float32))

  def read(self, state: State, hidden_CxD: Array) -> ResidualRead:
    """q S for each head, projected back and gated."""
    hidden_CxD = self.norm(hidden_CxD)
    q_CxHxK = unit(self._heads(hidden_CxD, self.wq))
    out_CxHxE = jnp.einsum("chk,hke->che", q_CxHxK, state.matrix_HxKxE)
    out_CxD = out_CxHxE.reshape(len(hidden_CxD), -1) @ self.wo[...]
    return self.gate(hidden_CxD, out_CxD)

  def write(self, state: State, pairs: Pairs) -> State:
    """The delta rule over the tokens of the chunk, in order."""
    hidden_CxD = self.norm(pairs.hidden_CxD)
    k_CxHxK = unit(self._heads(hidden_CxD, self.wk))
    v_CxHxE = self._heads(pairs.value_CxD, self.wv)
    strength_CxH = jax.nn.sigmoid(
      self.strength_bias[...] + hidden_CxD @ self.strength_weight[...]
    )
    decay_H = jax.nn.sigmoid(self.decay_logit[...])

    def step(matrix_HxKxE, x):
      k_HxK, v_HxE, strength_H, valid = x
      kept_HxKxE = decay_H[:, None, None] * matrix_HxKxE
      error_HxE = v_HxE - jnp.einsum("hk,hke->he", k_HxK, kept_HxKxE)
      new_HxKxE = kept_HxKxE + strength_H[:, None, None] * (
        k_HxK[:, :, None] * error_HxE[:, None, :]
      )
      return jnp.where(valid, new_HxKxE, matrix_HxKxE), None

    matrix_HxKxE, _ = jax.lax.scan(
      step,
      state.matrix_HxKxE,
      (k_CxHxK, v_CxHxE, strength_CxH, pairs.valid_C),
    )
    return State(matrix_HxKxE)

  def _heads(self, x_CxD: Array, w) -> Array:
    return (x_CxD @ w[...]).reshape(len(x_CxD), self.config.num_heads, -1)
