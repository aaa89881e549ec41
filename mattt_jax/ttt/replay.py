"""Replay: the past chunks most like the last one are learned once more.

TTT on nearest neighbours (2305.18466), inside one context. The query is the
chunk read LAST: the next one would betray its later tokens to its earlier ones.

Shapes: N chunks kept, C tokens of a chunk, D model, R chunks replayed.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.config import CoordinationConfig
from mattt_jax.layers.norms import unit


@struct.dataclass
class ReplayState:
  """A ring of past chunks, after the prefix."""

  key_NxD: Array  # unit mean of the chunk's prefix output
  x_NxCxD: Array
  target_NxC: Array
  weight_NxC: Array
  query_D: Array  # the key of the last chunk
  written: Array  # int32

  AXES: ClassVar = {
    "key_NxD": (),
    "x_NxCxD": (None, "context", None),
    "target_NxC": (None, "context"),
    "weight_NxC": (None, "context"),
    "query_D": (),
    "written": (),
  }


def init(
  config: CoordinationConfig, context_length: int, x_CxD: jax.ShapeDtypeStruct
) -> ReplayState:
  """An empty store for a context of that many tokens."""
  chunk, dim = x_CxD.shape
  chunks = config.replay_capacity or math.ceil(context_length / chunk)
  n = max(chunks, config.replay)
  return ReplayState(
    key_NxD=jnp.zeros((n, dim), jnp.float32),
    x_NxCxD=jnp.zeros((n, chunk, dim), x_CxD.dtype),
    target_NxC=jnp.zeros((n, chunk), jnp.int32),
    weight_NxC=jnp.zeros((n, chunk), jnp.float32),
    query_D=jnp.zeros((dim,), jnp.float32),
    written=jnp.zeros((), jnp.int32),
  )


def store(
  state: ReplayState, x_CxD: Array, target_C: Array, weight_C: Array
) -> ReplayState:
  """Puts the chunk in the place of the oldest, unless it is all padding; what
  is kept gets no gradient."""
  share_C = weight_C / jnp.maximum(jnp.sum(weight_C), 1e-10)
  key_D = unit(jax.lax.stop_gradient(share_C @ x_CxD).astype(jnp.float32))
  at = state.written % len(state.key_NxD)

  def put(slots, new):
    return slots.at[at].set(new.astype(slots.dtype))

  new = ReplayState(
    key_NxD=put(state.key_NxD, key_D),
    x_NxCxD=put(state.x_NxCxD, jax.lax.stop_gradient(x_CxD)),
    target_NxC=put(state.target_NxC, target_C),
    weight_NxC=put(state.weight_NxC, weight_C),
    query_D=key_D,
    written=state.written + 1,
  )
  some = jnp.any(weight_C > 0)
  return jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)


def nearest(state: ReplayState, number: int, wanted: Array | bool = True):
  """(x_RxCxD, target_RxC, weight_RxC), nearest first, without the last chunk,
  just learned from; weights are 0 where there is none (or none is `wanted`)."""
  n = len(state.key_NxD)
  slot_N = jnp.arange(n)
  last = (state.written - 1) % n
  stored_N = (slot_N < state.written) & (slot_N != last) & wanted
  score_N = jnp.where(stored_N, state.key_NxD @ state.query_D, -2.0)
  score_R, at_R = jax.lax.top_k(score_N, number)
  weight_RxC = state.weight_NxC[at_R] * (score_R > -1.5)[:, None]
  return state.x_NxCxD[at_R], state.target_NxC[at_R], weight_RxC
