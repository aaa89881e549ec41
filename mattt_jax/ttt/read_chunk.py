"""One chunk: score it, learn from it, remember it.

loss_t = CE(f(x; W_{i-1}, M_{i-1}, C_{i-1}), y)      scored before learned
W_i    = inner_update(W_{i-1}, grad_W mean_t(w_t loss_t))
M_i    = write(M_{i-1}, hidden_i, y_i, surprise_i)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.model import fast_weights
from mattt_jax.ttt import replay
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.inner_step import inner_step, reading_weights, truncated
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import Chunk, ChunkOutput, weighted_mean


@struct.dataclass
class _Reading:
  forward: Any
  loss_C: Array
  correct_C: Array


def read_chunk(
  learner: Learner,
  state: ContextState,
  chunk: Chunk,
  parts: Parts = ALL,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads one chunk that has passed the prefix.

  Args:
    learner: model and inner optimiser; its fast weights are W_0.
    state: after the chunks before.
    chunk: C tokens.
    parts: without `inner` the fast weights stay as they are (no gradient is
      taken), without `memory` it is neither read nor written.
    rate_scale: multiplies the inner learning rate.

  Returns:
    The state after the chunk and what was computed before its update.
  """
  loss_fn = _inner_loss(learner, state, chunk, parts)
  if parts.inner:
    state = truncated(learner, state)
    weights, loss, (reading, rate), grad_norm = _learn(
      learner, state, chunk, loss_fn, rate_scale
    )
  else:
    weights, grad_norm = (state.fast, state.inner_opt), jnp.zeros(())
    loss, (reading, rate) = loss_fn(state.fast)
  read_loss_C, has_read_loss_C = _read_loss(learner, chunk, reading)
  output = ChunkOutput(
    loss_C=reading.loss_C,
    correct_C=reading.correct_C,
    inner_loss=loss,
    inner_grad_norm=grad_norm,
    diagnostics=_diagnostics(learner, reading, parts, rate, rate_scale),
    read_loss_C=read_loss_C,
    has_read_loss_C=has_read_loss_C,
  )
  memory = state.memory
  if parts.memory:
    memory = _written(learner, memory, chunk, reading)
  state = ContextState(
    fast=weights[0],
    inner_opt=weights[1],
    memory=memory,
    cache=dataclasses.replace(state.cache, suffix=reading.forward.cache),
    position=state.position + len(chunk.tokens.targets),
    replay=_stored(state, chunk),
  )
  return state, output


def _inner_loss(
  learner: Learner, state: ContextState, chunk: Chunk, parts: Parts
):
  """fast -> (inner loss, (reading, multiplier of the inner rate))."""
  graphdef, _, slow = fast_weights.split(learner.model)
  coordination, tokens = learner.coordination, chunk.tokens
  memory = state.memory if parts.memory else None

  def loss_fn(fast):
    model = nnx.merge(graphdef, fast, slow)

    def read(memory):
      forward = model.forward(chunk.x_CxD, state.cache, memory, state.position)
      return _Reading(forward, *model.score(forward, tokens.targets))

    reading = read(memory)
    learned_C = reading.loss_C
    alone = coordination.config.inner_loss == "without_memory"
    if alone and memory is not None:
      learned_C = read(None).loss_C
    weight_C = coordination.token_weight(tokens.weight, reading.loss_C)
    rate = coordination.rate(model.memory_use(reading.forward))
    return weighted_mean(learned_C, weight_C), (reading, rate)

  return loss_fn


def _learn(
  learner: Learner,
  state: ContextState,
  chunk: Chunk,
  loss_fn,
  rate_scale: Array | float,
):
  """`inner_step` where the chunk is read: after the replay, which the fast
  weights keep only with `coordination.replay_keep`."""
  weight_C = chunk.tokens.weight
  # A chunk that teaches nothing does not remind of anything either.
  some = jnp.any(weight_C > 0)
  replayed = weights = reading_weights(learner, state, rate_scale, some)
  if not learner.coordination.config.replay_keep:
    weights = state.fast, state.inner_opt
  return inner_step(
    learner, loss_fn, replayed[0], weights, weight_C, rate_scale
  )


def _read_loss(learner: Learner, chunk: Chunk, reading: _Reading):
  """The memory's own loss and where it has one; (None, None) if unused."""
  if not learner.coordination.config.read_loss:
    return None, None
  return learner.model.read_loss(reading.forward, chunk.tokens.targets)


def _diagnostics(
  learner: Learner, reading: _Reading, parts: Parts, rate, rate_scale
) -> dict[str, Array]:
  diagnostics = learner.model.diagnostics(reading.forward)
  rate_from_memory = learner.coordination.config.rate_from_memory
  if learner.inner.config.learn_rate or rate_from_memory:
    rates = learner.inner.rates() * rate * rate_scale
    diagnostics["inner_rate"] = parts.inner * jnp.mean(rates)
  return diagnostics


def _written(learner: Learner, memory, chunk: Chunk, reading: _Reading):
  tokens, loss_C = chunk.tokens, reading.loss_C
  # Never false, but only known once the memory was read: else XLA keeps a
  # copy of the memory to read from, rather than write it in place.
  read_C = ~(loss_C < -jnp.inf)
  return learner.model.write(
    memory,
    reading.forward,
    tokens.targets,
    jax.lax.stop_gradient(loss_C),
    tokens.relevant,
    (tokens.weight > 0) & read_C,
  )


def _stored(state: ContextState, chunk: Chunk):
  if state.replay is None:
    return None
  tokens = chunk.tokens
  return replay.store(state.replay, chunk.x_CxD, tokens.targets, tokens.weight)
