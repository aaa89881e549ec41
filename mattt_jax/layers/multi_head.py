"""Multi-head attention: projections and cache around `attention.attend`.

Shapes: C tokens read at once, P cached ones, S = P + C, D model, H heads,
K head dim.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.layers import attention, splash
from mattt_jax.layers.attention import KVCache
from mattt_jax.layers.norms import make_norm
from mattt_jax.layers.parameters import normal_param


class Attention(nnx.Module):
  """Multi-head attention with qk-norm and RoPE, over a window or in full."""

  def __init__(
    self, config: ModelConfig, rngs: nnx.Rngs, *, prefix: bool = False
  ):
    """`prefix`: differentiated only once, so that a kernel may compute it."""
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
        # A program for TPUs has the kernel.
        return jax.lax.platform_dependent(
          *args,
          tpu=functools.partial(splash.attend, window=self.window),
          default=functools.partial(attention.attend, window=self.window),
        )
    return attention.attend(*args, self.window)
