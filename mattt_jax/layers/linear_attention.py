"""Linear recurrences over a matrix state: linear attention, delta rules.

All are one recurrence of each head,

    S_t = a_t S_{t-1} + k_t^T u_t,    u_t = v_t - e_t (a_t S_{t-1})
    o_t = q_t S_t

with a key k, a value v, a decay a and an erase key e. With write strength b:

    linear attention (2006.16236)     a = 1    e = 0       v
    delta rule (2102.11174)           a = 1    e = b k     b v
    gated delta rule (2412.06464)     a = a_t  e = b k     b v
    Infini delta (2404.07143)         a = 1    e = k / (k z_{t-1})    v

A token with k = 0, e = 0, a = 1 changes nothing. Decays are given as logs.

Shapes: T tokens, K key dim, E value dim, H heads, C tokens of a chunk, D model.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import full_param, normal_param


def token_scan(
  state_KxE: Array,
  k_TxK: Array,
  v_TxE: Array,
  log_decay_T: Array,
  erase_TxK: Array | None = None,
  q_TxK: Array | None = None,
) -> tuple[Array, Any]:
  """The recurrence of one head, token by token.

  Args:
    state_KxE: S_0.
    k_TxK: keys.
    v_TxE: values.
    log_decay_T: log a_t <= 0.
    erase_TxK: erase keys; None: nothing is erased.
    q_TxK: queries; None: nothing is read.

  Returns:
    S_T, and what each query read, its own token included, [T, E] or None.
  """

  def step(state_KxE, token):
    k_K, v_E, log_decay, erase_K, q_K = token
    kept_KxE = jnp.exp(log_decay) * state_KxE
    if erase_K is not None:
      v_E = v_E - erase_K @ kept_KxE
    state_KxE = kept_KxE + k_K[:, None] @ v_E[None, :]
    return state_KxE, None if q_K is None else q_K @ state_KxE

  return jax.lax.scan(
    step, state_KxE, (k_TxK, v_TxE, log_decay_T, erase_TxK, q_TxK)
  )


def chunk_parallel(
  state_KxE: Array,
  k_TxK: Array,
  v_TxE: Array,
  log_decay_T: Array,
  erase_TxK: Array | None = None,
  q_TxK: Array | None = None,
) -> tuple[Array, Any]:
  """`token_scan` as matrix products and one triangular solve.

  With G_t = a_1 .. a_t and D_ti = G_t / G_i for i <= t (else 0), unrolling
  gives S_t = G_t S_0 + sum_i D_ti k_i^T u_i, and so

      (I + strictly lower(D * E K')) U = V - G * (E S_0)
      O = G * (Q S_0) + (D * Q K') U

  (the WY form of 2406.06484, with decay 2412.06464, section 3.3).
  """
  total_T = jnp.cumsum(log_decay_T)
  gap_TxT = total_T[:, None] - total_T[None, :]
  # Above the diagonal the exponent is positive and would overflow.
  lower_TxT = jnp.tril(jnp.ones(gap_TxT.shape, bool))
  decay_TxT = jnp.exp(jnp.where(lower_TxT, gap_TxT, 0.0)) * lower_TxT
  since_start_Tx1 = jnp.exp(total_T)[:, None]
  u_TxE = v_TxE
  if erase_TxK is not None:
    # The solve takes the diagonal as ones and reads what is below it.
    u_TxE = jax.lax.linalg.triangular_solve(
      decay_TxT * (erase_TxK @ k_TxK.T),
      v_TxE - since_start_Tx1 * (erase_TxK @ state_KxE),
      left_side=True,
      lower=True,
      unit_diagonal=True,
    )
  out_TxE = None
  if q_TxK is not None:
    out_TxE = since_start_Tx1 * (q_TxK @ state_KxE)
    out_TxE += (decay_TxT * (q_TxK @ k_TxK.T)) @ u_TxE
  kept_KxT = k_TxK.T * decay_TxT[-1]
  return since_start_Tx1[-1] * state_KxE + kept_KxT @ u_TxE, out_TxE


def flops_per_token(
  key_dim: int, value_dim: int, chunk: int, *, erase: bool, chunkwise: bool
) -> float:
  """FLOPs of the matrix products of one head's recurrence without queries; the
  triangular solve takes chunk^2 value_dim a chunk."""
  state = 2 * key_dim * value_dim
  if not erase:
    return state
  solve = 2 * chunk * key_dim + chunk * value_dim if chunkwise else 0
  return 2 * state + solve


def softplus_decay(a: Array, x: Array) -> Array:
  """log a_t = -exp(A) softplus(x), <= 0 (2412.06464, after 2405.21060)."""
  return -jnp.exp(a) * jax.nn.softplus(x)


def decay_bias(decay: float) -> float:
  """The x at which `softplus_decay` with A = 0 gives that decay a token."""
  return math.log(1 / decay - 1)


CONVOLUTION = 4  # tokens that the short convolution sees, the last its own


@struct.dataclass
class DeltaCache:
  """The matrix of each head, and the tokens that the short convolutions of q, k
  and v still see."""

  matrix_HxKxK: Array
  recent_3xPxD: Array  # P = CONVOLUTION - 1

  AXES: ClassVar = {
    "matrix_HxKxK": ("tensor", None, None),
    "recent_3xPxD": (None, None, "tensor"),
  }


def init_cache(heads: int, head_dim: int, dtype=jnp.float32) -> DeltaCache:
  """Zeros, of a size without the length; float32 or wider, for sums."""
  dtype = jnp.promote_types(dtype, jnp.float32)
  return DeltaCache(
    jnp.zeros((heads, head_dim, head_dim), dtype),
    jnp.zeros((3, CONVOLUTION - 1, heads * head_dim), dtype),
  )


class GatedDeltaNet(nnx.Module):
  """Token mixer: the gated delta rule in place of attention (2412.06464).

  A token reads what it and all before it wrote. As published, q, k and v pass a
  short causal convolution of each channel before their nonlinearity.
  """

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    dim, std, heads = config.dim, config.init_std, config.num_heads
    self.heads = heads
    self.wq = normal_param(rngs, (dim, dim), std)
    self.wk = normal_param(rngs, (dim, dim), std)
    self.wv = normal_param(rngs, (dim, dim), std)
    self.wg = normal_param(rngs, (dim, dim), std)
    self.wo = normal_param(rngs, (dim, dim), std)
    shape, most = (3, CONVOLUTION, dim), 1 / math.sqrt(CONVOLUTION)
    self.convolution = nnx.Param(
      jax.random.uniform(rngs.params(), shape, jnp.float32, -most, most)
    )
    self.strength_weight = normal_param(rngs, (dim, heads), std)
    self.decay_weight = normal_param(rngs, (dim, heads), std)
    self.decay_log_scale = full_param(0, heads)
    # Heads start with memories of about 10 to 1000 tokens.
    steps = [10 ** (1 + 2 * i / max(1, heads - 1)) for i in range(heads)]
    self.decay_bias = nnx.Param(
      jnp.asarray([decay_bias(1 - 1 / n) for n in steps], jnp.float32)
    )
    self.out_norm = RMSNorm(config.head_dim, config.norm_eps)

  def __call__(
    self, x_CxD: Array, cache: DeltaCache | None, position: Array | int
  ) -> tuple[Array, DeltaCache | None]:
    """Reads C tokens; cache None: no past. `position` does not matter."""

    def project(w):
      y = x_CxD @ w[...].astype(x_CxD.dtype)
      return y.astype(jnp.promote_types(y.dtype, jnp.float32))

    def heads(y_CxD):
      return y_CxD.reshape(len(x_CxD), self.heads, -1).swapaxes(0, 1)

    qkv_3xCxD = jnp.stack([project(w) for w in (self.wq, self.wk, self.wv)])
    head_dim = x_CxD.shape[-1] // self.heads
    past = cache or init_cache(self.heads, head_dim, qkv_3xCxD.dtype)
    seen_3xTxD = jnp.concatenate([past.recent_3xPxD, qkv_3xCxD], axis=1)
    windows = [seen_3xTxD[:, i : i + len(x_CxD)] for i in range(CONVOLUTION)]
    kernel = self.convolution[...]
    qkv_3xCxD = jnp.einsum("spd,pscd->scd", kernel, jnp.stack(windows))
    q_HxCxK, k_HxCxK, v_HxCxK = map(heads, jax.nn.silu(qkv_3xCxD))
    q_HxCxK, k_HxCxK = unit(q_HxCxK), unit(k_HxCxK)
    strength_HxCx1 = jax.nn.sigmoid(heads(project(self.strength_weight)))
    log_decay_HxC = softplus_decay(
      self.decay_log_scale[...],
      project(self.decay_weight) + self.decay_bias[...],
    ).T
    v_HxCxK, erase_HxCxK = strength_HxCx1 * v_HxCxK, strength_HxCx1 * k_HxCxK
    matrix_HxKxK, out_HxCxK = jax.vmap(chunk_parallel)(
      past.matrix_HxKxK, k_HxCxK, v_HxCxK, log_decay_HxC, erase_HxCxK, q_HxCxK
    )
    gate_HxCxK = jax.nn.silu(heads(project(self.wg)))
    out_HxCxK = self.out_norm(out_HxCxK) * gate_HxCxK
    out_CxD = out_HxCxK.swapaxes(0, 1).reshape(x_CxD.shape)
    out_CxD = out_CxD.astype(x_CxD.dtype) @ self.wo[...].astype(x_CxD.dtype)
    if cache is not None:
      cache = DeltaCache(matrix_HxKxK, seen_3xTxD[:, 1 - CONVOLUTION :])
    return out_CxD, cache
