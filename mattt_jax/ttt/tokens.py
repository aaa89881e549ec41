"""What is read, of L tokens or n chunks of C, and what reading it gives."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Tokens:
  """Tokens and what is known of each: [B, L] of a batch, [L] of a sequence,
  [n, C] in chunks, [C] of a chunk."""

  tokens: Array  # int32
  targets: Array  # int32: the next tokens
  weight: Array  # in the inner loss; 0: neither learned from nor remembered
  relevant: Array  # bool: an oracle's advice on what to write


def make_tokens(
  tokens: Any, targets: Any, weight: Any = None, relevant: Any = None
) -> Tokens:
  """`Tokens` of arrays of one shape; default: every token has the weight 1, and
  no oracle advises."""
  shape = tokens.shape
  return Tokens(
    tokens=tokens,
    targets=targets,
    weight=jnp.ones(shape, jnp.float32) if weight is None else weight,
    relevant=jnp.zeros(shape, bool) if relevant is None else relevant,
  )


def tokens_of(batch: Mapping[str, Any]) -> Tokens:
  """What is read of a task's batch, or of one example."""
  return make_tokens(
    batch["tokens"],
    batch["targets"],
    batch["inner_weight"],
    batch.get("relevant"),
  )


@struct.dataclass
class Chunk:
  """C tokens that have passed the prefix."""

  x_CxD: Array
  tokens: Tokens


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


def in_chunks(tree, chunk: int):
  """Arrays [L, ...] as [n, C, ...], C the chunk."""
  return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tree)


def weighted_mean(loss: Array, weight: Array) -> Array:
  """sum(w loss) / sum(w), and 0 where all weights are 0."""
  total = jnp.sum(weight)
  # where: a token of weight 0 must not leak a nan or inf of its loss.
  kept = jnp.where(weight > 0, loss, 0.0)
  return jnp.sum(weight * kept) / jnp.maximum(total, 1e-10)
