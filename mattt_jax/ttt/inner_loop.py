"""The recurrence: read a chunk, learn from it, remember it; then the next.

    loss_t = CE(f(x; W_{i-1}, M_{i-1}, C_{i-1}), y)      scored before learned
    W_i    = inner_update(W_{i-1}, grad_W mean_t(w_t loss_t))
    M_i    = write(M_{i-1}, hidden_i, y_i, surprise_i)

Per sequence (no batch axis): `vmap` it. Shapes: L tokens, C chunk, n chunks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax import Array

from mattt_jax.config import InnerConfig
from mattt_jax.memory.base import tree_bytes
from mattt_jax.model import fast_weights
from mattt_jax.ttt.context_state import ChunkModel, ContextState
from mattt_jax.ttt.inner_optimizer import InnerOptimizer


@struct.dataclass
class Chunk:
  """C tokens after the prefix. `weight` 0: padding, neither learned from nor
  remembered."""

  x_CxD: Array
  target_C: Array
  weight_C: Array


@struct.dataclass
class ChunkOutput:
  """What a chunk gave, all from BEFORE its update (scanned: [n, ...])."""

  loss_C: Array  # of each token, unmasked
  correct_C: Array  # bool: the most likely token was the target
  inner_loss: Array  # what the inner step descends
  inner_grad_norm: Array  # before clipping; 0 with the inner loop off
  null_mass: Array  # share left to the model by a pointer memory, else 1


class Learner(nnx.Module):
  """A model and how it learns while it reads."""

  def __init__(self, model: ChunkModel, inner: InnerOptimizer, chunk: int):
    self.model = model
    self.inner = inner
    self.chunk = chunk

  def init_state(
    self, context_length: int, streaming: bool = True
  ) -> ContextState:
    """The state before the first token.

    Args:
      context_length: tokens that will be read, for memories and caches that
        grow with the context.
      streaming: False if one `read_sequence` reads the whole context, which
        then needs no cache in the prefix.
    """
    _, fast, _ = fast_weights.split(self.model)
    return ContextState(
      fast=fast,
      inner_opt=self.inner.init(fast),
      memory=self.model.init_memory(context_length),
      cache=self.model.init_cache(context_length, streaming),
      position=jnp.zeros((), jnp.int32),
    )

  def state_bytes(self, context_length: int) -> dict[str, int]:
    """Bytes of each part of one sequence's state (fast weights count as state
    only if the inner loop may change them)."""
    learns = self.inner.config.enabled
    state = jax.eval_shape(lambda: self.init_state(context_length))
    return {
      "fast_weights": tree_bytes(state.fast) if learns else 0,
      "inner_optimizer": tree_bytes(state.inner_opt) if learns else 0,
      "memory": tree_bytes(state.memory),
      "cache": tree_bytes(state.cache),
    }


def make_learner(model: ChunkModel, config: InnerConfig, chunk: int) -> Learner:
  """A learner with an inner optimiser for the model's fast weights."""
  _, fast, _ = fast_weights.split(model)
  inner = InnerOptimizer(config, len(jax.tree.leaves(fast)))
  return Learner(model, inner, chunk)


def weighted_mean(loss: Array, weight: Array) -> Array:
  """sum(w loss) / sum(w), and 0 where all weights are 0."""
  total = jnp.sum(weight)
  # where: a token of weight 0 must not leak a nan or inf of its loss.
  kept = jnp.where(weight > 0, loss, 0.0)
  return jnp.sum(weight * kept) / jnp.maximum(total, 1e-10)


def read_chunk(
  learner: Learner,
  state: ContextState,
  chunk: Chunk,
  *,
  inner: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads one chunk that has passed the prefix.

  Args:
    learner: model and inner optimiser; its fast weights are W_0.
    state: after the chunks before.
    chunk: C tokens.
    inner: False leaves the fast weights as they are (no gradient is taken).
    rate_scale: multiplies the inner learning rate.

  Returns:
    The state after the chunk and what was computed before its update.
  """
  graphdef, fast_0, slow = fast_weights.split(learner.model)

  def inner_loss(fast):
    model = nnx.merge(graphdef, fast, slow)
    forward = model.forward(
      chunk.x_CxD, state.cache, state.memory, state.position
    )
    loss_C = model.token_loss(forward, chunk.target_C)
    return weighted_mean(loss_C, chunk.weight_C), (loss_C, forward)

  fast, inner_opt = state.fast, state.inner_opt
  grad_norm = jnp.zeros(())
  if inner:
    (loss, (loss_C, forward)), grads = jax.value_and_grad(
      inner_loss, has_aux=True
    )(fast)
    if not learner.inner.config.second_order:
      grads = jax.lax.stop_gradient(grads)
    new = learner.inner.update(grads, inner_opt, fast, fast_0, rate_scale)
    # A chunk without a valid target teaches nothing: not even decay, momentum.
    some = jnp.any(chunk.weight_C > 0)
    fast, inner_opt = jax.tree.map(
      lambda a, b: jnp.where(some, a, b), new, (fast, inner_opt)
    )
    grad_norm = jax.lax.stop_gradient(optax.tree.norm(grads))
  else:
    loss, (loss_C, forward) = inner_loss(fast)

  model = learner.model
  pointer = getattr(forward, "pointer", None)
  output = ChunkOutput(
    loss_C=loss_C,
    correct_C=jnp.argmax(model.next_token_probs(forward), -1) == chunk.target_C,
    inner_loss=loss,
    inner_grad_norm=grad_norm,
    null_mass=jax.lax.stop_gradient(
      jnp.mean(jnp.exp(pointer.log_null_C)) if pointer else jnp.ones(())
    ),
  )
  memory = model.write(
    state.memory,
    forward,
    chunk.target_C,
    jax.lax.stop_gradient(loss_C),
    chunk.weight_C > 0,
  )
  cache = dataclasses.replace(state.cache, suffix=forward.cache)
  state = ContextState(
    fast=fast,
    inner_opt=inner_opt,
    memory=memory,
    cache=cache,
    position=state.position + len(chunk.target_C),
  )
  return state, output


def read_sequence(
  learner: Learner,
  state: ContextState,
  tokens_L: Array,
  targets_L: Array,
  weight_L: Array,
  *,
  inner: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads L tokens (whole chunks) on top of `state`.

  The prefix reads them all at once, the suffix chunk by chunk. One call gives
  the same as several calls on consecutive parts (state made with
  `streaming=True`).

  Raises:
    ValueError: the chunk does not divide L.
  """
  length, c = len(tokens_L), learner.chunk
  if length % c:
    raise ValueError(f"chunk={c} must divide length={length}")
  x_LxD, cache = learner.model.read_prefix(
    tokens_L, state.cache, state.position
  )
  chunks = jax.tree.map(
    lambda x: x.reshape(length // c, c, *x.shape[1:]),
    Chunk(x_LxD, targets_L, weight_L),
  )

  def body(suffix_state, chunk):
    return read_chunk(
      learner, suffix_state, chunk, inner=inner, rate_scale=rate_scale
    )

  if learner.inner.config.remat:
    body = jax.checkpoint(body, prevent_cse=False)
  # The prefix cache does not change from chunk to chunk: keep it out.
  prefix, cache = cache.prefix, dataclasses.replace(cache, prefix=None)
  state, outputs = jax.lax.scan(
    body, dataclasses.replace(state, cache=cache), chunks
  )
  cache = dataclasses.replace(state.cache, prefix=prefix)
  return dataclasses.replace(state, cache=cache), outputs
