"""The decoder: a prefix read once, a suffix read inside the inner loop.

    tokens -> embedding -> prefix blocks -> | suffix blocks -> norm -> head |
                                            |  (per chunk, fast weights)    |

A suffix block is attention, then (optionally) a memory read, then the fast MLP,
then the static MLP, each x + post_norm(f(pre_norm(x))). A pointer memory reads
beside the head instead.

Shapes: L tokens, C chunk, D model, V vocabulary, S suffix blocks.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.memory import none
from mattt_jax.memory.base import BaseConfig, Memory, Pairs, PointerRead
from mattt_jax.model import attention, fast_weights
from mattt_jax.model.layers import (
  Attention,
  SwiGLU,
  make_norm,
  normal_param,
  repeat,
  rms_normalize,
  scan_stack,
  stack,
)

# Suffix blocks a loop iteration. They are few, and differentiated twice: an
# unrolled loop takes less time and memory (benchmarks/meta_step.py shows it),
# for a slightly longer compilation.
_UNROLL = 4


@struct.dataclass
class Cache:
  """Key-value caches, stacked over blocks. prefix None: read from the start."""

  prefix: attention.KVCache | None
  suffix: attention.KVCache | None


@struct.dataclass
class MemoryState:
  """Of the memory at the head, or of one memory a suffix block (stacked)."""

  pointer: struct.PyTreeNode | None
  blocks: struct.PyTreeNode | None


@struct.dataclass
class Forward:
  """A chunk read with the weights and memory from before it."""

  logits_CxV: Array
  pointer: PointerRead | None
  cache: attention.KVCache | None  # of the suffix, after the chunk
  address_CxD: Array  # the prefix output: stable addresses
  hidden_SxCxD: Array | None  # hidden state at the memory's place


class Block(nnx.Module):
  """One block; only suffix blocks have a fast MLP and a memory."""

  def __init__(
    self,
    config: ModelConfig,
    rngs: nnx.Rngs,
    *,
    fast_mlp: bool = False,
    memory: Memory | None = None,
  ):
    c = config

    def norm(use):
      return make_norm(use, c.dim, c.norm_eps)

    self.attention_norm = norm(c.pre_norm)
    self.attention = Attention(c, rngs)
    self.attention_post_norm = norm(c.post_norm)
    self.mlp_norm = norm(c.pre_norm)
    self.mlp = SwiGLU(c.dim, c.mlp_dim, c.init_std, rngs)
    self.mlp_post_norm = norm(c.post_norm)
    self.has_fast_mlp = fast_mlp
    if fast_mlp:
      self.fast_mlp_norm = norm(c.pre_norm)
      self.fast_mlp = SwiGLU(c.dim, c.fast_mlp_dim, c.init_std, rngs)
      self.fast_mlp_post_norm = norm(c.post_norm)
    self.has_memory = memory is not None
    if memory is not None:
      self.memory = memory

  def __call__(self, x_CxD, cache, position, memory_state=None, address=None):
    """Returns (x_CxD, cache, hidden_CxD that the memory was asked with)."""
    asked = jnp.zeros((0,), x_CxD.dtype)

    def recall(x_CxD, place):
      nonlocal asked
      if not self.has_memory or self.memory.config.place != place:
        return x_CxD
      asked = x_CxD if self.memory.config.address == "hidden" else address
      read = self.memory.read(memory_state, asked)
      return x_CxD + read.output_CxD.astype(x_CxD.dtype)

    x_CxD = recall(x_CxD, "before_attention")
    out, cache = self.attention(self.attention_norm(x_CxD), cache, position)
    x_CxD = recall(x_CxD + self.attention_post_norm(out), "after_attention")
    if self.has_fast_mlp:
      out = self.fast_mlp(self.fast_mlp_norm(x_CxD))
      x_CxD = x_CxD + self.fast_mlp_post_norm(out)
    out = self.mlp(self.mlp_norm(x_CxD))
    x_CxD = recall(x_CxD + self.mlp_post_norm(out), "after_mlp")
    return x_CxD, cache, asked


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
    """`memory` is a memory file's Config; `chunk` its granularity of writes."""
    c = self.config = config
    self.vocab_size = vocab_size
    self.memory_read = memory.read

    def suffix_block(rngs):
      kept = None
      if isinstance(memory, BaseConfig) and memory.read == "residual":
        kept = memory.make(c.dim, chunk, rngs)
      return Block(c, rngs, fast_mlp=c.fast_mlp_dim > 0, memory=kept)

    self.num_prefix = c.num_layers - c.num_suffix
    self.embedding = normal_param(
      rngs, (vocab_size, c.dim), c.embedding_std or c.init_std
    )
    if self.num_prefix:
      self.prefix = stack(lambda rngs: Block(c, rngs), self.num_prefix, rngs)
    if c.num_suffix:
      self.suffix = stack(suffix_block, c.num_suffix, rngs)
    self.final_norm = make_norm(True, c.dim, c.norm_eps)
    if not c.tie_embeddings:
      self.head = normal_param(rngs, (c.dim, vocab_size), c.init_std)
    if isinstance(memory, BaseConfig) and memory.read == "pointer":
      self.pointer = memory.make(c.dim, chunk, rngs)
    fast_weights.mark(self, c.fast)

  # State carried from chunk to chunk.

  def init_cache(self, context_length: int, streaming: bool = True) -> Cache:
    """Empty caches; the prefix needs one only when `streaming`, that is when
    the context comes in several calls of `read_prefix`."""
    c = self.config
    length = c.window if c.attention == "window" else context_length

    def stacked(count):
      if not count:
        return None
      one = attention.init_cache(
        c.num_heads, length, c.head_dim, jnp.dtype(c.dtype)
      )
      return repeat(one, count)

    return Cache(
      prefix=stacked(self.num_prefix) if streaming else None,
      suffix=stacked(c.num_suffix),
    )

  def init_memory(self, context_length: int) -> MemoryState:
    """Empty memories."""
    pointer = blocks = None
    if self.memory_read == "pointer":
      pointer = self.pointer.init_state(context_length)
    if self.memory_read == "residual":
      one = self.suffix.memory.init_state(context_length)
      blocks = repeat(one, self.config.num_suffix)
    return MemoryState(pointer, blocks)

  # One chunk.

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

  def forward(self, x_CxD, cache: Cache, memory: MemoryState, position):
    """Suffix blocks and head on a chunk of the prefix's output."""
    address_CxD = x_CxD
    kv = hidden_SxCxD = pointer = None
    if self.config.num_suffix:

      def step(block, x_CxD, block_state):
        block_cache, block_memory = block_state
        x_CxD, block_cache, asked = block(
          x_CxD, block_cache, position, block_memory, address_CxD
        )
        return x_CxD, (block_cache, asked)

      x_CxD, (kv, hidden_SxCxD) = scan_stack(
        self.suffix,
        step,
        x_CxD,
        (cache.suffix, memory.blocks),
        unroll=min(self.config.num_suffix, _UNROLL),
      )
    h_CxD = self.final_norm(x_CxD)
    head = (
      self.embedding[...].T if self.config.tie_embeddings else self.head[...]
    )
    logits_CxV = h_CxD @ head.astype(h_CxD.dtype)
    if self.memory_read == "pointer":
      pointer = self.pointer.read(memory.pointer, address_CxD)
    return Forward(
      logits_CxV=logits_CxV.astype(
        jnp.promote_types(logits_CxV.dtype, jnp.float32)
      ),
      pointer=pointer,
      cache=kv,
      address_CxD=address_CxD,
      hidden_SxCxD=hidden_SxCxD,
    )

  def token_loss(self, forward: Forward, targets_C: Array) -> Array:
    """-log p(target) of each token, [C]; p is mixed with the pointer's."""
    log_prob_C = jnp.take_along_axis(
      forward.logits_CxV, targets_C[:, None], axis=-1
    )[:, 0] - jax.nn.logsumexp(forward.logits_CxV, axis=-1)
    if forward.pointer is None:
      return -log_prob_C
    p = forward.pointer
    hit_CxJ = p.token_CxJ == targets_C[:, None]
    stored_CxJ = jnp.where(hit_CxJ, p.log_prob_CxJ, -1e30)
    own_Cx1 = (p.log_null_C + log_prob_C)[:, None]
    return -jax.nn.logsumexp(
      jnp.concatenate([own_Cx1, stored_CxJ], axis=-1), axis=-1
    )

  def next_token_probs(self, forward: Forward) -> Array:
    """p(next token), [C, V], the pointer's share included."""
    probs_CxV = jax.nn.softmax(forward.logits_CxV)
    if forward.pointer is None:
      return probs_CxV
    p = forward.pointer
    rows_Cx1 = jnp.arange(len(probs_CxV))[:, None]
    return (
      (jnp.exp(p.log_null_C)[:, None] * probs_CxV)
      .at[rows_Cx1, p.token_CxJ]
      .add(jnp.exp(p.log_prob_CxJ))
    )

  def write(
    self, memory: MemoryState, forward: Forward, targets_C, surprise_C, valid_C
  ) -> MemoryState:
    """Stores the chunk's next-token pairs."""
    if self.memory_read is None:
      return memory
    # Embeddings start at init_std; values should not.
    next_CxD = rms_normalize(self.embedding[...][targets_C], 1e-6)

    def pairs(hidden_CxD):
      return Pairs(hidden_CxD, next_CxD, targets_C, surprise_C, valid_C)

    if self.memory_read == "pointer":
      state = self.pointer.write(memory.pointer, pairs(forward.address_CxD))
      return dataclasses.replace(memory, pointer=state)

    def step(block, _, x):
      state, hidden_CxD = x
      return None, block.memory.write(state, pairs(hidden_CxD))

    _, blocks = scan_stack(
      self.suffix, step, None, (memory.blocks, forward.hidden_SxCxD)
    )
    return dataclasses.replace(memory, blocks=blocks)
