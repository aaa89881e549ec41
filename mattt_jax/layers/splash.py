"""Windowed attention of the prefix by a Pallas kernel of JAX, on TPUs.

Splash attention goes through the blocks of a causal window and keeps scores in
the chip's own memory. Its backward pass is a kernel, which cannot be
differentiated again: that serves the prefix; the suffix, whose gradient is
differentiated, has `attention.attend`.

Shapes: as in `attention`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jax.sharding import PartitionSpec

from mattt_jax.config import require
from mattt_jax.devices import sharding

_LANES = 128  # a block is a multiple of it
BLOCK = 512  # the most queries, and keys, of a block


def fits(length: int, past: int) -> bool:
  """Whether the kernel takes L tokens after P past ones."""
  shards = sharding.devices_on(sharding.CONTEXT)
  return length % (shards * _LANES) == 0 and past % _LANES == 0


def attend(
  q_HxLxK: Array,
  k_HxSxK: Array,
  v_HxSxK: Array,
  position: Array | int,
  window: int,
  *,
  interpret: bool = False,
) -> Array:
  """`attention.attend`, to be differentiated once.

  On a mesh each device has its heads ("tensor") and its queries ("context");
  `vmap` splits the sequences of a batch (its `spmd_axis_name`). `interpret`
  runs the kernel in Python, on any device: for tests.

  Raises:
    ValueError: a length is no multiple of 128 (on each device).
  """
  length, past = q_HxLxK.shape[1], k_HxSxK.shape[1] - q_HxLxK.shape[1]
  require(
    fits(length, past),
    f"model.prefix_attention='splash' reads {length} tokens after {past}: both "
    f"must be multiples of {_LANES}, the tokens on each device of mesh.context "
    "too; use model.prefix_attention='auto'",
  )
  tensor, context = sharding.TENSOR, sharding.CONTEXT
  shards = sharding.devices_on(tensor), sharding.devices_on(context)
  kernel = _kernel(len(q_HxLxK), length, past, window, shards, interpret)
  # Empty slots are of another segment than all queries.
  key_position_S = position - past + jnp.arange(past + length)
  segment_S = (key_position_S < 0).astype(jnp.int32)
  segment_L = jnp.zeros((length,), jnp.int32)
  scale = 1 / math.sqrt(q_HxLxK.shape[-1])

  def read(kernel, q, k, v, segment_q, segment_k):
    ids = kernels.SegmentIds(segment_q, segment_k)
    return kernel((q * scale).astype(q.dtype), k, v, ids)

  arrays = q_HxLxK, k_HxSxK, v_HxSxK, segment_L, segment_S
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return read(kernel, *arrays)
  queries = PartitionSpec(tensor, context)
  keys = PartitionSpec(tensor)
  blocks = jax.sharding.NamedSharding(mesh, queries)
  return jax.shard_map(
    read,
    in_specs=(
      kernel.manual_sharding_spec(blocks),
      queries, keys, keys, PartitionSpec(context), PartitionSpec(),
    ),
    out_specs=queries,
    check_vma=False,
  )(kernel, *arrays)  # fmt: skip


@functools.cache
def _kernel(
  heads: int,
  length: int,
  past: int,
  window: int,
  shards: tuple[int, int],
  interpret: bool,
) -> kernels.SplashAttentionKernel:
  block_q = _divisor(length // shards[1])
  block_k = _divisor(math.gcd(past, length) if past else length)
  mask = masks.LocalMask((length, past + length), (window - 1, 0), past)
  with jax.ensure_compile_time_eval():
    return kernels.make_splash_mha(
      masks.MultiHeadMask([mask] * heads),
      block_sizes=kernels.BlockSizes(
        block_q=block_q, block_kv=block_k, block_kv_compute=block_k,
        block_q_dkv=block_q, block_kv_dkv=block_k, block_kv_dkv_compute=block_k,
        block_q_dq=block_q, block_kv_dq=block_k,
      ),
      head_shards=shards[0],
      q_seq_shards=shards[1],
      interpret=interpret,
    )  # fmt: skip


def _divisor(length: int) -> int:
  """The largest multiple of 128 up to `BLOCK` that divides `length`."""
  return max(n for n in range(_LANES, BLOCK + 1, _LANES) if length % n == 0)
