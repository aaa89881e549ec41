"""A matrix of slots, allocated by usage, as in the DNC (Graves et al. 2016).

A slot has a key part, which is addressed, and a value part, which is recalled.
One write head goes through the tokens in order; k unit, gates g in (0, 1):

    u    <- u (1 - (1 - r) g_w)                 usage: what is written ages it
    a     = free slots first: a[f_j] = (1 - u[f_j]) prod_{i<j} u[f_i],
            f_1, f_2, ... the slots by rising usage
    c     = content(M_key, k)                   slots that hold such a key
    w     = g_w (g_a a + (1 - g_a) c)
    M    <- M (1 - w e^T) + w [k, v]^T          erase, then add (NTM, 1410.5401)
    u    <- u + w - u w

and `num_heads` read heads average the value parts by

    content(M_key, q)[m] = u[m] exp(b cos(q, M_key[m])) / (exp(n) + sum_m ...)

with sharpness b = 1 + softplus(.) and a null score n (no null for c).

Unlike in the DNC, addresses and values are parts of their own; usage is a prior
of the content weights, so that an empty slot is never found; reads free
nothing, so that retention is one number for all slots; and the part of a that
finds no free slot, prod_i u[i], goes to the least used slot f_1: a full memory
OVERWRITES ITS LEAST USED SLOT. There are no temporal links.

Shapes: M slots, W width of each part, P = 2 W, H read heads.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least
from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import full_param, normal_param
from mattt_jax.memory.base import BaseConfig, Gate, Memory, Pairs, ResidualRead

_NO_NULL = -1e30  # score of what is never chosen; finite, so are gradients
_NOTHING = 1e-6  # weights and norms far below it fade to 0, not to 0 / 0
_OPEN = 3.0  # logit of the write, allocation and erase gates at init


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the slots."""

  capacity: int = 128  # slots, however long the context is
  width: int = 32  # of a slot's key, and of its value
  num_heads: int = 4  # that read; one head writes
  sharpness: float = 8.0  # b at init; learned, and looks at the token
  null_bias: float = 3.0  # n at init; likewise
  retention: float = 0.999  # r, of usage, for a token fully written; learned

  SPLIT: ClassVar = {"num_heads": "tensor"}

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Slots":
    return Slots(self, dim, rngs)

  def check(self, experiment) -> None:
    super().check(experiment)
    for field in ("capacity", "width", "num_heads"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require(
      self.sharpness > 1,
      f"memory.sharpness={self.sharpness} must be > 1: it is 1 + softplus(.)",
    )
    require(
      0 < self.retention < 1,
      f"memory.retention={self.retention} must lie in (0, 1)",
    )


@struct.dataclass
class State:
  """The slots (key part, then value part) and how far each is in use."""

  slot_MxP: Array
  usage_M: Array  # in [0, 1]; 0: empty

  AXES: ClassVar = {"slot_MxP": (), "usage_M": ()}


class Control(nnx.Module):
  """bias + x weight; looks at nothing but the bias at first."""

  def __init__(self, dim: int, size: int, bias: float):
    self.bias = full_param(bias, size)
    self.weight = full_param(0, dim, size)

  def __call__(self, x_CxD: Array) -> Array:
    return self.bias[...] + x_CxD @ self.weight[...]


class Slots(Memory):
  """Parameters: projections, controls of reading and writing, output gate."""

  def __init__(self, config: Config, dim: int, rngs: nnx.Rngs):
    self.config = config
    self.dim = dim
    heads, width = config.num_heads, config.width
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wk = normal_param(rngs, (dim, width), std)
    self.wv = normal_param(rngs, (dim, width), std)
    # Queries start as keys, of every head: only so is anything found at first.
    self.wq = nnx.Param(jnp.tile(self.wk[...], heads))
    self.wo = normal_param(
      rngs, (heads * width, dim), 1 / math.sqrt(heads * width)
    )
    sharpness = math.log(math.expm1(config.sharpness - 1))
    self.read_sharpness = Control(dim, heads, sharpness)
    self.read_null = Control(dim, heads, config.null_bias)
    self.write_sharpness = Control(dim, 1, sharpness)
    self.write_gate = Control(dim, 1, _OPEN)
    self.allocation_gate = Control(dim, 1, _OPEN)
    self.erase = Control(dim, 2 * width, _OPEN)
    retention = config.retention
    self.retention_logit = full_param(math.log(retention / (1 - retention)))
    self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """Empty slots, as many whatever the length."""
    c = self.config
    slot_MxP = jnp.zeros((c.capacity, 2 * c.width), jnp.float32)
    return State(slot_MxP, usage_M=jnp.zeros((c.capacity,), jnp.float32))

  def read(self, state: State, hidden_CxD: Array) -> ResidualRead:
    """What the read heads find, projected back and gated."""
    hidden_CxD = self.norm(hidden_CxD)
    heads, width = self.config.num_heads, self.config.width
    q_CxHxW = unit((hidden_CxD @ self.wq[...]).reshape(-1, heads, width))
    key_MxW, value_MxW = jnp.split(state.slot_MxP, 2, axis=-1)
    sharpness_CxH = 1 + jax.nn.softplus(self.read_sharpness(hidden_CxD))
    weight_CxHxM = content_weights(
      sharpness_CxH[..., None]
      * jnp.einsum("chw,mw->chm", q_CxHxW, _directions(key_MxW)),
      state.usage_M,
      self.read_null(hidden_CxD),
    )
    out_CxHxW = jnp.einsum("chm,mw->chw", weight_CxHxM, value_MxW)
    out_CxD = out_CxHxW.reshape(len(hidden_CxD), -1) @ self.wo[...]
    null_C = 1 - jnp.mean(jnp.sum(weight_CxHxM, axis=-1), axis=-1)
    return self.gate(hidden_CxD, out_CxD, null_C)

  def write(self, state: State, pairs: Pairs) -> State:
    """Writes the tokens of the chunk one after the other."""
    hidden_CxD = self.norm(pairs.hidden_CxD)
    k_CxW = unit(hidden_CxD @ self.wk[...])
    new_CxP = jnp.concatenate([k_CxW, pairs.value_CxD @ self.wv[...]], -1)
    sharpness_C = 1 + jax.nn.softplus(self.write_sharpness(hidden_CxD)[:, 0])
    gate_C = jax.nn.sigmoid(self.write_gate(hidden_CxD)[:, 0])
    # A closed gate changes nothing at all, and so padding changes nothing.
    gate_C = jnp.where(pairs.valid_C, gate_C, 0.0)
    allocate_C = jax.nn.sigmoid(self.allocation_gate(hidden_CxD)[:, 0])
    erase_CxP = jax.nn.sigmoid(self.erase(hidden_CxD))
    forgetting = jax.nn.sigmoid(-self.retention_logit[...])

    def step(state, token):
      new_P, erase_P, sharpness, gate, allocate = token
      usage_M = state.usage_M * (1 - forgetting * gate)
      key_MxW = state.slot_MxP[:, : self.config.width]
      cosine_M = _directions(key_MxW) @ new_P[: self.config.width]
      content_M = content_weights(sharpness * cosine_M, usage_M)
      weight_M = gate * (
        allocate * allocation_weights(usage_M) + (1 - allocate) * content_M
      )
      weight_Mx1 = weight_M[:, None]
      slot_MxP = state.slot_MxP * (1 - weight_Mx1 * erase_P)
      usage_M = usage_M + weight_M - usage_M * weight_M
      return State(slot_MxP + weight_Mx1 * new_P, usage_M), None

    tokens = (new_CxP, erase_CxP, sharpness_C, gate_C, allocate_C)
    return jax.lax.scan(step, state, tokens)[0]

  def flops_per_token(self, context_length: int) -> float:
    """Matrix products of a read and a write of one token."""
    c, dim = self.config, self.dim
    read = dim * (2 * c.num_heads * c.width + 2 * c.num_heads + 1)
    read += 2 * c.num_heads * c.capacity * c.width
    write = dim * (4 * c.width + 3) + c.capacity * c.width
    return 2.0 * (read + write)


def allocation_weights(usage_M: Array) -> Array:
  """Where a new pair goes, [M], sums to 1: free slots by rising usage (DNC,
  eq. of a_t), and what finds none to the least used slot. Ties: the first.

  The order has no gradient; usage has one through what is gathered by it.
  """
  order_M = jnp.argsort(jax.lax.stop_gradient(usage_M))
  sorted_M = usage_M[order_M]
  used_M = jnp.cumprod(sorted_M)
  before_M = jnp.concatenate([jnp.ones_like(used_M[:1]), used_M[:-1]])
  weight_M = ((1 - sorted_M) * before_M).at[0].add(used_M[-1])
  return weight_M[jnp.argsort(order_M)]  # a gather; scatters are slower


def content_weights(
  score: Array, usage_M: Array, null: Array | float = _NO_NULL
) -> Array:
  """u exp(s) / (exp(n) + sum_m u exp(s)): a softmax over slots and null.

  Args:
    score: [..., M], sharpness times cosine.
    usage_M: 0: a slot that has no share at all.
    null: [...], score of "none of them".

  Returns:
    [..., M]; all 0 if nothing is in use.
  """
  score = jnp.where(usage_M > 0, score, _NO_NULL)
  # Its gradient counts: beside _NOTHING, the largest does not quite cancel.
  top = jnp.maximum(jnp.max(score, axis=-1), null)
  weight = usage_M * jnp.exp(score - top[..., None])
  total = jnp.exp(null - top) + _NOTHING + jnp.sum(weight, axis=-1)
  return weight / total[..., None]


def _directions(key_MxW: Array) -> Array:
  """Unit keys; those of hardly written slots fade to 0, with moderate first and
  second gradients."""
  square_Mx1 = jnp.sum(jnp.square(key_MxW), axis=-1, keepdims=True)
  return key_MxW * jax.lax.rsqrt(square_Mx1 + _NOTHING)
