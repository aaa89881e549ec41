"""Reading B sequences at once, of L tokens or n chunks each."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array
from jax.sharding import Mesh

from mattt_jax.devices import sharding
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import ChunkOutput, Tokens


@struct.dataclass
class SequenceOutput:
  """What reading a batch gave."""

  loss_BxL: Array  # of each token, before it was learned; unmasked
  correct_BxL: Array  # bool
  chunk_loss_Bxn: Array  # what each inner step descended
  # The memory's own loss and (bool) where it has one; None: unused.
  read_loss_BxL: Array | None
  has_read_loss_BxL: Array | None
  aux: dict[str, Array]  # scalars, averaged over the batch


def read_batch(
  learner: Learner,
  tokens: Tokens,
  parts: Parts = ALL,
  rate_scale: Array | float = 1.0,
) -> SequenceOutput:
  """Reads B whole sequences, [B, L], each from an empty state; `rate_scale`
  multiplies the inner learning rate."""
  learner = _placed(learner)

  def read(tokens_L) -> ChunkOutput:
    return learner.read_whole(tokens_L, parts, rate_scale)

  return _output(_of_each(read)(tokens))


def read_on(
  learner: Learner,
  state: ContextState,
  tokens: Tokens,
  parts: Parts = ALL,
  rate_scale: Array | float = 1.0,
) -> tuple[ContextState, SequenceOutput]:
  """Reads the next L tokens of B sequences on top of their states ([B, ...],
  made with `streaming=True`); several calls give what `read_batch` gives."""
  learner = _placed(learner)

  def read(state, tokens_L):
    return read_sequence(learner, state, tokens_L, parts, rate_scale)

  state, out = _of_each(read)(state, tokens)
  return state, _output(out)


def _placed(learner: Learner) -> Learner:
  graphdef, params = nnx.split(learner)
  return nnx.merge(graphdef, sharding.constrain_parameters(params))


def _of_each(read):
  """`vmap` over the sequences; the mesh splits them as it splits a batch."""
  return jax.vmap(read, spmd_axis_name=sharding.BATCH)


def _output(out: ChunkOutput) -> SequenceOutput:
  """Joins the chunks of [B, n, C] for each token; [B, n] for each chunk."""

  def flat(x_BxnxC):
    return None if x_BxnxC is None else x_BxnxC.reshape(len(x_BxnxC), -1)

  scalars = {"inner_grad_norm": out.inner_grad_norm, **out.diagnostics}
  return SequenceOutput(
    loss_BxL=flat(out.loss_C),
    correct_BxL=flat(out.correct_C),
    chunk_loss_Bxn=out.inner_loss,
    read_loss_BxL=flat(out.read_loss_C),
    has_read_loss_BxL=flat(out.has_read_loss_C),
    aux={name: jnp.mean(value) for name, value in scalars.items()},
  )


def start_states(
  graphdef: nnx.GraphDef, params: Any, size: int, length: int, mesh: Mesh
) -> ContextState:
  """States [B, ...] of `size` sequences before their first of `length` tokens,
  on `mesh`."""
  start = _starter(graphdef, size, length)
  placed = sharding.split_states(mesh, jax.eval_shape(start, params))
  return jax.jit(start, out_shardings=placed)(params)


def abstract_states(
  graphdef: nnx.GraphDef,
  params: Any,
  size: int,
  length: int,
  mesh: sharding.AnyMesh,
) -> ContextState:
  """The shapes of `start_states`, and where they lie; `params` may be shapes,
  and `mesh` one without devices.

  Raises:
    ValueError: the devices of a mesh axis do not divide what they are to split.
  """
  states = jax.eval_shape(_starter(graphdef, size, length), params)
  return sharding.abstract(states, sharding.split_states(mesh, states))


def _starter(graphdef, size: int, length: int):
  def start(params):
    state = nnx.merge(graphdef, params).init_state(length)
    return jax.tree.map(
      lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), state
    )

  return start
