"""The decoder: a prefix read once, a suffix read inside the inner loop.

    tokens -> embedding -> prefix blocks -> | suffix blocks -> norm -> head |
                                            |  (per chunk, fast weights)    |

A suffix block (`block.py`) is attention or a gated delta rule, a memory read
(optional), the fast MLP and the static MLP. The memory's site (`sites.py`) says
where it is, and what follows from that.

Shapes: L tokens, C chunk, D model, V vocabulary, S suffix blocks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.layers import attention, linear_attention
from mattt_jax.layers.norms import make_norm, rms_normalize, vector_norm
from mattt_jax.layers.parameters import normal_param, repeat, scan_stack, stack
from mattt_jax.memory import none
from mattt_jax.memory.base import BaseConfig, Pairs
from mattt_jax.model import fast_weights, head, sites
from mattt_jax.model.block import Block

# Suffix blocks a loop iteration. They are few, and differentiated twice: an
# unrolled loop takes less time and memory (benchmarks/meta_step.py).
_UNROLL = 4


@struct.dataclass
class Cache:
  """Caches of the mixers, stacked over blocks; prefix None: read from the
  start."""

  prefix: attention.KVCache | None
  suffix: attention.KVCache | linear_attention.DeltaCache | None


@struct.dataclass
class Forward:
  """A chunk, read with the weights and memory from before it."""

  final_CxD: Array  # what the head sees
  read: Any  # what the memory's site read; None: nothing
  # The suffix's, after the chunk.
  cache: attention.KVCache | linear_attention.DeltaCache | None
  address_CxD: Array  # the prefix output: stable addresses


class Transformer(nnx.Module):
  """A decoder language model with fast weights and an external memory."""

  def __init__(
    self,
    config: ModelConfig,
    vocab_size: int,
    memory: BaseConfig | none.Config,
    chunk: int,
    rngs: nnx.Rngs,
  ):
    """`memory` is a memory file's Config, `chunk` the tokens of a write."""
    c = self.config = config
    self.vocab_size = vocab_size
    self.site = sites.site_of(memory)

    def prefix_block(rngs):
      return Block(c, rngs, mixer="prefix_attention")

    def suffix_block(rngs):
      memory = self.site.block_memory(c.dim, chunk, rngs)
      fast = c.fast_mlp_dim > 0
      return Block(c, rngs, mixer=c.suffix_mixer, fast_mlp=fast, memory=memory)

    self.num_prefix = c.num_layers - c.num_suffix
    self.embedding = normal_param(
      rngs, (vocab_size, c.dim), c.embedding_std or c.init_std
    )
    if self.num_prefix:
      self.prefix = stack(prefix_block, self.num_prefix, rngs)
    if c.num_suffix:
      self.suffix = stack(suffix_block, c.num_suffix, rngs)
    self.final_norm = make_norm(True, c.dim, c.norm_eps)
    if not c.tie_embeddings:
      self.head = normal_param(rngs, (c.dim, vocab_size), c.init_std)
    self.site.add_parameters(self, chunk, rngs)
    fast_weights.mark(self, c.fast)

  def init_cache(self, context_length: int, streaming: bool = True) -> Cache:
    """Empty caches; the prefix has one only when `streaming`: the context comes
    in several calls of `read_prefix`."""
    c = self.config
    length = c.window if c.attention == "window" else context_length

    def stacked(count, mixer="attention"):
      if not count:
        return None
      dtype = jnp.dtype(c.dtype)
      if mixer == "gated_delta":
        delta = linear_attention.init_cache(c.num_heads, c.head_dim, dtype)
        return repeat(delta, count)
      kv = attention.init_cache(c.num_heads, length, c.head_dim, dtype)
      return repeat(kv, count)

    prefix = stacked(self.num_prefix) if streaming else None
    return Cache(prefix, suffix=stacked(c.num_suffix, c.suffix_mixer))

  def init_memory(self, context_length: int) -> Any:
    """The empty memory of a context of that many tokens."""
    return self.site.init_state(self, context_length)

  def read_prefix(self, tokens_L: Array, cache: Cache, position):
    """Embedding and prefix blocks; returns (x_LxD, cache)."""
    x_LxD = self.embedding[...][tokens_L].astype(self.config.dtype)
    if not self.num_prefix:
      return x_LxD, cache

    def step(block, x_LxD, block_cache):
      x_LxD, block_cache, _ = block(x_LxD, block_cache, position)
      return x_LxD, block_cache

    x_LxD, kv = scan_stack(
      self.prefix, step, x_LxD, cache.prefix, remat=self.config.remat_prefix
    )
    return x_LxD, dataclasses.replace(cache, prefix=kv)

  def forward(self, x_CxD, cache: Cache, memory: Any, position) -> Forward:
    """Suffix blocks on a chunk of the prefix's output; `memory` None reads as
    if there were no memory."""
    address_CxD = x_CxD

    def run_suffix(x_CxD, memories):
      if not self.config.num_suffix:
        return x_CxD, None, None

      def step(block, x_CxD, block_state):
        block_cache, block_memory = block_state
        x_CxD, block_cache, read = block(
          x_CxD, block_cache, position, block_memory, address_CxD
        )
        return x_CxD, (block_cache, read)

      x_CxD, (kv, reads) = scan_stack(
        self.suffix,
        step,
        x_CxD,
        (cache.suffix, memories),
        unroll=min(self.config.num_suffix, _UNROLL),
      )
      return x_CxD, kv, reads

    site = self.site if memory is not None else sites.OFF
    x_CxD, kv, read = site.read(self, memory, x_CxD, run_suffix)
    return Forward(self.final_norm(x_CxD), read, kv, address_CxD)

  def _site(self, forward: Forward) -> sites.Site:
    return self.site if forward.read is not None else sites.OFF

  def _head(self) -> Array:
    if self.config.tie_embeddings:
      return self.embedding[...].T
    return self.head[...]

  def scores(self, h_CxD: Array, targets_C: Array, asked_CxJ=None):
    """`head.scores` without the memory."""
    block = self.config.vocab_block
    return head.scores(h_CxD, self._head(), targets_C, block, asked_CxJ)

  def score(self, forward: Forward, targets_C: Array) -> tuple[Array, Array]:
    """-log p(target) of each token, [C], and whether no other one is more
    likely, [C]; p is of head and memory together."""
    site = self._site(forward)
    return site.score(self, forward.read, forward.final_CxD, targets_C)

  def read_loss(
    self, forward: Forward, targets_C: Array
  ) -> tuple[Array, Array]:
    """The memory's own next-token loss, and which tokens have one: (C, C)."""
    return self._site(forward).read_loss(self, forward.read, targets_C)

  def memory_use(self, forward: Forward) -> Array:
    """How much of each token's prediction is the memory's, in [0, 1], [C]."""
    return self._site(forward).use(forward.read, forward.final_CxD)

  def diagnostics(self, forward: Forward) -> dict[str, Array]:
    """Means over the chunk, in [0, 1], that show whether the memory is used.

    null_mass: share of a read that falls on "nothing recalled" (1: no memory);
    gate: how far the gate is open; memory_share: |read| / |residual stream|, or
    a pointer's share of the next-token distribution.
    """
    null, gate, share = self._site(forward).diagnostics(forward.read)
    means = {"null_mass": null, "gate": gate, "memory_share": share}
    return jax.lax.stop_gradient(means)

  def logits(self, forward: Forward) -> Array:
    """The model's own, without the pointer, [C, V]."""
    return head.logits(forward.final_CxD, self._head())

  def next_token_probs(self, forward: Forward) -> Array:
    """p(next token), [C, V], the memory's share included."""
    own_CxV = jax.nn.softmax(self.logits(forward))
    return self._site(forward).next_token_probs(forward.read, own_CxV)

  def write(
    self,
    memory: Any,
    forward: Forward,
    targets_C: Array,
    surprise_C: Array,
    relevant_C: Array,
    valid_C: Array,
  ) -> Any:
    """Stores the next-token pairs of a chunk that was read with the memory."""
    if forward.read is None:
      return memory
    gradient_C = None
    if self.site.wants_gradient:
      gradient_C = self._gradient_norm(forward, targets_C)
    pairs = Pairs(
      hidden_CxD=forward.address_CxD,
      # Embeddings start at init_std; values should not.
      value_CxD=rms_normalize(self.embedding[...][targets_C], 1e-6),
      next_token_C=targets_C,
      surprise_C=surprise_C,
      gradient_C=gradient_C,
      relevant_C=relevant_C,
      valid_C=valid_C,
    )
    return self.site.write(self, memory, forward.read, pairs)

  def _gradient_norm(self, forward: Forward, targets_C: Array) -> Array:
    """|d loss / d final hidden| of the model's own prediction, [C]."""

    def loss(h_CxD):
      return -jnp.sum(self.scores(h_CxD, targets_C).log_prob_C)

    gradient_CxD = jax.grad(loss)(jax.lax.stop_gradient(forward.final_CxD))
    return jax.lax.stop_gradient(vector_norm(gradient_CxD))
