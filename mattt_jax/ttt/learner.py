"""A model and how it learns while it reads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mattt_jax.config import CoordinationConfig
from mattt_jax.memory.base import tree_bytes
from mattt_jax.model import fast_weights
from mattt_jax.ttt import replay
from mattt_jax.ttt.context_state import ChunkModel, ContextState
from mattt_jax.ttt.coordination import Coordination
from mattt_jax.ttt.inner_optimizer import InnerOptimizer
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import ChunkOutput, Tokens

ALONE = CoordinationConfig()  # nothing is coordinated


class Learner(nnx.Module):
  """What every way of learning while reading has; each has a `read_whole`."""

  # Whether a sequence may be read in parts, the state carried on.
  streams = True

  def __init__(
    self,
    model: ChunkModel,
    inner: InnerOptimizer,
    chunk: int,
    coordination: CoordinationConfig = ALONE,
  ):
    self.model = model
    self.inner = inner
    self.chunk = chunk
    self.coordination = Coordination(coordination)

  def read_whole(
    self, tokens: Tokens, parts: Parts = ALL, rate_scale: Array | float = 1.0
  ) -> ChunkOutput:
    """Reads a sequence [L] from an empty state, [n, ...].

    Args:
      tokens: of the whole sequence.
      parts: what is on.
      rate_scale: multiplies the inner learning rate.

    Raises:
      ValueError: the chunk does not divide L.
    """
    raise NotImplementedError

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
