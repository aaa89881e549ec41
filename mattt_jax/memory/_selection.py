"""Which pairs a memory of limited size keeps: scores and replacement.

Shapes: C tokens of a chunk, W of them written, M slots.
"""

import jax
import jax.numpy as jnp
from jax import Array

from mattt_jax.memory._search import EMPTY
from mattt_jax.memory.base import Pairs

POLICIES = ("ring", "score")
SCORES = ("recency", "surprise", "gradient", "random", "oracle", "learned")


def fixed_score(kind: str, pairs: Pairs, position: Array) -> Array:
  """The worth of keeping each pair, [C], for every kind but "learned".

  recency   its position: the newest are kept.
  surprise  its loss: what the model would not have predicted.
  gradient  the norm of that loss's gradient.
  random    a hash of position and token: a sample of all pairs.
  oracle    1 where the task says that it will be asked for, else 0.
  """
  at_C = position + jnp.arange(len(pairs.valid_C), dtype=jnp.int32)
  scores = {
    "recency": at_C,
    "surprise": pairs.surprise_C,
    "gradient": pairs.gradient_C,
    "random": _hash(at_C, pairs.next_token_C),
    "oracle": pairs.relevant_C,
  }
  score_C = scores[kind]
  assert score_C is not None  # a memory scored by gradients is given them
  return score_C.astype(jnp.promote_types(score_C.dtype, jnp.float32))


def best_valid(score_C: Array, valid_C: Array, count: int) -> Array:
  """Indices of the `count` best pairs, best first, invalid ones last; equals
  keep their order."""
  return jax.lax.top_k(_or_empty(score_C, valid_C), count)[1]


def replace_lowest(
  score_M: Array, valid_M: Array, score_W: Array, valid_W: Array
) -> tuple[Array, Array]:
  """The slots of W new pairs, best first, and which pairs are kept.

  The i-th best goes to the i-th lowest slot (empty ones first) if it has the
  higher score: the best pairs stay, and stored ones before equal new ones.

  Returns:
    (slots, kept), both [W]; no slot twice.
  """
  slot_W = jax.lax.top_k(-_or_empty(score_M, valid_M), len(score_W))[1]
  higher_W = ~valid_M[slot_W] | (score_W > score_M[slot_W])
  return slot_W, valid_W & higher_W


def _or_empty(score: Array, valid: Array) -> Array:
  return jnp.where(valid, jax.lax.stop_gradient(score), EMPTY)


def _hash(position: Array, token: Array) -> Array:
  """In [0, 1), 24 bits: multiply and xor-shift, twice."""
  x = position.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
  x = x + token.astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return ((x ^ (x >> 16)) >> 8).astype(jnp.float32) / 2**24
