"""The decoder: a prefix read once, a suffix read inside the inner loop.

    tokens -> embedding -> prefix blocks -> | suffix blocks -> norm -> head |
                                            |  (per chunk, fast weights)    |

A suffix block is attention (or a gated delta rule in its place), then
(optionally) a memory read, then the fast MLP, then the static MLP, each
x + post_norm(f(pre_norm(x))). A pointer memory reads beside the head instead.

Shapes: L tokens, C chunk, D model, V vocabulary, S suffix blocks.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.layers import attention, linear_attention
from mattt_jax.layers.norms import make_norm, rms_normalize, vector_norm
from mattt_jax.layers.parameters import normal_param, repeat, scan_stack, stack
from mattt_jax.memory import none
from mattt_jax.memory.base import (
  BaseConfig,
  Pairs,
  PointerRead,
  ResidualRead,
)
from mattt_jax.model import fast_weights, head, mixture
from mattt_jax.model.block import Block

# Suffix blocks a loop iteration. They are few, and differentiated twice: an
# unrolled loop takes less time and memory (benchmarks/meta_step.py shows it),
# for a slightly longer compilation.
_UNROLL = 4


@struct.dataclass
class Cache:
  """Of attention or mixer, stacked over blocks. prefix None: read from the
  start."""

  prefix: attention.KVCache | None
  suffix: attention.KVCache | linear_attention.DeltaCache | None


@struct.dataclass
class MemoryState:
  """Of the memory at the head, or of one memory a suffix block (stacked)."""

  pointer: struct.PyTreeNode | None
  blocks: struct.PyTreeNode | None


@struct.dataclass
class Forward:
  """A chunk read with the weights and memory from before it."""

  final_CxD: Array  # what the head sees
  pointer: PointerRead | None
  # Of the suffix blocks, stacked: what was read, and its share of the residual
  # stream |read| / |x + read|. None without a residual memory.
  reads: ResidualRead | None
  read_share_SxC: Array | None
  # Of the suffix, after the chunk.
  cache: attention.KVCache | linear_attention.DeltaCache | None
  address_CxD: Array  # the prefix output: stable addresses
  hidden_SxCxD: Array | None  # hidden state at the memory's place


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
    self.memory_value = getattr(memory, "value", None)
    self.memory_score = getattr(memory, "score", None)
    self.feeds = getattr(memory, "feed", False)

    def suffix_block(rngs):
      kept = None
      if isinstance(memory, BaseConfig) and memory.read == "residual":
        kept = memory.make(c.dim, chunk, rngs)
      return Block(
        c,
        rngs,
        mixer=c.suffix_mixer,
        fast_mlp=c.fast_mlp_dim > 0,
        memory=kept,
      )

    self.num_prefix = c.num_layers - c.num_suffix
    self.embedding = normal_param(
      rngs, (vocab_size, c.dim), c.embedding_std or c.init_std
    )
    if self.num_prefix:
      self.prefix = stack(
        lambda rngs: Block(c, rngs, mixer="prefix_attention"),
        self.num_prefix,
        rngs,
      )
    if c.num_suffix:
      self.suffix = stack(suffix_block, c.num_suffix, rngs)
    self.final_norm = make_norm(True, c.dim, c.norm_eps)
    if not c.tie_embeddings:
      self.head = normal_param(rngs, (c.dim, vocab_size), c.init_std)
    if isinstance(memory, BaseConfig) and memory.read == "pointer":
      self.pointer = memory.make(c.dim, chunk, rngs)
      if self.feeds:
        self.speak_bias = nnx.Param(jnp.zeros((), jnp.float32))
        self.speak_weight = nnx.Param(jnp.zeros((c.dim,), jnp.float32))
    fast_weights.mark(self, c.fast)

  # State carried from chunk to chunk.

  def init_cache(self, context_length: int, streaming: bool = True) -> Cache:
    """Empty caches; the prefix needs one only when `streaming`, that is when
    the context comes in several calls of `read_prefix`."""
    c = self.config
    length = c.window if c.attention == "window" else context_length

    def stacked(count, mixer="attention"):
      if not count:
        return None
      dtype = jnp.dtype(c.dtype)
      if mixer == "gated_delta":
        one = linear_attention.init_cache(c.num_heads, c.head_dim, dtype)
        return repeat(one, count)
      kv = attention.init_cache(c.num_heads, length, c.head_dim, dtype)
      return repeat(kv, count)

    return Cache(
      prefix=stacked(self.num_prefix) if streaming else None,
      suffix=stacked(c.num_suffix, c.suffix_mixer),
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

  def forward(
    self, x_CxD, cache: Cache, memory: MemoryState | None, position
  ) -> Forward:
    """Suffix blocks and head on a chunk of the prefix's output.

    `memory` None reads without the memory, as if there were none.
    """
    address_CxD = x_CxD
    kv = asked = pointer = None
    if self.memory_read == "pointer" and memory is not None:
      pointer = self.pointer.read(memory.pointer, address_CxD)
      if self.feeds:
        x_CxD = x_CxD + self._expected_embedding(pointer).astype(x_CxD.dtype)
        logit_C = self.speak_bias[...] + (
          rms_normalize(address_CxD, 1e-6) @ self.speak_weight[...]
        )
        pointer = mixture.speak(pointer, logit_C)
    if self.config.num_suffix:

      def step(block, x_CxD, block_state):
        block_cache, block_memory = block_state
        x_CxD, block_cache, asked = block(
          x_CxD, block_cache, position, block_memory, address_CxD
        )
        return x_CxD, (block_cache, asked)

      x_CxD, (kv, asked) = scan_stack(
        self.suffix,
        step,
        x_CxD,
        (cache.suffix, memory.blocks if memory is not None else None),
        unroll=min(self.config.num_suffix, _UNROLL),
      )
    hidden_SxCxD, reads, read_share_SxC = asked or (None, None, None)
    return Forward(
      final_CxD=self.final_norm(x_CxD),
      pointer=pointer,
      reads=reads,
      read_share_SxC=read_share_SxC,
      cache=kv,
      address_CxD=address_CxD,
      hidden_SxCxD=hidden_SxCxD,
    )

  def _head(self) -> Array:
    if self.config.tie_embeddings:
      return self.embedding[...].T
    return self.head[...]

  def _scores(self, h_CxD: Array, targets_C: Array, asked_CxJ=None):
    block = self.config.vocab_block
    return head.scores(h_CxD, self._head(), targets_C, block, asked_CxJ)

  def _expected_embedding(self, read: PointerRead) -> Array:
    """sum_j w_j E[token_j]: what was recalled, as if it had been read."""
    return jnp.einsum(
      "cj,cjd->cd",
      jnp.exp(read.log_prob_CxJ),
      self.embedding[...][read.token_CxJ],
    )

  def score(self, forward: Forward, targets_C: Array) -> tuple[Array, Array]:
    """-log p(target) of each token, [C], and whether no other one is more
    likely, [C]; p is mixed with the pointer's."""
    p = forward.pointer
    if p is None:
      own = self._scores(forward.final_CxD, targets_C)
      return -own.log_prob_C, own.likely_C == targets_C
    own = self._scores(forward.final_CxD, targets_C, p.token_CxJ)
    return mixture.score(p, own, targets_C, self.vocab_size)

  def read_loss(self, forward: Forward, targets_C: Array):
    """The memory's own next-token loss, and which tokens have one: (C, C).

    Of a pointer: -log of its share on the target, among the tokens it
    recalled, where the target is one of them. Of a residual read: the head's
    cross-entropy on what was added alone, where something was.
    """
    if forward.pointer is not None:
      return mixture.recalled_loss(forward.pointer, targets_C)
    if forward.reads is not None:
      added_CxD = jnp.sum(forward.reads.output_CxD, axis=0)
      some_C = jnp.any(added_CxD != 0, axis=-1)
      loss_C = -self._scores(self.final_norm(added_CxD), targets_C).log_prob_C
      return jnp.where(some_C, loss_C, 0.0), some_C
    return jnp.zeros(targets_C.shape), jnp.zeros(targets_C.shape, bool)

  def memory_use(self, forward: Forward) -> Array:
    """How much of each token's prediction is the memory's, in [0, 1], [C]."""
    if forward.pointer is not None:
      return 1 - jnp.exp(forward.pointer.log_null_C)
    if forward.reads is not None:
      gate_SxC = jnp.abs(forward.reads.gate_C)
      return jnp.mean(gate_SxC * (1 - forward.reads.null_C), axis=0)
    return jnp.zeros(len(forward.final_CxD))

  def diagnostics(self, forward: Forward) -> dict[str, Array]:
    """Means over the chunk, in [0, 1], that show a memory which is not used.

    null_mass: share of a read that falls on "nothing recalled" (1: no memory);
    gate: how far the gate is open; memory_share: |read| / |residual stream|,
    of a pointer its share of the next-token distribution.
    """
    null, gate, share = jnp.ones(()), jnp.zeros(()), jnp.zeros(())
    if forward.pointer is not None:
      null = jnp.mean(jnp.exp(forward.pointer.log_null_C))
      gate = share = 1 - null
    elif forward.reads is not None and forward.read_share_SxC is not None:
      null = jnp.mean(forward.reads.null_C)
      gate = jnp.mean(jnp.abs(forward.reads.gate_C))
      share = jnp.mean(forward.read_share_SxC)
    found = {"null_mass": null, "gate": gate, "memory_share": share}
    return jax.lax.stop_gradient(found)

  def logits(self, forward: Forward) -> Array:
    """The model's own, without the pointer, [C, V]."""
    return head.logits(forward.final_CxD, self._head())

  def next_token_probs(self, forward: Forward) -> Array:
    """p(next token), [C, V], the pointer's share included."""
    probs_CxV = jax.nn.softmax(self.logits(forward))
    if forward.pointer is None:
      return probs_CxV
    return mixture.next_token_probs(forward.pointer, probs_CxV)

  def write(
    self,
    memory: MemoryState,
    forward: Forward,
    targets_C: Array,
    surprise_C: Array,
    relevant_C: Array,
    valid_C: Array,
  ) -> MemoryState:
    """Stores the chunk's next-token pairs."""
    if self.memory_read is None:
      return memory
    # Embeddings start at init_std; values should not.
    next_CxD = rms_normalize(self.embedding[...][targets_C], 1e-6)
    gradient_C = None
    if self.memory_score == "gradient":
      gradient_C = self._gradient_norm(forward, targets_C)

    def pairs(hidden_CxD):
      value_CxD = hidden_CxD if self.memory_value == "hidden" else next_CxD
      return Pairs(
        hidden_CxD=hidden_CxD,
        value_CxD=value_CxD,
        next_token_C=targets_C,
        surprise_C=surprise_C,
        gradient_C=gradient_C,
        relevant_C=relevant_C,
        valid_C=valid_C,
      )

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

  def _gradient_norm(self, forward: Forward, targets_C: Array) -> Array:
    """|d loss / d final hidden| of the model's own prediction, [C]."""

    def loss(h_CxD):
      return -jnp.sum(self._scores(h_CxD, targets_C).log_prob_C)

    gradient_CxD = jax.grad(loss)(jax.lax.stop_gradient(forward.final_CxD))
    return jax.lax.stop_gradient(vector_norm(gradient_CxD))
