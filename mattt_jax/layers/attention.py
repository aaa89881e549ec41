"""Causal attention over a window, in blocks, with a key-value cache.

Shapes: L tokens read, P past positions in the cache, S = P + L, H heads,
K head dim, W window, n blocks of b queries.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.recompute import recomputed

_MASKED = -1e30  # finite: -inf would give nan in second derivatives
# Queries of a block, for short and for long windows: 64 of them keep the scores
# in a CPU's cache (benchmarks/meta_step.py).
_BLOCKS = (64, 512)


@struct.dataclass
class KVCache:
  """Keys (after qk-norm, before RoPE) and values of the last P positions."""

  k_HxPxK: Array
  v_HxPxK: Array

  AXES: ClassVar = {
    "k_HxPxK": ("tensor", None, None),
    "v_HxPxK": ("tensor", None, None),
  }


def init_cache(
  heads: int, length: int, head_dim: int, dtype=jnp.float32
) -> KVCache:
  """An empty cache of `length` positions."""
  zeros = jnp.zeros((heads, length, head_dim), dtype)
  return KVCache(zeros, zeros)


def rope(x_HxLxK: Array, theta: float, start: int = 0) -> Array:
  """Rotates the channel pairs (2i, 2i+1) by position * theta^(-2i/K), at the
  positions start .. start+L-1 (RoFormer, 2104.09864). Scores depend on
  differences only, so that positions may be counted from any token."""
  length, dim = x_HxLxK.shape[-2:]
  dtype = jnp.promote_types(x_HxLxK.dtype, jnp.float32)
  frequency_K = theta ** (-jnp.arange(0, dim, 2, dtype=dtype) / dim)
  angle_LxK = jnp.repeat(
    (start + jnp.arange(length, dtype=dtype))[:, None] * frequency_K, 2, axis=-1
  )
  even_K = jnp.arange(dim) % 2 == 0
  x = x_HxLxK.astype(dtype)
  rotated = jnp.where(even_K, -jnp.roll(x, -1, -1), jnp.roll(x, 1, -1))
  out = x * jnp.cos(angle_LxK) + rotated * jnp.sin(angle_LxK)
  return out.astype(x_HxLxK.dtype)


def attend(
  q_HxLxK: Array,
  k_HxSxK: Array,
  v_HxSxK: Array,
  position: Array | int,
  window: int | None,
) -> Array:
  """Softmax attention of the last L of S positions, [H, L, K].

  Token i sees itself and the `window` - 1 before it (None: all before it).
  `position` is the absolute position of the first query; keys before position
  0 are empty cache slots.

  Each block of queries meets the keys in its reach: O(L (W + b)) time with a
  window. Scores, in float32, exist for one block at a time; a backward pass
  recomputes them. It may be differentiated any number of times.
  """
  length = q_HxLxK.shape[1]
  past = k_HxSxK.shape[1] - length
  block = min(length, block_size(window))
  n = math.ceil(length / block)
  reach = past  # keys before the first query of a block that it may see
  if window is not None:
    reach = math.ceil((window - 1) / block) * block
  back = (0, n * block - length)
  q_nxHxbxK = _padded(q_HxLxK, back).reshape(-1, n, block, q_HxLxK.shape[-1])
  q_nxHxbxK = q_nxHxbxK.swapaxes(0, 1)
  kv = [
    _padded(x[:, max(0, past - reach) :], (max(0, reach - past), back[1]))
    for x in (k_HxSxK, v_HxSxK)
  ]

  def read(i, q_HxbxK):
    start = i * block
    (k, v), first = kv, position - past
    if window is not None:
      k, v = (
        jax.lax.dynamic_slice_in_dim(x, start, reach + block, 1) for x in kv
      )
      first = position + start - reach
    return _attend_block(q_HxbxK, k, v, position + start, first, window)

  if n == 1:
    return read(0, q_nxHxbxK[0])
  read = recomputed(read)
  _, out_nxHxbxK = jax.lax.scan(
    lambda _, x: (None, read(*x)), None, (jnp.arange(n), q_nxHxbxK)
  )
  out = out_nxHxbxK.swapaxes(0, 1)
  return out.reshape(out.shape[0], n * block, -1)[:, :length]


def block_size(window: int | None) -> int:
  """Queries of a block: few, to see few keys outside of the window."""
  short, long = _BLOCKS
  if window is None:
    return long
  return min(window, max(short, min(window // 16, long)))


def _padded(x_HxLxK: Array, by: tuple[int, int]) -> Array:
  return jnp.pad(x_HxLxK, ((0, 0), by, (0, 0)))


def _attend_block(q_HxbxK, k_HxsxK, v_HxsxK, position, key_position, window):
  """Attention of b queries from `position` on over s keys from `key_position`
  on."""
  dtype = jnp.promote_types(q_HxbxK.dtype, jnp.float32)
  scores = jnp.einsum(
    "hqk,hsk->hqs", q_HxbxK, k_HxsxK, preferred_element_type=dtype
  )
  key_s = key_position + jnp.arange(k_HxsxK.shape[1])
  back_bxs = (position + jnp.arange(q_HxbxK.shape[1]))[:, None] - key_s
  seen_bxs = (back_bxs >= 0) & (key_s >= 0)
  if window is not None:
    seen_bxs &= back_bxs < window
  scores = jnp.where(seen_bxs, scores / math.sqrt(q_HxbxK.shape[-1]), _MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v_HxsxK.dtype)
  return jnp.einsum("hqs,hsk->hqk", weights, v_HxsxK)
