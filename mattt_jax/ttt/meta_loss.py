"""The outer objective: the loss while reading, after having learned to learn.

Its gradient goes through every inner step and every memory write (second order
unless `inner.second_order` is off).

Shapes: B sequences, L tokens, n chunks.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require_choice
from mattt_jax.devices import sharding
from mattt_jax.ttt.context_state import ContextState
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
  # The memory's own loss, where it has one (bool); None: not asked for.
  read_loss_BxL: Array | None
  has_read_loss_BxL: Array | None
  aux: dict[str, Array]  # scalars, averaged over the batch


def read_batch(
  learner: Learner,
  batch: Mapping[str, Array],
  *,
  inner: bool = True,
  memory: bool = True,
  rate_scale: Array | float = 1.0,
) -> SequenceOutput:
  """Reads B whole sequences, each from an empty state.

  Args:
    learner: model and inner optimiser.
    batch: `tokens`, `targets`, `inner_weight`, each [B, L], and `relevant` if
      an oracle says what to write.
    inner: whether the fast weights learn while reading.
    memory: whether the memory is read and written.
    rate_scale: multiplies the inner learning rate.
  """
  learner = _placed(learner)

  def read(*arrays_L) -> ChunkOutput:
    return learner.read_whole(
      *arrays_L, inner=inner, memory=memory, rate_scale=rate_scale
    )

  return _output(_of_each(read)(*_arrays(batch)))


def read_on(
  learner: Learner,
  state: ContextState,
  batch: Mapping[str, Array],
  *,
  inner: bool = True,
  memory: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, SequenceOutput]:
  """Reads the next L tokens of B sequences on top of their states ([B, ...],
  made with `streaming=True`); several calls give what `read_batch` gives."""
  learner = _placed(learner)

  def read(state, *arrays_L):
    return read_sequence(
      learner, state, *arrays_L,
      inner=inner, memory=memory, rate_scale=rate_scale,
    )  # fmt: skip

  state, out = _of_each(read)(state, *_arrays(batch))
  return state, _output(out)


def _placed(learner: Learner) -> Learner:
  graphdef, params = nnx.split(learner)
  return nnx.merge(graphdef, sharding.constrain_parameters(params))


def _of_each(read):
  """`vmap` over the sequences; the mesh splits them as it splits a batch."""
  return jax.vmap(read, spmd_axis_name=sharding.BATCH)


def _arrays(batch: Mapping[str, Array]) -> tuple[Array, ...]:
  tokens_BxL = batch["tokens"]
  nothing_BxL = jnp.zeros(tokens_BxL.shape, bool)
  return (
    tokens_BxL,
    batch["targets"],
    batch["inner_weight"],
    batch.get("relevant", nothing_BxL),
  )


def _output(out: ChunkOutput) -> SequenceOutput:
  """Of [B, n, C] of each token, and [B, n] of each chunk."""
  length = out.loss_C.shape[1] * out.loss_C.shape[2]
  of_token = jax.tree.map(
    lambda x: x.reshape(-1, length),
    (out.loss_C, out.correct_C, out.read_loss_C, out.has_read_loss_C),
  )
  loss_BxL, correct_BxL, read_loss_BxL, has_read_loss_BxL = of_token
  found = {"inner_grad_norm": out.inner_grad_norm, **out.diagnostics}
  return SequenceOutput(
    loss_BxL=loss_BxL,
    correct_BxL=correct_BxL,
    chunk_loss_Bxn=out.inner_loss,
    read_loss_BxL=read_loss_BxL,
    has_read_loss_BxL=has_read_loss_BxL,
    aux={name: jnp.mean(value) for name, value in found.items()},
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
  memory: bool = True,
  rate_scale: Array | float = 1.0,
) -> tuple[Array, SequenceOutput]:
  """The mean over the batch of `sequence_loss` under `outer_weight` [B, L],
  plus the memory's own loss where `coordination.read_loss` says so."""
  output = read_batch(
    learner, batch, inner=inner, memory=memory, rate_scale=rate_scale
  )
  weight_BxL = batch["outer_weight"]
  loss_B = jax.vmap(
    lambda loss_L, weight_L: sequence_loss(
      loss_L, weight_L, learner.chunk, reduction
    )
  )(output.loss_BxL, weight_BxL)
  loss = jnp.mean(loss_B)
  own_BxL, has_BxL = output.read_loss_BxL, output.has_read_loss_BxL
  if own_BxL is not None and has_BxL is not None:
    share = learner.coordination.config.read_loss
    loss += share * weighted_mean(own_BxL, jnp.where(has_BxL, weight_BxL, 0.0))
  return loss, output
