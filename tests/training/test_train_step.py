"""The outer step: many devices give what one gives."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import experiment

from mattt_jax import sharding
from mattt_jax.data import pipeline
from mattt_jax.training import build, optimizer, train_step, trainer


@functools.cache
def one_step(devices: int, memory: str = "episodic", micro_batch: int = 0):
  """Metrics and parameters after one step of plain gradient descent."""
  settings = experiment(memory, batch_size=8, train__micro_batch=micro_batch)
  task = trainer.make_task(settings)
  learner = build.build_learner(settings, task.vocab_size)
  graphdef, params = nnx.split(learner)
  before = jax.tree.map(np.array, nnx.to_pure_dict(params))
  mesh = sharding.make_mesh(devices)
  descent = optax.sgd(1.0)  # so that the change is the gradient
  state = train_step.init_state(params, descent, mesh)
  step = train_step.jit_train_step(graphdef, descent, settings, state, mesh)
  batch = next(pipeline.train_batches(task, settings))
  placed = sharding.put_batch(batch, mesh)
  assert len(placed["tokens"].sharding.device_set) == devices
  state, values = step(state, placed, inner=True, memory=True)
  after = nnx.to_pure_dict(state.params)
  grads = jax.tree.map(lambda a, b: a - np.asarray(b), before, after)
  return jax.device_get(values), grads, batch, state


@pytest.mark.parametrize("devices, micro_batch", [(8, 0), (1, 2), (2, 4)])
def test_many_devices_and_small_parts_are_one_batch(devices, micro_batch):
  values_1, grads_1, _, _ = one_step(1)
  values_8, grads_8, _, _ = one_step(devices, micro_batch=micro_batch)
  for name in values_1:
    np.testing.assert_allclose(
      values_8[name], values_1[name], rtol=1e-5, err_msg=name
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
    grads_8,
    grads_1,
  )
  largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(grads_1))
  assert largest > 1e-2  # or the comparison says nothing


def test_state_keeps_its_placement_and_counts_steps():
  *_, state = one_step(8)
  assert int(state.step) == 1
  for x in jax.tree.leaves(state):
    assert x.sharding.is_fully_replicated
    assert len(x.sharding.device_set) == 8


def test_metrics():
  values, grads, batch, _ = one_step(1)
  norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(values["grad_norm"], norm, rtol=1e-4)
  assert values["answer_tokens"] == (batch["answer"] >= 0).sum() > 0
  assert 0 <= values["answer_correct"] <= values["answer_tokens"]
  # untrained: the loss of a guess among all tokens, or worse
  task = trainer.make_task(experiment("episodic"))
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
