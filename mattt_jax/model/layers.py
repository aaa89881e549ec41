"""The parts of a block (RMSNorm, SwiGLU, attention), and stacks of blocks.

Shapes: C tokens read at once, D model, F hidden, H heads, K head dim.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.model import attention, splash
from mattt_jax.model.attention import KVCache
from mattt_jax.recompute import recomputed

M = TypeVar("M", bound=nnx.Module)


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], std: float):
  """A float32 parameter drawn from N(0, std^2)."""
  return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


def rms_normalize(x: Array, eps: float) -> Array:
  """x / rms(x) along the last axis, in float32 (or wider)."""
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean_square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
  return y * jax.lax.rsqrt(mean_square + eps)


class RMSNorm(nnx.Module):
  """scale * x / rms(x), computed in float32 (1910.07467)."""

  def __init__(self, dim: int, eps: float):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))

  def __call__(self, x: Array) -> Array:
    return (rms_normalize(x, self.eps) * self.scale[...]).astype(x.dtype)


def unit(x: Array) -> Array:
  """x / |x| along the last axis, with a finite gradient at 0."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-12)


def vector_norm(x: Array) -> Array:
  """|x| along the last axis, with a finite gradient at 0."""
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1) + 1e-12)


class Identity(nnx.Module):
  """Stands where a norm is switched off."""

  def __call__(self, x: Array) -> Array:
    return x


class SwiGLU(nnx.Module):
  """w2(silu(x w1) * (x w3)) (2002.05202)."""

  def __init__(self, dim: int, hidden: int, std: float, rngs: nnx.Rngs):
    self.w1 = normal_param(rngs, (dim, hidden), std)
    self.w2 = normal_param(rngs, (hidden, dim), std)
    self.w3 = normal_param(rngs, (dim, hidden), std)

  def __call__(self, x_CxD: Array) -> Array:
    dtype = x_CxD.dtype
    up_CxF = jax.nn.silu(x_CxD @ self.w1[...].astype(dtype)) * (
      x_CxD @ self.w3[...].astype(dtype)
    )
    return up_CxF @ self.w2[...].astype(dtype)


class Attention(nnx.Module):
  """Multi-head attention with qk-norm and RoPE, over a window or in full."""

  def __init__(
    self, config: ModelConfig, rngs: nnx.Rngs, *, prefix: bool = False
  ):
    """`prefix`: it is differentiated once, so that a kernel may do it."""
    dim, std = config.dim, config.init_std
    self.how = config.prefix_attention if prefix else "banded"
    self.heads = config.num_heads
    self.theta = config.rope_theta
    self.window = config.window if config.attention == "window" else None
    self.wq = normal_param(rngs, (dim, dim), std)
    self.wk = normal_param(rngs, (dim, dim), std)
    self.wv = normal_param(rngs, (dim, dim), std)
    self.wo = normal_param(rngs, (dim, dim), std)
    self.q_norm = make_norm(config.qk_norm, config.head_dim, config.norm_eps)
    self.k_norm = make_norm(config.qk_norm, config.head_dim, config.norm_eps)

  def __call__(
    self, x_CxD: Array, cache: KVCache | None, position: Array | int
  ) -> tuple[Array, KVCache | None]:
    """Reads C tokens from absolute `position` on; cache None: no past."""

    def heads(w):
      y = x_CxD @ w[...].astype(x_CxD.dtype)
      return y.reshape(len(y), self.heads, -1).swapaxes(0, 1)

    q = self.q_norm(heads(self.wq))
    k = self.k_norm(heads(self.wk))
    v = heads(self.wv)
    past = 0
    if cache is not None:
      past = cache.k_HxPxK.shape[1]
      k = jnp.concatenate([cache.k_HxPxK, k], axis=1)
      v = jnp.concatenate([cache.v_HxPxK, v], axis=1)
      tail = k.shape[1] - past
      cache = KVCache(k[:, tail:], v[:, tail:])
    # Positions restart at the oldest key (see `rope`); queries come last.
    k = attention.rope(k, self.theta)
    q = attention.rope(q, self.theta, start=past)
    out_HxCxK = self._attend(q, k, v, position)
    out_CxD = out_HxCxK.swapaxes(0, 1).reshape(x_CxD.shape)
    return out_CxD @ self.wo[...].astype(x_CxD.dtype), cache

  def _attend(self, q_HxCxK, k_HxSxK, v_HxSxK, position) -> Array:
    length, past = q_HxCxK.shape[1], k_HxSxK.shape[1] - q_HxCxK.shape[1]
    args = q_HxCxK, k_HxSxK, v_HxSxK, position
    if self.window is not None:
      if self.how == "splash":
        return splash.attend(*args, self.window)
      if self.how == "auto" and splash.fits(length, past):
        return splash.on_tpu(*args, self.window)
    return attention.attend(*args, self.window)


def make_norm(use: bool, dim: int, eps: float) -> RMSNorm | Identity:
  """RMSNorm, or the identity where the norm is switched off."""
  return RMSNorm(dim, eps) if use else Identity()


def stack(make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
  """One module that holds `count` of them, each array stacked on axis 0."""
  keys = jax.random.split(rngs.params(), count)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  states = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys)
  return nnx.merge(graphdef, states)


def repeat(tree, count: int):
  """Each array `count` times, stacked on axis 0: one state a layer."""
  return jax.tree.map(lambda x: jnp.stack([x] * count), tree)


def scan_stack(
  stacked: nnx.Module,
  step: Callable,
  carry,
  xs,
  *,
  unroll: int = 1,
  remat: bool = False,
):
  """`lax.scan` of `step(layer, carry, x) -> (carry, y)` over the layers.

  `remat` recomputes a layer in the backward pass instead of storing it.
  """
  graphdef, state = nnx.split(stacked)

  def body(carry, layer_and_x):
    layer, x = layer_and_x
    return step(nnx.merge(graphdef, layer), carry, x)

  if remat:
    body = recomputed(body)
  return jax.lax.scan(body, carry, (state, xs), unroll=unroll)
