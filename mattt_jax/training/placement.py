"""What lies where on a mesh, known before anything is computed.

All of it is shapes: the mesh may be one without devices
(`meshes.abstract_mesh`).
"""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx

from mattt_jax.config import Experiment
from mattt_jax.devices import sharding
from mattt_jax.learners import build
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.training.train_step import TrainState, abstract_state
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.read_batch import abstract_states


@dataclasses.dataclass(frozen=True)
class Placed:
  """Shapes with their shardings."""

  train: TrainState
  # Of a batch of evaluation, by tokens of the sequence; none of learners that
  # read whole sequences only.
  reading: dict[int, ContextState]

  def train_bytes(self) -> int:
    """Of a device: parameters and what the outer optimiser keeps."""
    return device_bytes(self.train)

  def evaluation_bytes(self) -> int:
    """Of a device: parameters and the largest state of evaluation."""
    states = map(device_bytes, self.reading.values())
    return device_bytes(self.train.params) + max(states, default=0)


def place(
  experiment: Experiment, vocab_size: int, mesh: sharding.AnyMesh
) -> Placed:
  """Places all that a run keeps; a program needs at least these bytes.

  Raises:
    ValueError: the devices of a mesh axis do not divide what they are to split
      (sequences of a batch, parameters, slots, ...); the message names both.
  """
  sharding.check_batches(experiment, mesh)
  graphdef, params = build.abstract_learner(experiment, vocab_size)
  optimizer = make_optimizer(experiment.outer, experiment.train.steps)
  train = abstract_state(params, optimizer, mesh, experiment.train.trainable)
  reading = {}
  if nnx.merge(graphdef, params).streams:
    size = experiment.eval.batch_size
    for length in sorted({n for _, n in experiment.lengths}):
      reading[length] = abstract_states(graphdef, params, size, length, mesh)
  return Placed(train, reading)


def device_bytes(tree: Any) -> int:
  """Bytes of a tree of placed shapes on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
