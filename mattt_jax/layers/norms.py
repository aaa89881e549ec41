"""Norms and unit vectors along the last axis, of any shape."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


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


class Identity(nnx.Module):
  """What replaces a norm that is switched off."""

  def __call__(self, x: Array) -> Array:
    return x


def make_norm(use: bool, dim: int, eps: float) -> RMSNorm | Identity:
  """RMSNorm, or the identity where the norm is switched off."""
  return RMSNorm(dim, eps) if use else Identity()


def unit(x: Array) -> Array:
  """x / |x| along the last axis, with a finite gradient at 0."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-12)


def vector_norm(x: Array) -> Array:
  """|x| along the last axis, with a finite gradient at 0."""
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1) + 1e-12)
