"""Memory of a train step on TPUs, without a compiler.

At its peak a device is in the middle of the outer backward pass, at a chunk in
the suffix, and holds (in bytes):

    arguments      parameters, both moments of the trainable ones, batch
    accumulated    gradients of the micro-batches before (as those)
    states         kept before segments and chunks: for each level of
                   `inner.remat_levels` its number of parts times one state
                   (fast weights, their optimiser's state, memory, and the
                   cache, of which "context" keeps a piece on each device)
    gradients_kept the inner gradient of each chunk of a segment
    prefix         input of each prefix block, output of the prefix and its
                   cotangent: (blocks + 2) L D; the output alone, where nothing
                   of prefix and embedding is trainable
    gathered       the suffix's parameters that "fsdp" splits, whole; the
                   head's too, where it is not laid out
    casts          the suffix's parameters, fast weights and the cotangent of
                   their gradient, in `model.dtype` where that is not float32
    slow_gradients sum over chunks, for what is trainable of suffix, embedding
                   and head
    cotangents     of a state, of the inner gradient, of the new fast weights
    head           its matrix, laid out in blocks of the vocabulary: 4 V D
    chunk          what suffix blocks keep of C tokens, and its derivative
                   along the cotangent of the inner gradient: twice, for each
                   block, 13 arrays of C D and 3 of C F for each MLP
    window         the same for keys, rotated keys and values of the W + C
                   positions: twice, for each block, 3 (W + C) D
    slots          scores of C tokens on the M slots of a memory
                   (`scores_per_token`), derivative, gradient: 3 x 4 C M
    working        the larger of the head's (for each sequence the gradient of
                   its matrix, if trainable, logits of a block and their
                   derivative) and of the attention's (softmax of b queries,
                   derivative, gradient): 3 x 4 H b (reach + b)
    on_chip        less half of the chip's own 128 MiB, which is free to hold
                   parts of the last four terms

Sizes of parameters and states, most of the sum, are those of `jax.eval_shape`
of the code that runs, shared by the rules of `sharding`. The casts and the
terms from `chunk` on are estimates: compilers fuse, copy and pad.
benchmarks/plan.py and benchmarks/memory_model.py compare the sum with theirs.
"""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from mattt_jax.config import Experiment
from mattt_jax.devices import meshes, sharding
from mattt_jax.devices.sharding import AnyMesh
from mattt_jax.layers import attention
from mattt_jax.learners import build, recurrence
from mattt_jax.model import fast_weights
from mattt_jax.training import parameters
from mattt_jax.training.placement import device_bytes
from mattt_jax.training.train_step import abstract_training

_FLOAT32 = 4
_ON_CHIP = 64 * 2**20


def covers(experiment: Experiment) -> bool:
  """Whether the terms hold: for a transformer that learns while it reads, with
  the inner loop's defaults of differentiation and recomputation."""
  inner = experiment.inner
  return (
    isinstance(experiment.learner, recurrence.Config)
    and inner.enabled
    and inner.second_order
    and inner.differentiation == "mixed"
    and inner.remat_levels != 0
    and not inner.offload
  )


def train_step_bytes(
  experiment: Experiment,
  vocab_size: int,
  mesh: AnyMesh,
  *,
  sequences: int | None = None,
  length: int | None = None,
) -> dict[str, int]:
  """Terms above for one device, in bytes; their sum is the peak.

  Args:
    experiment: covered (`covers`), its inner loop on.
    vocab_size: of the task.
    mesh: to split it over.
    sequences: of a batch; default: `experiment.batch_size`.
    length: tokens of a sequence; default: `experiment.length`.
  """
  sequences = sequences or experiment.batch_size
  length = length or experiment.length
  model, chunk = experiment.model, experiment.chunk
  at_once = experiment.train.micro_batch or sequences
  here = at_once // sharding.batch_devices(mesh)  # sequences
  tensor, context = mesh.shape[sharding.TENSOR], mesh.shape[sharding.CONTEXT]
  graphdef, _, train_state = abstract_training(experiment, vocab_size, mesh)
  params = train_state.params
  batch = sharding.abstract(
    build.abstract_batch(sequences, length), sharding.split_batch(mesh)
  )
  moved, _ = parameters.split(params, experiment.train.trainable)
  moving = parameters.trainable_paths(params, experiment.train.trainable)
  first = {path.split("/")[0] for path in moving}
  parts, slow, *states = _of_learner(graphdef, params, length)
  *outer, chunks = parts
  segment_state, state = (_state_bytes(s, at_once, mesh) for s in states)
  tokens = length // math.prod(outer)  # of a segment: the prefix reads it whole
  item = jax.numpy.dtype(model.dtype).itemsize
  read = _parameter_bytes(slow, _unsplit(mesh))  # where chunks are read
  learned = {k: x for k, x in parameters.named(slow).items() if k in moving}
  head_moves = ("embedding" if model.tie_embeddings else "head") in first
  kept_layers = 1
  if first & {"prefix", "embedding"}:  # else no backward pass through it
    kept_layers = model.num_layers - model.num_suffix + 2

  heads = model.num_heads // tensor
  block, keys = _attention_block(model, chunk, length)
  vocab_blocks = math.ceil(vocab_size / (model.vocab_block or vocab_size))
  logits = chunk // context * math.ceil(vocab_size / vocab_blocks) // tensor
  matrix = _FLOAT32 * vocab_size * model.dim // tensor
  laid_out = (vocab_blocks > 1) * matrix
  scoring = here * (head_moves * matrix + 2 * _FLOAT32 * logits)
  attending = here * 3 * _FLOAT32 * heads * block * keys // context
  past = model.window if model.attention == "window" else length
  terms = {
    "arguments": device_bytes((train_state, batch)),
    "accumulated": (sequences > at_once) * _parameter_bytes(moved, mesh),
    "states": sum(outer) * _kept(segment_state, context)
    + chunks * _kept(state, context),
    "gradients_kept": chunks * state["fast"],
    "prefix": here * kept_layers * (tokens // context) * model.dim * item,
    "gathered": (mesh.shape[sharding.FSDP] > 1) * (read - laid_out),
    "casts": (item < _FLOAT32) * (read - matrix + 2 * state["fast"]) // 2,
    "slow_gradients": _parameter_bytes(learned, _unsplit(mesh)),
    "cotangents": sum(state.values()) + 2 * state["fast"],
    "head": laid_out,
    "chunk": here * 2 * _chunk_bytes(model, chunk // context, tensor),
    "window": here * 2 * model.num_suffix * 3 * (past + chunk) * model.dim
    * item // tensor,
    "slots": here * 3 * _FLOAT32 * (chunk // context)
    * experiment.memory.scores_per_token(length, chunk),
    "working": max(scoring, attending),
  }  # fmt: skip
  passing = sum(terms[k] for k in ("chunk", "window", "slots", "working"))
  return terms | {"on_chip": -min(passing, _ON_CHIP)}


def predict(experiment: Experiment, devices: int) -> dict[str, int]:
  """`train_step_bytes` on so many devices that need not be there."""
  mesh = meshes.abstract_mesh(experiment.mesh, devices)
  vocab_size = build.make_task(experiment).vocab_size
  return train_step_bytes(experiment, vocab_size, mesh)


def _unsplit(mesh: AnyMesh) -> AbstractMesh:
  """Mesh without "fsdp", on which parameters are whole."""
  data, fsdp, *others = mesh.shape.values()
  sizes = data * fsdp, 1, *others
  return AbstractMesh(sizes, meshes.AXES, axis_types=(AxisType.Auto,) * 4)


def _parameter_bytes(params: Any, mesh: AnyMesh) -> int:
  placed = sharding.abstract(params, sharding.shardings(mesh, params))
  return device_bytes(placed)


def _of_learner(graphdef, params, length: int):
  """Numbers of segments and chunks; shapes of the slow parameters that read a
  chunk, and of a sequence's state before segments and before chunks."""
  parts: list[int] = []

  def collect(params):
    learner = nnx.merge(graphdef, params)
    parts.extend(learner.remat_parts(length))
    _, _, slow = fast_weights.split(learner.model)
    states = (learner.init_state(length, streaming=on) for on in (True, False))
    return slow, *states

  slow, *states = jax.eval_shape(collect, params)
  unread = ("prefix", "embedding" if "head" in slow else "prefix")
  slow = {k: v for k, v in slow.items() if k not in unread}
  return parts, slow, *states


def _state_bytes(state: Any, sequences: int, mesh: AnyMesh) -> dict[str, int]:
  """Bytes of each part, for all sequences that are read at once."""
  states = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((sequences, *x.shape), x.dtype), state
  )
  placed = sharding.abstract(states, sharding.split_states(mesh, states))
  return {
    field.name: device_bytes(getattr(placed, field.name))
    for field in dataclasses.fields(placed)
  }


def _kept(state: dict[str, int], context: int) -> int:
  """Bytes of a state that waits for the backward pass."""
  return sum(state.values()) - state["cache"] + state["cache"] // context


def _attention_block(model, chunk: int, length: int) -> tuple[int, int]:
  window = model.window if model.attention == "window" else None
  block = min(chunk, attention.block_size(window))
  if window is None:
    return block, length + chunk
  return block, math.ceil((window - 1) / block) * block + block


def _chunk_bytes(model, tokens: int, tensor: int) -> int:
  item = jax.numpy.dtype(model.dtype).itemsize
  wide = 3 * (model.mlp_dim + model.fast_mlp_dim) // tensor
  return model.num_suffix * tokens * (13 * model.dim + wide) * item
