"""Reads sequences of any length, whole or in segments with a state between."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mattt_jax.config import Experiment
from mattt_jax.devices import meshes, processes, sharding
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.meta_loss import SequenceOutput, read_batch, read_on

READ = ("tokens", "targets", "inner_weight", "relevant")
_OF_TOKENS = ("loss_BxL", "correct_BxL", "chunk_loss_Bxn", "read_loss_BxL",
              "has_read_loss_BxL")  # fmt: skip
_STATIC = ("graphdef", "mesh", "inner", "memory")


def read(
  experiment: Experiment,
  graphdef: nnx.GraphDef,
  params: Any,
  batch: Mapping[str, np.ndarray],
  mesh: Mesh,
  scale: Any = 1.0,
  *,
  inner: bool,
  memory: bool,
) -> SequenceOutput:
  """Reads B sequences, whole or in segments, and returns NumPy arrays.

  Args:
    experiment: gives `eval.segment`.
    graphdef: of the learner.
    params: of the learner.
    batch: arrays [B, L] of an example.
    mesh: its devices share the sequences.
    scale: multiplies the inner learning rate.
    inner: whether the fast weights learn while reading.
    memory: whether the memory is read and written.
  """
  found = [*segments(
    experiment, graphdef, params, batch, mesh, scale,
    inner=inner, memory=memory,
  )]  # fmt: skip
  tokens = [out.loss_BxL.shape[1] for out in found]
  return SequenceOutput(
    **{
      field: _joined([getattr(out, field) for out in found])
      for field in _OF_TOKENS
    },
    aux={
      k: np.average([out.aux[k] for out in found], weights=tokens)
      for k in found[0].aux
    },
  )


def segments(
  experiment: Experiment,
  graphdef: nnx.GraphDef,
  params: Any,
  batch: Mapping[str, np.ndarray],
  mesh: Mesh,
  scale: Any = 1.0,
  *,
  inner: bool,
  memory: bool,
) -> Iterator[SequenceOutput]:
  """`read`, a segment at a time, as soon as it is read."""
  size, length = batch["tokens"].shape
  arrays = {k: batch[k] for k in READ if k in batch}
  parts = {"inner": inner, "memory": memory}
  segment = _segment(experiment, graphdef, params, length)
  if segment == length:
    placed = sharding.put_whole_batch(arrays, mesh)
    yield processes.fetch(_read(graphdef, params, placed, scale, mesh, **parts))
    return
  state = _start(graphdef, params, size, length, mesh)
  for start in range(0, length, segment):
    placed = sharding.put_whole_batch(
      {k: x[:, start : start + segment] for k, x in arrays.items()}, mesh
    )
    state, out = _read_on(graphdef, params, state, placed, scale, mesh, **parts)
    yield processes.fetch(out)


def states(
  graphdef: nnx.GraphDef,
  params: Any,
  batch: Mapping[str, np.ndarray],
  context_length: int,
  scale: Any = 1.0,
  *,
  inner: bool,
  memory: bool,
) -> Iterator[ContextState]:
  """The states [B, ...] of B sequences before each chunk, while they are read.

  A state is gone once the next one is asked for. The arguments are those of
  `read`; `context_length` may be more than is read here.
  """
  chunk, (size, length) = (
    nnx.merge(graphdef, params).chunk, batch["tokens"].shape
  )  # fmt: skip
  mesh = meshes.make_mesh(1)
  state = _start(graphdef, params, size, context_length, mesh)
  for start in range(0, length, chunk):
    yield state
    placed = sharding.put_whole_batch(
      {k: batch[k][:, start : start + chunk] for k in READ}, mesh
    )
    state, _ = _read_on(
      graphdef, params, state, placed, scale, mesh, inner=inner, memory=memory
    )


def lower(
  experiment: Experiment,
  graphdef: nnx.GraphDef,
  params: Any,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  mesh: Mesh,
  *,
  inner: bool,
  memory: bool,
) -> jax.stages.Lowered:
  """The program that `segments` runs (for all but a shorter last segment),
  lowered for the shapes `params`, which say where they lie, and `batch`."""
  size, length = batch["tokens"].shape
  segment = _segment(experiment, graphdef, params, length)
  split = sharding.split_batch(mesh)
  arrays = {
    k: jax.ShapeDtypeStruct((size, segment), batch[k].dtype, sharding=split)
    for k in READ
  }
  parts = {"inner": inner, "memory": memory}
  if segment == length:
    return _read.lower(graphdef, params, arrays, 1.0, mesh, **parts)
  state = abstract_states(graphdef, params, size, length, mesh)
  return _read_on.lower(graphdef, params, state, arrays, 1.0, mesh, **parts)


def abstract_states(
  graphdef: nnx.GraphDef,
  params: Any,
  size: int,
  length: int,
  mesh: sharding.AnyMesh,
) -> ContextState:
  """The shapes of the state of `size` sequences of `length` tokens that is
  carried from segment to segment, and where they lie.

  Raises:
    ValueError: the devices of a mesh axis do not divide what they are to split.
  """
  states = jax.eval_shape(_starter(graphdef, size, length), params)
  return sharding.abstract(states, sharding.split_states(mesh, states))


def _segment(experiment, graphdef, params, length: int) -> int:
  """Tokens of a segment of `length` tokens."""
  if not nnx.merge(graphdef, params).streams:
    return length
  return segment_size(length, experiment.chunk, experiment.eval.segment)


def _joined(parts: list):
  return None if parts[0] is None else np.concatenate(parts, axis=1)


def segment_size(length: int, chunk: int, most: int) -> int:
  """Tokens of the equal segments (the last may be shorter) in which `length`
  tokens are read: whole chunks, at most `most` if that holds one; 0: whole."""
  if not most or length <= most:
    return length
  chunks, most = length // chunk, max(1, most // chunk)
  return math.ceil(chunks / math.ceil(chunks / most)) * chunk


# Compiled once for each size; the graphdef is the same object every time.
@functools.partial(jax.jit, static_argnames=_STATIC)
def _read(graphdef, params, batch, scale, mesh, *, inner, memory):
  with sharding.on(mesh):
    return read_batch(
      nnx.merge(graphdef, params), batch,
      inner=inner, memory=memory, rate_scale=scale,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("state",))
def _read_on(graphdef, params, state, batch, scale, mesh, *, inner, memory):
  with sharding.on(mesh):
    return read_on(
      nnx.merge(graphdef, params), state, batch,
      inner=inner, memory=memory, rate_scale=scale,
    )  # fmt: skip


def _start(graphdef, params, size: int, length: int, mesh: Mesh):
  """The state of `size` sequences of `length` tokens before their first."""
  start = _starter(graphdef, size, length)
  placed = sharding.split_states(mesh, jax.eval_shape(start, params))
  return jax.jit(start, out_shardings=placed)(params)


def _starter(graphdef, size: int, length: int):
  def start(params):
    state = nnx.merge(graphdef, params).init_state(length)
    return jax.tree.map(
      lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), state
    )

  return start
