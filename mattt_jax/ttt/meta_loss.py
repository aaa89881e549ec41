"""The outer objective: the loss while reading, after having learned to learn.

Its gradient goes through every inner step and every memory write (second order
unless `inner.second_order` is off).

Shapes: B sequences, L tokens, n chunks.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.config import require_choice
from mattt_jax.ttt.inner_loop import (
  ChunkOutput,
  Learner,
  read_sequence,
  weighted_mean,
)


@struct.dataclass
class SequenceOutput:
  """What reading a batch gave."""

  loss_BxL: Array  # of each token, before it was learned; unmasked
  correct_BxL: Array  # bool
  chunk_loss_Bxn: Array  # what each inner step descended
  aux: dict[str, Array]  # scalars, averaged over the batch


def read_batch(
  learner: Learner,
  batch: Mapping[str, Array],
  *,
  inner: bool = True,
  rate_scale: Array | float = 1.0,
) -> SequenceOutput:
  """Reads B whole sequences, each from an empty state.

  Args:
    learner: model and inner optimiser.
    batch: `tokens`, `targets`, `inner_weight`, each [B, L].
    inner: whether the fast weights learn while reading.
    rate_scale: multiplies the inner learning rate.
  """
  length = batch["tokens"].shape[1]

  def read(tokens_L, targets_L, weight_L) -> ChunkOutput:
    state = learner.init_state(length, streaming=False)
    _, outputs = read_sequence(
      learner,
      state,
      tokens_L,
      targets_L,
      weight_L,
      inner=inner,
      rate_scale=rate_scale,
    )
    return outputs

  out = jax.vmap(read)(batch["tokens"], batch["targets"], batch["inner_weight"])
  return SequenceOutput(
    loss_BxL=out.loss_C.reshape(-1, length),
    correct_BxL=out.correct_C.reshape(-1, length),
    chunk_loss_Bxn=out.inner_loss,
    aux={
      "inner_grad_norm": jnp.mean(out.inner_grad_norm),
      "null_mass": jnp.mean(out.null_mass),
    },
  )


def sequence_loss(
  loss_L: Array, weight_L: Array, chunk: int, reduction: str
) -> Array:
  """One sequence's meta loss: sum(w loss) / sum(w) over its "tokens", or the
  unweighted mean over its "chunks" of that (a chunk without weight is 0)."""
  require_choice("outer.reduction", reduction, ("tokens", "chunks"))
  if reduction == "tokens":
    return weighted_mean(loss_L, weight_L)
  chunks = (len(loss_L) // chunk, chunk)
  return jnp.mean(
    jax.vmap(weighted_mean)(loss_L.reshape(chunks), weight_L.reshape(chunks))
  )


def meta_loss(
  learner: Learner,
  batch: Mapping[str, Array],
  *,
  reduction: str = "tokens",
  inner: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[Array, SequenceOutput]:
  """The mean over the batch of `sequence_loss` under `outer_weight` [B, L]."""
  output = read_batch(learner, batch, inner=inner, rate_scale=rate_scale)
  loss_B = jax.vmap(
    lambda loss_L, weight_L: sequence_loss(
      loss_L, weight_L, learner.chunk, reduction
    )
  )(output.loss_BxL, batch["outer_weight"])
  return jnp.mean(loss_B), output
