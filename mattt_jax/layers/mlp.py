"""The gated MLP of a block. Shapes: C tokens, D model, F hidden."""

import jax
from flax import nnx
from jax import Array

from mattt_jax.layers.parameters import normal_param


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
