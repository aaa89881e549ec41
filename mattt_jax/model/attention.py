"""Causal attention over a window, in blocks, with a key-value cache.

Shapes: L tokens read, P past positions in the cache, S = P + L, H heads,
K head dim, W window, n blocks of b queries.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

_MASKED = -1e30  # finite: -inf would give nan in second derivatives
_BLOCK = 64  # queries of a block, at most


@struct.dataclass
class KVCache:
  """Keys (after qk-norm, before RoPE) and values of the last P positions."""

  k_HxPxK: Array
  v_HxPxK: Array


def init_cache(
  heads: int, length: int, head_dim: int, dtype=jnp.float32
) -> KVCache:
  """An empty cache of `length` positions."""
  zeros = jnp.zeros((heads, length, head_dim), dtype)
  return KVCache(zeros, zeros)


def rope(x_HxLxK: Array, theta: float, start: int = 0) -> Array:
  """Rotates the channel pairs (2i, 2i+1) by position * theta^(-2i/K).

  Positions are start .. start+L-1. Scores depend on differences only, so
  positions may be counted from any token (RoFormer, 2104.09864).
  """
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
  0 are empty cache slots. With a window the cost is O(L (W + b)) time and
  memory: queries are cut in blocks, and a block only meets the keys in reach.
  """
  length = q_HxLxK.shape[1]
  past = k_HxSxK.shape[1] - length
  block = _BLOCK if window is None else min(window, _BLOCK)
  if window is None or length <= block:
    if window is not None and past >= window:
      cut = past - (window - 1)
      k_HxSxK, v_HxSxK = k_HxSxK[:, cut:], v_HxSxK[:, cut:]
      past = window - 1
    return _attend_blocks(
      q_HxLxK[:, None],
      k_HxSxK[:, None],
      v_HxSxK[:, None],
      past,
      position,
      window,
    )[:, 0]

  n = math.ceil(length / block)
  reach = math.ceil((window - 1) / block)  # key blocks before a query block

  def key_blocks(x_HxSxK):
    """[H, n, (reach + 1) b, K]: what each block of queries may see."""
    if past > reach * block:
      x_HxSxK = x_HxSxK[:, past - reach * block :]
    front = max(0, reach * block - past)
    x = jnp.pad(x_HxSxK, ((0, 0), (front, n * block - length), (0, 0)))
    x = x.reshape(x.shape[0], n + reach, block, x.shape[-1])
    return jnp.concatenate([x[:, j : j + n] for j in range(reach + 1)], axis=2)

  q = jnp.pad(q_HxLxK, ((0, 0), (0, n * block - length), (0, 0)))
  q = q.reshape(q.shape[0], n, block, q.shape[-1])
  out = _attend_blocks(
    q, key_blocks(k_HxSxK), key_blocks(v_HxSxK), reach * block, position, window
  )
  return out.reshape(out.shape[0], n * block, -1)[:, :length]


def _attend_blocks(q_HxnxbxK, k_HxnxsxK, v_HxnxsxK, past, position, window):
  """Attention within each block; its first query is key number `past`."""
  _, n, b, dim = q_HxnxbxK.shape
  s = k_HxnxsxK.shape[2]
  dtype = jnp.promote_types(q_HxnxbxK.dtype, jnp.float32)
  scores = jnp.einsum(
    "hnqk,hnsk->hnqs", q_HxnxbxK, k_HxnxsxK, preferred_element_type=dtype
  )
  back = past + jnp.arange(b)[:, None] - jnp.arange(s)[None, :]
  seen = back >= 0 if window is None else (back >= 0) & (back < window)
  key_position = (
    position - past + jnp.arange(n)[:, None] * b + jnp.arange(s)[None, :]
  )
  seen = seen[None] & (key_position >= 0)[:, None, :]
  scores = jnp.where(seen, scores / math.sqrt(dim), _MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v_HxnxsxK.dtype)
  return jnp.einsum("hnqs,hnsk->hnqk", weights, v_HxnxsxK)
