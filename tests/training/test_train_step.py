"""The outer step: many devices give what one gives."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import experiment

from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.tasks import batches
from mattt_jax.training import optimizer, parameters, train_step
from mattt_jax.ttt.parts import ALL

# What each system adds to the smallest experiment: a prefix, and queries that
# more than one block of slots answers.
SYSTEMS = {
  "ttt_e2e": ("none", {}),
  "episodic": ("episodic", dict(memory__shards=2, memory__top_k=4)),
  "landmarks": (
    "episodic",
    dict(
      memory__search="landmarks",
      memory__cell=4,
      memory__probes=2,
      memory__top_k=4,
    ),
  ),
  "associative": ("associative", {}),
}
MESHES = (
  ("ttt_e2e", (8, 1, 1, 1), 0),
  ("ttt_e2e", (1, 8, 1, 1), 0),
  ("ttt_e2e", (1, 1, 1, 8), 0),
  ("ttt_e2e", (1, 1, 1, 1), 2),
  ("ttt_e2e", (1, 2, 1, 1), 4),
  *((system, shape, 0) for system in SYSTEMS
    for shape in ((2, 2, 2, 1), (1, 2, 2, 2))),
)  # fmt: skip
RATE = 1024.0  # of the descent: parameters then round gradients little


@functools.cache
def one_step(
  shape: tuple[int, ...],
  system: str = "episodic",
  micro_batch: int = 0,
  trainable: tuple[str, ...] = parameters.ALL,
):
  """Metrics, gradients, batch and state of one step of plain descent."""
  memory, changes = SYSTEMS[system]
  settings = experiment(
    memory, batch_size=8, length=48, model__num_layers=2,
    inner__learning_rate=0.1, inner__remat_levels=0, model__remat_prefix=False,
    task__num_fillers=9,  # 28 tokens: an even vocabulary
    train__micro_batch=micro_batch, train__trainable=trainable, **changes,
  )  # fmt: skip
  task = build.make_task(settings)
  learner = build.build_learner(settings, task.vocab_size)
  graphdef, params = nnx.split(learner)
  before = jax.tree.map(np.array, nnx.to_pure_dict(params))
  mesh = meshes.make_mesh(*shape)
  descent = optax.trace(0.9), optax.sgd(RATE)  # with moments to be placed
  descent = optax.chain(*descent)
  state = train_step.init_state(params, descent, mesh, trainable)
  placed = jax.tree.map(lambda x: x.sharding, state)
  step = train_step.jit_train_step(graphdef, descent, settings, state, mesh)
  batch = next(batches.train_batches(task, settings))
  on_mesh = sharding.put_batch(batch, mesh)
  assert len(on_mesh["tokens"].sharding.device_set) == mesh.size
  state, values = step(state, on_mesh, ALL)
  assert jax.tree.map(lambda x: x.sharding, state) == placed
  after = nnx.to_pure_dict(state.params)
  grads = jax.tree.map(lambda a, b: (a - np.asarray(b)) / RATE, before, after)
  return jax.device_get(values), grads, batch, state


@pytest.mark.parametrize("system, shape, micro_batch", MESHES)
def test_many_devices_and_small_parts_are_one_batch(system, shape, micro_batch):
  values_1, grads_1, _, _ = one_step((1,), system)
  values_8, grads_8, _, _ = one_step(shape, system, micro_batch)
  assert values_1.keys() == values_8.keys()
  for name in values_1:
    np.testing.assert_allclose(
      values_8[name], values_1[name], rtol=1e-5, err_msg=name
    )
  largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(grads_1))
  assert largest > 1e-2  # or the comparison says nothing
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
    grads_8,
    grads_1,
  )


@pytest.mark.parametrize(
  "shape, micro_batch", [((1,), 0), ((1,), 4), ((1, 2, 2, 2), 0)]
)
def test_what_is_frozen_has_no_update_and_no_optimiser_state(
  shape, micro_batch
):
  """The rest has the gradients that it has when all is trained."""
  globs = ("suffix/*", "pointer/w?")
  _, whole, _, _ = one_step((1,))
  values, grads, _, state = one_step(shape, "episodic", micro_batch, globs)
  moments = parameters.named(state.opt_state[0].trace)
  largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(whole))
  whole, total = parameters.named(whole), 0.0
  for name, grad in parameters.named(grads).items():
    if name.startswith(("model/suffix/", "model/pointer/w")):
      np.testing.assert_allclose(
        grad, whole[name], rtol=0, atol=1e-5 * largest, err_msg=name
      )
      assert moments.pop(name).shape == grad.shape
      total += float((grad**2).sum())
    else:
      assert not grad.any() and whole[name].any(), name
  assert not moments and len(jax.tree.leaves(state.opt_state)) > 5
  np.testing.assert_allclose(values["grad_norm"], np.sqrt(total), rtol=1e-4)


def test_parameters_and_moments_are_split_over_fsdp():
  *_, state = one_step((1, 8, 1, 1), "ttt_e2e")
  assert int(state.step) == 1
  w1 = state.params["model"]["prefix"]["mlp"]["w1"][...]
  moment = state.opt_state[0].trace["model"]["prefix"]["mlp"]["w1"][...]
  for x in (w1, moment):
    assert {s.data.shape for s in x.addressable_shards} == {(1, 2, 16)}


def test_metrics():
  values, grads, batch, _ = one_step((1,))
  norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(values["grad_norm"], norm, rtol=1e-4)
  assert values["answer_tokens"] == (batch["answer"] >= 0).sum() > 0
  assert 0 <= values["answer_correct"] <= values["answer_tokens"]
  # untrained: the loss of a guess among all tokens, or worse
  task = build.make_task(experiment("episodic"))
  assert values["loss"] > 0.8 * np.log(task.vocab_size)


def test_learning_rate_warms_up_and_decays():
  config = experiment(
    outer__learning_rate=1.0,
    outer__final_learning_rate=0.1,
    outer__warmup_steps=4,
  ).outer
  rate = optimizer.learning_rate(config, 12)
  rates = [float(rate(step)) for step in range(12)]
  np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
  np.testing.assert_allclose(rates[7], 0.55, rtol=1e-6)  # half of the cosine
  np.testing.assert_allclose(rates[11], 0.1, rtol=1e-6)
  assert rates[3:] == sorted(rates[3:], reverse=True)


def test_warm_up_longer_than_the_run_only_warms_up():
  config = experiment(outer__learning_rate=1.0, outer__warmup_steps=10).outer
  rate = optimizer.learning_rate(config, 2)
  np.testing.assert_allclose([rate(0), rate(1)], [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_one_update_by_hand(clip_norm):
  config = experiment(
    outer__learning_rate=0.1,
    outer__warmup_steps=1,
    outer__clip_norm=clip_norm,
    outer__eps=0.5,
    outer__weight_decay=0.2,
  ).outer
  params = {
    "inner": {"log_rate_T": np.ones(1)},
    "model": {"w": np.full(1, 2.0)},
  }
  grads = {
    "inner": {"log_rate_T": np.full(1, 3.0)},
    "model": {"w": np.full(1, 4.0)},
  }
  chain = optimizer.make_optimizer(config, 100)
  updates, _ = chain.update(grads, chain.init(params), params)
  scale = 1 / 5 if clip_norm else 1.0  # the norm of (3, 4) is 5
  g_inner, g_model = 3 * scale, 4 * scale
  # After bias correction the first direction is g / (|g| + eps); the learned
  # rate of the inner loop is not decayed.
  np.testing.assert_allclose(
    updates["inner"]["log_rate_T"], -0.1 * g_inner / (g_inner + 0.5), rtol=1e-5
  )
  np.testing.assert_allclose(
    updates["model"]["w"],
    -0.1 * (g_model / (g_model + 0.5) + 0.2 * 2.0),
    rtol=1e-5,
  )
