"""One outer step, pure: (state, batch) -> (state, metrics)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from mattt_jax.config import Experiment
from mattt_jax.devices import sharding
from mattt_jax.learners.build import abstract_learner
from mattt_jax.training import parameters
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.ttt.coordination import rate_scale
from mattt_jax.ttt.meta_loss import meta_loss
from mattt_jax.ttt.parts import Parts

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
  """All that an outer step changes. `step` counts the updates made."""

  step: jax.Array  # [] int32
  params: Any
  opt_state: Any


def init_state(
  params: nnx.State,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  trainable: tuple[str, ...] = parameters.ALL,
) -> TrainState:
  """Makes the state of step 0 on `mesh`; takes over the arrays of `params`.

  Only `trainable` (`train.trainable`) parameters have an optimiser state.
  """
  state = _first(params, optimizer, trainable)
  return jax.device_put(state, sharding.shardings(mesh, state))


def abstract_state(
  params: nnx.State,
  optimizer: optax.GradientTransformation,
  mesh: sharding.AnyMesh,
  trainable: tuple[str, ...] = parameters.ALL,
) -> TrainState:
  """Shapes of `init_state` and their placement; `params` may be shapes, and
  `mesh` one without devices."""
  state = jax.eval_shape(
    lambda params: _first(params, optimizer, trainable), params
  )
  return sharding.abstract(state, sharding.shardings(mesh, state))


def abstract_training(
  experiment: Experiment, vocab_size: int, mesh: sharding.AnyMesh
) -> tuple[nnx.GraphDef, optax.GradientTransformation, TrainState]:
  """Makes the learner's graph, the outer optimiser and the shapes of the state
  of a run on `mesh` (`abstract_state`)."""
  graphdef, params = abstract_learner(experiment, vocab_size)
  optimizer = make_optimizer(experiment.outer, experiment.train.steps)
  state = abstract_state(params, optimizer, mesh, experiment.train.trainable)
  return graphdef, optimizer, state


def _first(params, optimizer, trainable) -> TrainState:
  moved, _ = parameters.split(params, trainable)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(moved))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether all its numbers are."""
  leaves = jax.tree.leaves(tree)
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def accumulated_gradient(
  loss_fn: Callable[[Any, Batch], tuple[jax.Array, tuple[Any, Any]]],
  params: Any,
  batch: Batch,
  micro_batch: int = 0,
):
  """Loss, (means, counts) and gradient of the whole batch, added up over
  `micro_batch` sequences at a time.

  Args:
    loss_fn: params, arrays [b, ...] -> (mean loss, (means, counts)).
    params: what the gradient is with respect to.
    batch: arrays [B, ...].
    micro_batch: divides B; 0: all at once.
  """
  gradient = jax.value_and_grad(loss_fn, has_aux=True)
  size = len(jax.tree.leaves(batch)[0])
  number = size // (micro_batch or size)
  if number == 1:
    (loss, aux), grads = gradient(params, batch)
    return loss, aux, grads

  def part(i: jax.Array):
    # Every `number`-th sequence: each device has some of every part.
    return {
      k: x.reshape(-1, number, *x.shape[1:])[:, i] for k, x in batch.items()
    }

  def add(total, i):
    return jax.tree.map(jnp.add, total, gradient(params, part(i))), None

  shapes = jax.eval_shape(lambda: gradient(params, part(jnp.int32(0))))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  ((loss, (means, counts)), grads), _ = jax.lax.scan(
    add, zero, jnp.arange(number)
  )
  loss, means, grads = jax.tree.map(lambda x: x / number, (loss, means, grads))
  return loss, (means, counts), grads


def train_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  experiment: Experiment,
  state: TrainState,
  batch: Batch,
  parts: Parts,
) -> tuple[TrainState, Metrics]:
  """Makes one update of the trainable parameters from a batch of arrays [B, L].

  Metrics are scalars: loss, grad_norm (before the clip), answer_correct and
  answer_tokens (counts), and the model's own diagnostics.
  """
  moved, frozen = parameters.split(state.params, experiment.train.trainable)

  def loss_fn(moved, batch):
    loss, out = meta_loss(
      nnx.merge(graphdef, nnx.merge_state(moved, frozen)),
      batch,
      parts,
      reduction=experiment.outer.reduction,
      rate_scale=rate_scale(experiment.inner, state.step),
    )
    is_answer = batch["answer"] >= 0
    counts = {
      "answer_correct": jnp.sum(out.correct_BxL & is_answer),
      "answer_tokens": jnp.sum(is_answer),
    }
    return loss, (out.aux, counts)

  loss, (aux, counts), grads = accumulated_gradient(
    loss_fn, moved, batch, experiment.train.micro_batch
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, moved)
  grad_norm = optax.tree.norm(grads)
  metrics = {**aux, **counts, "loss": loss, "grad_norm": grad_norm}
  params = nnx.merge_state(optax.apply_updates(moved, updates), frozen)
  return TrainState(state.step + 1, params, opt_state), metrics


def jit_train_step(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  experiment: Experiment,
  state: TrainState,
  mesh: Mesh,
) -> jax.stages.Wrapped:
  """Makes the jitted `step(state, batch, parts)`, which consumes `state` and
  keeps its placement; metrics are replicated."""
  placement = jax.tree.map(lambda x: x.sharding, state)

  def step(state: TrainState, batch: Batch, parts: Parts):
    with sharding.on(mesh):
      return train_step(graphdef, optimizer, experiment, state, batch, parts)

  return jax.jit(
    step,
    static_argnames="parts",
    donate_argnums=0,
    out_shardings=(placement, sharding.replicated(mesh)),
  )
