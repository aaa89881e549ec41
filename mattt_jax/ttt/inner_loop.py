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

from mattt_jax.config import CoordinationConfig, InnerConfig, require_chunked
from mattt_jax.devices import sharding
from mattt_jax.memory.base import tree_bytes
from mattt_jax.model import fast_weights
from mattt_jax.ttt import differentiation, remat, replay
from mattt_jax.ttt.context_state import ChunkModel, ContextState
from mattt_jax.ttt.coordination import Coordination
from mattt_jax.ttt.inner_optimizer import InnerOptimizer

_ALONE = CoordinationConfig()  # nothing is coordinated


@struct.dataclass
class Chunk:
  """C tokens after the prefix. `weight` 0: padding, neither learned from nor
  remembered."""

  x_CxD: Array
  target_C: Array
  weight_C: Array
  relevant_C: Array  # bool: an oracle's advice on what to write


@struct.dataclass
class ChunkOutput:
  """What a chunk gave, all from BEFORE its update (scanned: [n, ...])."""

  loss_C: Array  # of each token, unmasked
  correct_C: Array  # bool: the most likely token was the target
  inner_loss: Array  # what the inner step descends
  inner_grad_norm: Array  # before clipping; 0 with the inner loop off
  # Scalars of the model's `diagnostics`; `inner_rate` (mean over the fast
  # tensors), where it is learned.
  diagnostics: dict[str, Array]
  # With `coordination.read_loss`: the memory's own next-token loss, 0 where it
  # has none, and (bool) where it has one.
  read_loss_C: Array | None = None
  has_read_loss_C: Array | None = None


class Learner(nnx.Module):
  """A model and how it learns while it reads."""

  # Whether a sequence may be read in parts, the state carried on.
  streams = True

  def __init__(
    self,
    model: ChunkModel,
    inner: InnerOptimizer,
    chunk: int,
    coordination: CoordinationConfig = _ALONE,
  ):
    self.model = model
    self.inner = inner
    self.chunk = chunk
    self.coordination = Coordination(coordination)

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
      replay=self._init_replay(context_length),
    )

  def _init_replay(self, context_length: int):
    if not self.coordination.config.replay:
      return None
    tokens_C = jnp.zeros((self.chunk,), jnp.int32)
    cache = self.model.init_cache(context_length, False)
    x_CxD = jax.eval_shape(
      lambda: self.model.read_prefix(tokens_C, cache, 0)[0]
    )
    return replay.init(self.coordination.config, context_length, x_CxD)

  def read_whole(
    self,
    tokens_L: Array,
    targets_L: Array,
    weight_L: Array,
    relevant_L: Array,
    *,
    inner: bool = True,
    memory: bool = True,
    rate_scale: Array | float = 1.0,
  ) -> ChunkOutput:
    """Reads a sequence from an empty state, [n, ...]."""
    require_chunked(self.chunk, len(tokens_L))
    *outer, _ = self.remat_parts(len(tokens_L))
    state = self.init_state(len(tokens_L), streaming=bool(outer))

    def read(state, arrays):
      return read_sequence(
        self, state, *arrays, inner=inner, memory=memory, rate_scale=rate_scale
      )

    for number in reversed(outer):
      read = remat.in_parts(read, number, self.inner.config.offload)
    return read(state, (tokens_L, targets_L, weight_L, relevant_L))[1]

  def remat_parts(self, length: int) -> tuple[int, ...]:
    """In how many segments, segments of segments, ... and chunks a sequence of
    `length` tokens is read for the backward pass (`inner.remat_levels`)."""
    chunks, levels = length // self.chunk, self.inner.config.remat_levels
    one, two = (remat.split_evenly(chunks, n) for n in (1, 2))
    if levels >= 0:
      return remat.split_evenly(chunks, max(1, levels))

    def kept(parts) -> int:
      """Bytes of the states before parts; only segments have a prefix cache."""
      state, chunk_state = (
        jax.eval_shape(lambda on=on: self.init_state(length, streaming=on))
        for on in (True, False)
      )
      *outer, last = parts
      return sum(outer) * tree_bytes(state) + last * tree_bytes(chunk_state)

    return two if 4 * kept(two) <= kept(one) else one

  def state_bytes(self, context_length: int) -> dict[str, int]:
    """Bytes of each part of one sequence's state (fast weights count as state
    only if the inner loop may change them)."""
    learns = self.inner.config.enabled
    state = jax.eval_shape(lambda: self.init_state(context_length))
    return {
      "fast_weights": tree_bytes(state.fast) if learns else 0,
      "inner_optimizer": tree_bytes(state.inner_opt) if learns else 0,
      "memory": tree_bytes(state.memory),
      "replay": tree_bytes(state.replay),
      "cache": tree_bytes(state.cache),
    }


def make_learner(
  model: ChunkModel,
  config: InnerConfig,
  chunk: int,
  coordination: CoordinationConfig = _ALONE,
) -> Learner:
  """A learner with an inner optimiser for the model's fast weights."""
  _, fast, _ = fast_weights.split(model)
  inner = InnerOptimizer(config, len(jax.tree.leaves(fast)))
  return Learner(model, inner, chunk, coordination)


def in_chunks(tree, chunk: int):
  """Arrays [L, ...] as [n, C, ...], C the chunk."""
  return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tree)


def weighted_mean(loss: Array, weight: Array) -> Array:
  """sum(w loss) / sum(w), and 0 where all weights are 0."""
  total = jnp.sum(weight)
  # where: a token of weight 0 must not leak a nan or inf of its loss.
  kept = jnp.where(weight > 0, loss, 0.0)
  return jnp.sum(weight * kept) / jnp.maximum(total, 1e-10)


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
    loss_fn: fast -> (loss, (aux, multiplier of the rate)).
    at: W where the gradient is taken.
    weights: (W, state of the inner optimiser) that the update starts from.
    weight_C: a chunk without weight teaches nothing: not even decay, momentum.
    rate_scale: multiplies the inner learning rate.

  Returns:
    The new `weights`, loss, what `loss_fn` gave beside it, and the gradient's
    norm before the clip.
  """
  config = learner.inner.config
  # First order needs no derivative of the gradient: nothing to choose.
  mode = config.differentiation if config.second_order else "reverse"
  (loss, beside), grads = differentiation.value_and_grad(loss_fn, at, mode)
  if not config.second_order:
    grads = jax.lax.stop_gradient(grads)
  _, fast_0, _ = fast_weights.split(learner.model)
  fast, opt_state = weights
  rate = rate_scale * beside[1]
  new = learner.inner.update(grads, opt_state, fast, fast_0, rate)
  some = jnp.any(weight_C > 0)
  new = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, weights)
  return new, loss, beside, jax.lax.stop_gradient(optax.tree.norm(grads))


def replay_chunks(learner: Learner, weights, chunks, rate_scale: Array | float):
  """One inner step on each of `chunks` (x_RxCxD, target_RxC, weight_RxC), read
  without a past and without the memory; returns the new `weights`."""
  graphdef, _, slow = fast_weights.split(learner.model)
  cache = learner.model.init_cache(chunks[0].shape[1], False)

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
  again = replay.nearest(state.replay, number, wanted)
  return replay_chunks(learner, weights, again, rate_scale)


def read_chunk(
  learner: Learner,
  state: ContextState,
  chunk: Chunk,
  *,
  inner: bool = True,
  memory: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads one chunk that has passed the prefix.

  Args:
    learner: model and inner optimiser; its fast weights are W_0.
    state: after the chunks before.
    chunk: C tokens.
    inner: False leaves the fast weights as they are (no gradient is taken).
    memory: False neither reads nor writes the memory.
    rate_scale: multiplies the inner learning rate.

  Returns:
    The state after the chunk and what was computed before its update.
  """
  graphdef, _, slow = fast_weights.split(learner.model)
  coordination, config = learner.coordination, learner.coordination.config
  kept = state.memory if memory else None

  def inner_loss(fast):
    model = nnx.merge(graphdef, fast, slow)

    def read(memory):
      forward = model.forward(chunk.x_CxD, state.cache, memory, state.position)
      return forward, *model.score(forward, chunk.target_C)

    forward, loss_C, correct_C = read(kept)
    learned_C = loss_C
    if config.inner_loss == "without_memory" and kept is not None:
      _, learned_C, _ = read(None)
    weight_C = coordination.token_weight(chunk.weight_C, loss_C)
    rate = coordination.rate(model.memory_use(forward))
    loss = weighted_mean(learned_C, weight_C)
    return loss, ((loss_C, correct_C, forward), rate)

  if inner:
    state = truncated(learner, state)
  weights = state.fast, state.inner_opt
  grad_norm = jnp.zeros(())
  if inner:
    # A chunk that teaches nothing does not remind of anything either.
    some = jnp.any(chunk.weight_C > 0)
    read_with = reading_weights(learner, state, rate_scale, some)
    if config.replay_keep:
      weights = read_with
    weights, loss, (read, rate), grad_norm = inner_step(
      learner, inner_loss, read_with[0], weights, chunk.weight_C, rate_scale
    )
  else:
    loss, (read, rate) = inner_loss(state.fast)
  loss_C, correct_C, forward = read

  model = learner.model
  diagnostics = model.diagnostics(forward)
  if learner.inner.config.learn_rate or config.rate_from_memory:
    rates = learner.inner.rates() * rate * rate_scale
    diagnostics["inner_rate"] = inner * jnp.mean(rates)
  read_loss_C = has_read_loss_C = None
  if config.read_loss:
    read_loss_C, has_read_loss_C = model.read_loss(forward, chunk.target_C)
  output = ChunkOutput(
    loss_C=loss_C,
    correct_C=correct_C,
    inner_loss=loss,
    inner_grad_norm=grad_norm,
    diagnostics=diagnostics,
    read_loss_C=read_loss_C,
    has_read_loss_C=has_read_loss_C,
  )
  written = state.memory
  if memory:
    # Never false, but only known once the memory was read: else XLA keeps a
    # copy of the memory to read from, rather than write it in place.
    read_C = ~(loss_C < -jnp.inf)
    written = model.write(
      state.memory,
      forward,
      chunk.target_C,
      jax.lax.stop_gradient(loss_C),
      chunk.relevant_C,
      (chunk.weight_C > 0) & read_C,
    )
  stored = state.replay
  if stored is not None:
    stored = replay.store(stored, chunk.x_CxD, chunk.target_C, chunk.weight_C)
  state = ContextState(
    fast=weights[0],
    inner_opt=weights[1],
    memory=written,
    cache=dataclasses.replace(state.cache, suffix=forward.cache),
    position=state.position + len(chunk.target_C),
    replay=stored,
  )
  return state, output


def read_sequence(
  learner: Learner,
  state: ContextState,
  tokens_L: Array,
  targets_L: Array,
  weight_L: Array,
  relevant_L: Array | None = None,
  *,
  inner: bool = True,
  memory: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads L tokens (whole chunks) on top of `state`.

  The prefix reads them all at once, the suffix chunk by chunk. One call gives
  the same as several calls on consecutive parts (state made with
  `streaming=True`).

  Raises:
    ValueError: the chunk does not divide L.
  """
  require_chunked(learner.chunk, len(tokens_L))
  if relevant_L is None:
    relevant_L = jnp.zeros(tokens_L.shape, bool)
  # The prefix reads all tokens at once: devices share the sequence in pieces.
  tokens_L = sharding.constrain(tokens_L, sharding.CONTEXT)
  x_LxD, cache = learner.model.read_prefix(
    tokens_L, state.cache, state.position
  )
  x_LxD = sharding.constrain(x_LxD, sharding.CONTEXT, None)
  chunks = in_chunks(
    Chunk(x_LxD, targets_L, weight_L, relevant_L), learner.chunk
  )
  # Chunks follow one another: devices share the tokens within each.
  chunks = jax.tree.map(
    lambda x: sharding.constrain(
      x, None, sharding.CONTEXT, *[None] * (x.ndim - 2)
    ),
    chunks,
  )

  def body(suffix_state, chunk):
    return read_chunk(
      learner, sharding.constrain_state(suffix_state), chunk,
      inner=inner, memory=memory, rate_scale=rate_scale,
    )  # fmt: skip

  if learner.inner.config.remat_levels:
    body = remat.chunk(body, learner.inner.config.offload)
  # The prefix cache does not change from chunk to chunk: keep it out.
  prefix, cache = cache.prefix, dataclasses.replace(cache, prefix=None)
  state, outputs = jax.lax.scan(
    body, dataclasses.replace(state, cache=cache), chunks
  )
  cache = dataclasses.replace(state.cache, prefix=prefix)
  return dataclasses.replace(state, cache=cache), outputs
