"""Placement of all that a run keeps, as shapes: the mesh may be one without
devices (`meshes.abstract_mesh`)."""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx

from mattt_jax.config import Experiment
from mattt_jax.devices import sharding
from mattt_jax.training.train_step import TrainState, abstract_training
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.read_batch import abstract_states


@dataclasses.dataclass(frozen=True)
class Placed:
  """Shapes with their shardings."""

  train: TrainState
  # States of a batch of evaluation, by tokens of the sequence; empty for
  # learners that read whole sequences only.
  reading: dict[int, ContextState]


def place(
  experiment: Experiment, vocab_size: int, mesh: sharding.AnyMesh
) -> Placed:
  """Places all that a run keeps; a program needs at least these bytes.

  Raises:
    ValueError: the devices of a mesh axis do not divide what they split; the
      message names both.
  """
  sharding.check_batches(experiment, mesh)
  graphdef, _, train = abstract_training(experiment, vocab_size, mesh)
  reading = {}
  if nnx.merge(graphdef, train.params).streams:
    for length in sorted({n for _, n in experiment.lengths}):
      reading[length] = abstract_states(
        graphdef, train.params, experiment.eval.batch_size, length, mesh
      )
  return Placed(train, reading)


def device_bytes(tree: Any) -> int:
  """Bytes of a tree of placed shapes on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
