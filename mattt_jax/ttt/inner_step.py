"""One inner step, and from which weights it starts."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mattt_jax.model import fast_weights
from mattt_jax.ttt import differentiation, replay
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.tokens import weighted_mean


def inner_step(
  learner: Learner,
  loss_fn,
  at,
  weights,
  weight_C: Array,
  rate_scale: Array | float,
):
  """One update of the fast weights.

  Args:
    learner: gives W_0 and the inner optimiser.
    loss_fn: fast -> (loss, aux); the last of aux multiplies the rate.
    at: W where the gradient is taken.
    weights: (W, state of the inner optimiser) that the update starts from.
    weight_C: a chunk without weight teaches nothing: not even decay, momentum.
    rate_scale: multiplies the inner learning rate.

  Returns:
    The new `weights`, loss, aux, and the gradient's norm before the clip.
  """
  config = learner.inner.config
  # First order needs no derivative of the gradient: nothing to choose.
  mode = config.differentiation if config.second_order else "reverse"
  (loss, aux), grads = differentiation.value_and_grad(loss_fn, at, mode)
  if not config.second_order:
    grads = jax.lax.stop_gradient(grads)
  _, fast_0, _ = fast_weights.split(learner.model)
  fast, opt_state = weights
  rate = rate_scale * aux[1]
  new = learner.inner.update(grads, opt_state, fast, fast_0, rate)
  some = jnp.any(weight_C > 0)
  new = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, weights)
  return new, loss, aux, jax.lax.stop_gradient(optax.tree.norm(grads))


def replay_chunks(learner: Learner, weights, chunks, rate_scale: Array | float):
  """One inner step on each of `chunks` (x_RxCxD, target_RxC, weight_RxC), read
  without a past and without the memory; returns the new `weights`."""
  graphdef, _, slow = fast_weights.split(learner.model)
  cache = learner.model.init_cache(chunks[0].shape[1], streaming=False)

  def step(weights, chunk):
    x_CxD, target_C, weight_C = chunk

    def loss_fn(fast):
      model = nnx.merge(graphdef, fast, slow)
      forward = model.forward(x_CxD, cache, None, 0)
      loss_C, _ = model.score(forward, target_C)
      return weighted_mean(loss_C, weight_C), (None, 1.0)

    weights, *_ = inner_step(
      learner, loss_fn, weights[0], weights, weight_C, rate_scale
    )
    return weights, None

  return jax.lax.scan(step, weights, chunks)[0]


def truncated(learner: Learner, state: ContextState) -> ContextState:
  """The same numbers; every `inner.unroll` chunks the gradient of the steps
  before stops, but for W_0, which the fast weights are still moved from."""
  unroll = learner.inner.config.unroll
  if not unroll:
    return state
  _, fast_0, _ = fast_weights.split(learner.model)
  cut = state.position // learner.chunk % unroll == 0

  def start(w_0, w):
    return jnp.where(cut, w_0 + jax.lax.stop_gradient(w - w_0), w)

  return dataclasses.replace(
    state,
    fast=jax.tree.map(start, fast_0, state.fast),
    inner_opt=jax.tree.map(
      lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), state.inner_opt
    ),
  )


def reading_weights(
  learner: Learner,
  state: ContextState,
  rate_scale: Array | float = 1.0,
  wanted: Array | bool = True,
):
  """(W, state of the inner optimiser) with which the next chunk is read, the
  inner loop on: after the replay, which leaves them alone if not `wanted`."""
  weights = state.fast, state.inner_opt
  number = learner.coordination.config.replay
  if not number:
    return weights
  chunks = replay.nearest(state.replay, number, wanted)
  return replay_chunks(learner, weights, chunks, rate_scale)
