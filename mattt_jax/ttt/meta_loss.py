"""The outer objective: the loss while reading.

Its gradient goes through every inner step and every memory write (second order
unless `inner.second_order` is off). Shapes: B sequences, L tokens.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from mattt_jax.config import require_choice
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.read_batch import SequenceOutput, read_batch
from mattt_jax.ttt.tokens import in_chunks, tokens_of, weighted_mean


def sequence_loss(
  loss_L: Array, weight_L: Array, chunk: int, reduction: str
) -> Array:
  """One sequence's meta loss: sum(w loss) / sum(w) over its "tokens", or the
  unweighted mean over its "chunks" of that (a chunk without weight is 0)."""
  require_choice("outer.reduction", reduction, ("tokens", "chunks"))
  if reduction == "tokens":
    return weighted_mean(loss_L, weight_L)
  chunks = in_chunks((loss_L, weight_L), chunk)
  return jnp.mean(jax.vmap(weighted_mean)(*chunks))


def meta_loss(
  learner: Learner,
  batch: Mapping[str, Array],
  parts: Parts = ALL,
  *,
  reduction: str = "tokens",
  rate_scale: Array | float = 1.0,
) -> tuple[Array, SequenceOutput]:
  """The mean over the batch of `sequence_loss` under `outer_weight` [B, L],
  plus the memory's own loss where `coordination.read_loss` says so."""
  output = read_batch(learner, tokens_of(batch), parts, rate_scale)
  weight_BxL = batch["outer_weight"]
  loss_fn = functools.partial(
    sequence_loss, chunk=learner.chunk, reduction=reduction
  )
  loss = jnp.mean(jax.vmap(loss_fn)(output.loss_BxL, weight_BxL))
  own_BxL, has_BxL = output.read_loss_BxL, output.has_read_loss_BxL
  if own_BxL is not None and has_BxL is not None:
    share = learner.coordination.config.read_loss
    loss += share * weighted_mean(own_BxL, jnp.where(has_BxL, weight_BxL, 0.0))
  return loss, output
