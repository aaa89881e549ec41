"""A model and how it learns while it reads."""

from typing import Any

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
STATE_PARTS = ("fast_weights", "inner_optimizer", "memory", "replay", "cache")


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
    """Output of each chunk, [n, ...], of a sequence [L] read from an empty
    state; `rate_scale` multiplies the inner learning rate.

    Raises:
      ValueError: the chunk does not divide L.
    """
    raise NotImplementedError

  def init_state(
    self, context_length: int, streaming: bool = True
  ) -> ContextState:
    """The state before the first of `context_length` tokens, for memories and
    caches that grow with the context. `streaming` False: one `read_sequence`
    reads them all, which then needs no cache in the prefix."""
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

  def state_parts(self, context_length: int) -> dict[str, Any]:
    """Arrays of one sequence's state by `STATE_PARTS` (fast weights count as
    state only if the inner loop may change them)."""
    state = self.init_state(context_length)
    parts = dict(memory=state.memory, replay=state.replay, cache=state.cache)
    if self.inner.config.enabled:
      parts |= dict(fast_weights=state.fast, inner_optimizer=state.inner_opt)
    return parts

  def state_bytes(self, context_length: int) -> dict[str, int]:
    """Bytes of each of `STATE_PARTS`."""
    parts = jax.eval_shape(lambda: self.state_parts(context_length))
    return {name: tree_bytes(parts.get(name)) for name in STATE_PARTS}
