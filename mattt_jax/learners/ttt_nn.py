"""TTT-NN: before each chunk, learn anew from past chunks like the last one.

Test-time training on nearest neighbours (2305.18466), inside one context:

    W   = W_0                                   before every chunk
    W  <- inner step on neighbour r's loss      r = 1 .. R, nearest first
    read the chunk with W

Neighbours are past chunks like the chunk read last (the next chunk as a query
would betray its later tokens to its earlier ones). The last chunk itself is no
candidate: it would always win the first place, and attention still sees it.

Shapes: C tokens of a chunk, n chunks, R neighbours.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mattt_jax.config import CoordinationConfig, require_chunked
from mattt_jax.learners import recurrence
from mattt_jax.learners._whole import WholeReader, require_inner_loop
from mattt_jax.learners.base import BaseConfig
from mattt_jax.model import fast_weights
from mattt_jax.recompute import recomputed
from mattt_jax.strict import require, require_at_least
from mattt_jax.ttt import replay
from mattt_jax.ttt.inner_step import replay_chunks
from mattt_jax.ttt.parts import ALL
from mattt_jax.ttt.tokens import Chunk, ChunkOutput, in_chunks, weighted_mean


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings; `experiment.inner` gives the steps, `model.fast` the weights."""

  neighbours: int = 4
  reset_optimizer: bool = False  # for each neighbour, not only each chunk
  capacity: int = 0  # past chunks kept, the newest, the last included; 0: all

  def __post_init__(self):
    require_at_least("learner.neighbours", self.neighbours, 1)
    require(
      self.capacity == 0 or self.capacity > self.neighbours,
      f"learner.capacity={self.capacity} must be > learner.neighbours="
      f"{self.neighbours} (the last chunk, which asks, is kept too), or 0",
    )

  def make(self, experiment, vocab_size):
    """The transformer of the experiment, read as above."""
    built = recurrence.build(experiment, vocab_size)
    return TTTNN(built.model, built.inner, built.chunk, self)

  def check(self, experiment) -> None:
    """Raises `ValueError` for settings that this learner would not obey."""
    unused = "coordination.surprise_power", "coordination.replay"
    require_inner_loop(experiment, "ttt_nn", *unused)


class TTTNN(WholeReader):
  """Reads every chunk with weights made from W_0 for it alone."""

  name = "ttt_nn"

  def __init__(self, model, inner, chunk: int, config: Config):
    replayed = CoordinationConfig(
      replay=config.neighbours, replay_capacity=config.capacity
    )
    super().__init__(model, inner, chunk, replayed)
    self.reset_optimizer = config.reset_optimizer

  def read_whole(self, tokens, parts=ALL, rate_scale=1.0) -> ChunkOutput:
    """Reads a sequence from an empty store, [n, ...].

    The attention window holds the past as W_0 read it. `inner_loss` is the
    chunk's own loss, which takes no step (the norm of its gradient is 0); the
    diagnostic `drift` is |W - W_0|.

    Raises:
      ValueError: the chunk does not divide L.
    """
    length = len(tokens.tokens)
    require_chunked(self.chunk, length)
    graphdef, fast_0, slow = fast_weights.split(self.model)
    cache = self.model.init_cache(length, streaming=False)
    x_LxD, cache = self.model.read_prefix(tokens.tokens, cache, 0)
    chunks = in_chunks(Chunk(x_LxD, tokens), self.chunk)

    def body(carry, chunk):
      cache, stored, position = carry
      target_C, weight_C = chunk.tokens.targets, chunk.tokens.weight
      fast = self._learn(stored, rate_scale) if parts.inner else fast_0
      model = nnx.merge(graphdef, fast, slow)
      forward = model.forward(chunk.x_CxD, cache, None, position)
      loss_C, correct_C = model.score(forward, target_C)
      drift = optax.tree.norm(
        jax.lax.stop_gradient(jax.tree.map(jnp.subtract, fast, fast_0))
      )
      output = ChunkOutput(
        loss_C=loss_C,
        correct_C=correct_C,
        inner_loss=weighted_mean(loss_C, weight_C),
        inner_grad_norm=jnp.zeros(()),
        diagnostics={**model.diagnostics(forward), "drift": drift},
      )
      past = forward
      if parts.inner:  # with W_0; only its keys and values are computed
        past = self.model.forward(chunk.x_CxD, cache, None, position)
      cache = dataclasses.replace(cache, suffix=past.cache)
      stored = replay.store(stored, chunk.x_CxD, target_C, weight_C)
      return (cache, stored, position + self.chunk), output

    if self.inner.config.remat_levels:
      body = recomputed(body)
    start = cache, self._init_replay(length), jnp.zeros((), jnp.int32)
    return jax.lax.scan(body, start, chunks)[1]

  def _learn(self, stored: replay.ReplayState, rate_scale):
    _, fast_0, _ = fast_weights.split(self.model)
    # The optimiser starts with each group of neighbours: all, or one each.
    groups = jax.tree.map(
      lambda x_Rx: x_Rx[:, None] if self.reset_optimizer else x_Rx[None],
      replay.nearest(stored, self.coordination.config.replay),
    )

    def learn(fast, chunks):
      weights = fast, self.inner.init(fast)
      return replay_chunks(self, weights, chunks, rate_scale)[0], None

    return jax.lax.scan(learn, fast_0, groups)[0]

  def state_parts(self, context_length):
    """Arrays by part; the optimiser's state is gone before a read."""
    return {
      "fast_weights": fast_weights.split(self.model)[1],
      "replay": self._init_replay(context_length),
      "cache": self.model.init_cache(context_length, streaming=True),
    }
