"""Which states the outer backward pass keeps, the rest being recomputed.

Two levels of checkpoints: the states before segments of about sqrt(n) of n
chunks, and those before the chunks of one segment at a time (1604.06174).
"""

import math

import jax
from jax.ad_checkpoint import checkpoint_name

from mattt_jax.recompute import recomputed

# `checkpoint_name` of what is saved for a chunk's backward pass.
SAVED = "inner_gradient"
_STATE = "state"


def chunk(body, offload: bool = False):
  """`body(state, chunk)` that keeps the state before it and what is named
  `SAVED` for the backward pass; `offload`: the state in the host's memory."""
  return _kept(body, offload, SAVED)


def in_parts(read, number: int, offload: bool = False):
  """`read(state, arrays)` of `number` equal parts, one after the other, that
  keeps only the state before each for the backward pass."""
  body = _kept(read, offload)

  def read_parts(state, arrays):
    parts = jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), arrays)
    state, out = jax.lax.scan(body, state, parts)
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

  return read_parts


def _kept(body, offload: bool, *saved: str):
  policies = jax.checkpoint_policies
  if not offload:
    return recomputed(body, policy=policies.save_only_these_names(*saved))

  def name(array):
    # Scalars are not worth it, and XLA for TPUs cannot move them.
    return checkpoint_name(array, _STATE) if array.ndim else array

  def named(state, x):
    # What follows starts from the named copy: the argument is not kept.
    return body(jax.tree.map(name, state), x)

  policy = policies.save_and_offload_only_these_names(
    names_which_can_be_saved=list(saved),
    names_which_can_be_offloaded=[_STATE],
    offload_src="device",
    offload_dst="pinned_host",
  )
  return recomputed(named, policy=policy)


def split_evenly(number: int, factors: int) -> tuple[int, ...]:
  """Factors of `number`, each close to its root: (8, 4) for 32 and 2."""
  if factors == 1:
    return (number,)
  root = number ** (1 / factors)
  divisors = [k for k in range(1, number + 1) if number % k == 0]
  last = min(divisors, key=lambda k: abs(math.log(k / root)))
  return (*split_evenly(number // last, factors - 1), last)
