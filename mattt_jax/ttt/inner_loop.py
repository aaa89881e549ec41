"""The recurrence over a sequence: `read_chunk`, then the next chunk.

Per sequence (no batch axis): `vmap` it. Shapes: L tokens, C chunk, n chunks.
"""

import dataclasses

import jax
from jax import Array

from mattt_jax.config import CoordinationConfig, InnerConfig, require_chunked
from mattt_jax.devices import sharding
from mattt_jax.memory.base import tree_bytes
from mattt_jax.model import fast_weights
from mattt_jax.ttt import remat
from mattt_jax.ttt.context_state import ChunkModel, ContextState
from mattt_jax.ttt.inner_optimizer import InnerOptimizer
from mattt_jax.ttt.learner import ALONE, Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.read_chunk import read_chunk
from mattt_jax.ttt.tokens import Chunk, ChunkOutput, Tokens, in_chunks


def read_sequence(
  learner: Learner,
  state: ContextState,
  tokens: Tokens,
  parts: Parts = ALL,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, ChunkOutput]:
  """Reads L tokens (whole chunks) on top of `state`.

  The prefix reads them all at once, the suffix chunk by chunk. One call gives
  the same as several calls on consecutive parts (state made with
  `streaming=True`). Arguments as of `read_chunk`.

  Returns:
    The state after the tokens, and each chunk's output, [n, ...].

  Raises:
    ValueError: the chunk does not divide L.
  """
  require_chunked(learner.chunk, len(tokens.tokens))
  # The prefix reads all tokens at once: devices share the sequence in pieces.
  tokens_L = sharding.constrain(tokens.tokens, sharding.CONTEXT)
  x_LxD, cache = learner.model.read_prefix(
    tokens_L, state.cache, state.position
  )
  x_LxD = sharding.constrain(x_LxD, sharding.CONTEXT, None)
  chunks = in_chunks(Chunk(x_LxD, tokens), learner.chunk)
  # Chunks follow one another: devices share the tokens within each.
  chunks = jax.tree.map(
    lambda x: sharding.constrain(
      x, None, sharding.CONTEXT, *[None] * (x.ndim - 2)
    ),
    chunks,
  )

  def body(state, chunk):
    state = sharding.constrain_state(state)
    return read_chunk(learner, state, chunk, parts, rate_scale)

  if learner.inner.config.remat_levels:
    body = remat.chunk(body, learner.inner.config.offload)
  # The prefix cache does not change from chunk to chunk: keep it out.
  suffix_cache = dataclasses.replace(cache, prefix=None)
  state = dataclasses.replace(state, cache=suffix_cache)
  state, outputs = jax.lax.scan(body, state, chunks)
  cache = dataclasses.replace(state.cache, prefix=cache.prefix)
  return dataclasses.replace(state, cache=cache), outputs


class Recurrence(Learner):
  """A learner that carries a state from chunk to chunk."""

  def read_whole(
    self, tokens: Tokens, parts: Parts = ALL, rate_scale: Array | float = 1.0
  ) -> ChunkOutput:
    """`read_sequence` from an empty state, checkpointed as `remat_parts`."""
    length = len(tokens.tokens)
    require_chunked(self.chunk, length)
    *outer, _ = self.remat_parts(length)

    def read(state, tokens):
      return read_sequence(self, state, tokens, parts, rate_scale)

    for number in reversed(outer):
      read = remat.in_parts(read, number, self.inner.config.offload)
    return read(self.init_state(length, streaming=bool(outer)), tokens)[1]

  def remat_parts(self, length: int) -> tuple[int, ...]:
    """Numbers of segments, segments of segments, ... and chunks that a sequence
    of `length` tokens has in the backward pass (`inner.remat_levels`)."""
    chunks, levels = length // self.chunk, self.inner.config.remat_levels
    if levels >= 0:
      return remat.split_evenly(chunks, max(1, levels))
    one, two = (remat.split_evenly(chunks, n) for n in (1, 2))

    def kept(parts) -> int:
      """Bytes of the states before parts; only segments have a prefix cache."""
      state, chunk_state = (
        jax.eval_shape(lambda on=on: self.init_state(length, streaming=on))
        for on in (True, False)
      )
      *outer, last = parts
      return sum(outer) * tree_bytes(state) + last * tree_bytes(chunk_state)

    return two if 4 * kept(two) <= kept(one) else one


def make_learner(
  model: ChunkModel,
  config: InnerConfig,
  chunk: int,
  coordination: CoordinationConfig = ALONE,
) -> Recurrence:
  """A learner with an inner optimiser for the model's fast weights."""
  _, fast, _ = fast_weights.split(model)
  inner = InnerOptimizer(config, len(jax.tree.leaves(fast)))
  return Recurrence(model, inner, chunk, coordination)
