"""A matrix a head, to which each pair adds its key times its value."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.layers.parameters import normal_param
from mattt_jax.memory.base import BaseConfig, Gate, Memory, ResidualRead


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  num_heads: int = 4  # a setting: --config.memory.num_heads=8
  head_dim: int = 16

  SPLIT: ClassVar = {"num_heads": "tensor"}  # which must divide it

  def make(self, dim, chunk, rngs):
    return Example(self, dim, rngs)


@struct.dataclass
class State:
  matrix_HxKxE: Array

  AXES: ClassVar = {"matrix_HxKxE": ("tensor", None, None)}  # of the mesh


class Example(Memory):
  def __init__(self, config, dim, rngs):
    self.config, self.dim = config, dim
    width = config.num_heads * config.head_dim
    self.wk = normal_param(rngs, (dim, width), dim**-0.5)
    self.wv = normal_param(rngs, (dim, width), dim**-0.5)
    self.wo = normal_param(rngs, (width, dim), width**-0.5)
    self.gate = Gate(config, dim)

  def init_state(self, context_length) -> State:
    heads, size = self.config.num_heads, self.config.head_dim
    return State(jnp.zeros((heads, size, size)))

  def read(self, state, hidden_CxD) -> ResidualRead:
    key_CxHxK = self._heads(hidden_CxD, self.wk)
    out_CxHxE = jnp.einsum("chk,hke->che", key_CxHxK, state.matrix_HxKxE)
    out_CxHE = out_CxHxE.reshape(len(hidden_CxD), -1)
    return self.gate(hidden_CxD, out_CxHE @ self.wo[...])

  def write(self, state, pairs) -> State:
    key_CxHxK = self._heads(pairs.hidden_CxD, self.wk)
    key_CxHxK = jnp.where(pairs.valid_C[:, None, None], key_CxHxK, 0.0)
    value_CxHxE = self._heads(pairs.value_CxD, self.wv)
    added_HxKxE = jnp.einsum("chk,che->hke", key_CxHxK, value_CxHxE)
    return State(state.matrix_HxKxE + added_HxKxE)

  def flops_per_token(self, context_length) -> float:
    width = self.config.num_heads * self.config.head_dim
    projections = 4 * self.dim * width + self.dim  # of two keys; the gate
    return 2.0 * (projections + 2 * width * self.config.head_dim)

  def _heads(self, x_CxD, w) -> Array:
    return (x_CxD @ w[...]).reshape(len(x_CxD), self.config.num_heads, -1)
