"""A block: mixing over tokens, a memory read, a fast MLP, a static MLP.

Each is x + post_norm(f(pre_norm(x))); the memory has a gate of its own instead.

Shapes: C chunk, D model.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx, struct
from jax import Array

from mattt_jax.config import ModelConfig
from mattt_jax.layers import linear_attention
from mattt_jax.layers.mlp import SwiGLU
from mattt_jax.layers.multi_head import Attention
from mattt_jax.layers.norms import make_norm, vector_norm
from mattt_jax.memory.base import Memory, ResidualRead

_MIXERS: dict[str, Callable[..., Any]] = {
  "attention": Attention,
  "prefix_attention": functools.partial(Attention, prefix=True),
  "gated_delta": linear_attention.GatedDeltaNet,
}


@struct.dataclass
class BlockRead:
  """The question to the memory of a block, and the answer."""

  asked_CxD: Array  # hidden state; what was read here is also written
  answer: ResidualRead
  share_C: Array  # of the answer in the residual stream: |read| / |x + read|


class Block(nnx.Module):
  """One block; only suffix blocks have a fast MLP and a memory."""

  def __init__(
    self,
    config: ModelConfig,
    rngs: nnx.Rngs,
    *,
    mixer: str = "attention",
    fast_mlp: bool = False,
    memory: Memory | None = None,
  ):
    c = config
    norm = functools.partial(make_norm, dim=c.dim, eps=c.norm_eps)

    self.attention_norm = norm(c.pre_norm)
    self.attention = _MIXERS[mixer](c, rngs)
    self.attention_post_norm = norm(c.post_norm)
    self.mlp_norm = norm(c.pre_norm)
    self.mlp = SwiGLU(c.dim, c.mlp_dim, c.init_std, rngs)
    self.mlp_post_norm = norm(c.post_norm)
    self.has_fast_mlp = fast_mlp
    if fast_mlp:
      self.fast_mlp_norm = norm(c.pre_norm)
      self.fast_mlp = SwiGLU(c.dim, c.fast_mlp_dim, c.init_std, rngs)
      self.fast_mlp_post_norm = norm(c.post_norm)
    if memory is not None:
      self.memory = memory

  def __call__(
    self, x_CxD, cache, position, memory_state=None, address_CxD=None
  ):
    """x_CxD, the cache and the `BlockRead` (None if `memory_state` is None,
    which reads without a memory) after a chunk."""
    read = None

    def recall(x_CxD, place):
      nonlocal read
      if memory_state is None or self.memory.config.place != place:
        return x_CxD
      here = self.memory.config.address == "hidden"
      asked_CxD = x_CxD if here else address_CxD
      answer = self.memory.read(memory_state, asked_CxD)
      out_CxD = x_CxD + answer.output_CxD.astype(x_CxD.dtype)
      share_C = vector_norm(answer.output_CxD) / (vector_norm(out_CxD) + 1e-6)
      read = BlockRead(asked_CxD, answer, jax.lax.stop_gradient(share_C))
      return out_CxD

    x_CxD = recall(x_CxD, "before_attention")
    out, cache = self.attention(self.attention_norm(x_CxD), cache, position)
    x_CxD = recall(x_CxD + self.attention_post_norm(out), "after_attention")
    if self.has_fast_mlp:
      out = self.fast_mlp(self.fast_mlp_norm(x_CxD))
      x_CxD = x_CxD + self.fast_mlp_post_norm(out)
    out = self.mlp(self.mlp_norm(x_CxD))
    x_CxD = recall(x_CxD + self.mlp_post_norm(out), "after_mlp")
    return x_CxD, cache, read
