"""Replay: which chunks, what they teach, and what is left of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
from flax import nnx

from mattt_jax.config import CoordinationConfig
from mattt_jax.ttt import replay
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens

C, D, CHUNKS = quadratic.CHUNK, quadratic.DIM, 6
LENGTH = CHUNKS * C


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def key(x_CxD, weight_C):
  mean = weight_C @ x_CxD / weight_C.sum()
  return mean / np.linalg.norm(mean)


def nearest(x, weight, number, capacity):
  """Of chunks x [n, C, D], those that are replayed next, nearest first."""
  last = len(x) - 1
  past = range(max(0, len(x) - capacity), last)
  asked = key(x[last], weight[last])
  return sorted(past, key=lambda i: -key(x[i], weight[i]) @ asked)[:number]


# The store.


def filled(number, capacity, chunks, seed=0, padded=()):
  """A state after so many random chunks, and the chunks."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(chunks, C, D))
  target = rng.integers(0, 9, (chunks, C))
  weight = np.where(rng.random((chunks, C)) < 0.7, rng.random((chunks, C)), 0.0)
  weight[:, 1] = 1.0
  weight[list(padded)] = 0.0
  config = CoordinationConfig(replay=number, replay_capacity=capacity)
  state = replay.init(config, 10 * C, jax.ShapeDtypeStruct((C, D), jnp.float64))
  put = jax.jit(replay.store)
  for chunk in zip(x, target, weight, strict=True):
    state = put(state, *map(jnp.asarray, chunk))
  return state, (x, target, weight)


@pytest.mark.parametrize("chunks", range(9))
@pytest.mark.parametrize("number, capacity", [(1, 4), (3, 4), (2, 0), (12, 0)])
def test_nearest(number, capacity, chunks):
  state, kept = filled(number, capacity, chunks)
  x, target, weight = replay.nearest(state, number)
  expected = []
  if chunks:
    expected = nearest(kept[0], kept[2], number, capacity or 10)
  for row, i in enumerate(expected):
    np.testing.assert_array_equal(x[row], kept[0][i])
    np.testing.assert_array_equal(target[row], kept[1][i])
    np.testing.assert_allclose(weight[row], kept[2][i], rtol=1e-6)
  # Where there is none, weights are zero: nothing is learned.
  assert len(weight) == number and not weight[len(expected) :].any()


def test_nothing_is_nearest_if_none_is_wanted():
  state, _ = filled(2, 4, 5)
  assert replay.nearest(state, 2)[2].any()
  assert not replay.nearest(state, 2, False)[2].any()


def test_a_chunk_of_padding_is_not_kept():
  state, _ = filled(2, 4, 6, padded=[2, 5])
  _, (x, target, weight) = filled(2, 4, 6)
  others = np.array([0, 1, 3, 4])
  for row, i in enumerate(nearest(x[others], weight[others], 2, 4)):
    got = replay.nearest(state, 2)
    np.testing.assert_array_equal(got[0][row], x[others][i])
    np.testing.assert_array_equal(got[1][row], target[others][i])


def test_no_gradient_to_what_is_kept():
  def total(x_CxD):
    state, _ = filled(2, 4, 3)
    state = replay.store(state, x_CxD, jnp.zeros(C, int), jnp.ones(C))
    state = replay.store(state, 2 * x_CxD, jnp.zeros(C, int), jnp.ones(C))
    return sum(jnp.sum(x) for x in replay.nearest(state, 2)[::2])

  value, grad = jax.value_and_grad(total)(jnp.ones((C, D)))
  assert np.isfinite(value) and not grad.any()


# What it teaches, on the quadratic.


def text(seed=0):
  rng = np.random.default_rng(seed)
  weight = np.where(rng.random(LENGTH) < 0.8, rng.random(LENGTH), 0.0)
  weight[::C] = 0.5
  return rng.integers(0, quadratic.VOCAB, LENGTH), weight


def make(number=2, capacity=0, keep=True, **inner):
  return quadratic.learner(
    coordination=CoordinationConfig(
      replay=number, replay_capacity=capacity, replay_keep=keep
    ),
    **inner,
  )


def read(learner, tokens, weight, **kwargs):
  state = learner.init_state(len(tokens))
  tokens = make_tokens(tokens, tokens, weight)
  return read_sequence(learner, state, tokens, **kwargs)


def unrolled(learner, tokens, weight, optimizer, number, capacity, keep):
  """The same by a Python loop of optax steps."""
  model = learner.model
  places = np.asarray(model.places[...])
  tokens, weight = tokens.reshape(-1, C), weight.reshape(-1, C)
  fast = {name: np.asarray(getattr(model, name)[...]) for name in "ab"}
  state, losses = optimizer.init(fast), []

  def step(at, fast, state, i):
    grads = quadratic.gradients(model, at, tokens[i], weight[i])
    updates, state = optimizer.update(grads, state, fast)
    return jax.device_get(optax.apply_updates(fast, updates)), state

  for i in range(len(tokens)):
    again, again_state = fast, state
    seen = places[tokens[:i]]
    for j in nearest(seen, weight[:i], number, capacity) if i else ():
      again, again_state = step(again, again, again_state, j)
    losses.append(quadratic.token_losses(model, again, tokens[i]))
    if keep:
      fast, state = again, again_state
    fast, state = step(again, fast, state, i)
  return fast, np.stack(losses)


OPTIMIZERS = {
  "sgd": ({}, optax.sgd(0.3)),
  "momentum": (
    dict(optimizer="momentum", momentum=0.8),
    optax.sgd(0.3, momentum=0.8),
  ),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("number, capacity", [(2, 0), (1, 3)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_an_unrolled_loop(name, number, capacity, keep):
  """With `replay_keep` off the fast weights get the chunk's own step alone,
  taken where the replayed weights are."""
  settings, optimizer = OPTIMIZERS[name]
  learner = make(number, capacity, keep, **settings)
  tokens, weight = text()
  fast, losses = unrolled(
    learner, tokens, weight, optimizer, number, capacity or CHUNKS, keep
  )
  state, out = read(learner, tokens, weight)
  np.testing.assert_allclose(out.loss_C, losses, rtol=1e-6)
  for k, x in fast.items():
    np.testing.assert_allclose(state.fast[k][...], x, rtol=1e-6)
  _, plain = read(quadratic.learner(**settings), tokens, weight)
  # The first chunk that can be replayed is the first, before the third.
  np.testing.assert_allclose(out.loss_C[:2], plain.loss_C[:2], rtol=1e-12)
  assert (np.abs(out.loss_C - plain.loss_C)[2:].max(-1) > 1e-3).all()


def test_only_an_inner_loop_replays():
  tokens, weight = text()
  off = dict(parts=Parts(inner=False))
  state, out = read(make(), tokens, weight, **off)
  plain_state, plain = read(quadratic.learner(), tokens, weight, **off)
  np.testing.assert_array_equal(out.loss_C, plain.loss_C)
  jax.tree.map(np.testing.assert_array_equal, state.fast, plain_state.fast)


def test_a_chunk_of_padding_replays_nothing():
  tokens, weight = text()
  weight[-2 * C :] = 0
  state, _ = read(make(), tokens, weight)
  before, _ = read(make(), tokens[: -2 * C], weight[: -2 * C])
  jax.tree.map(np.testing.assert_array_equal, state.fast, before.fast)


def test_the_meta_gradient_goes_through_the_replayed_steps():
  """Central differences; the fast weights' start does not act on the store."""
  learner = make(keep=False)
  tokens, weight = text()
  graphdef, fast, rest = nnx.split(learner, quadratic.FastWeight, ...)

  @jax.jit
  def loss(fast):
    out = read(nnx.merge(graphdef, fast, rest), tokens, weight)[1]
    return jnp.sum(out.loss_C[2])  # after one step each, and one replayed

  leaves, treedef = jax.tree.flatten(fast)
  grads = jax.tree.leaves(jax.grad(loss)(fast))
  rng = np.random.default_rng(1)
  direction = [rng.normal(size=x.shape) for x in leaves]

  def at(h):
    moved = [x + h * d for x, d in zip(leaves, direction, strict=True)]
    return loss(treedef.unflatten(moved))

  expected = sum(np.vdot(g, d) for g, d in zip(grads, direction, strict=True))
  np.testing.assert_allclose((at(1e-4) - at(-1e-4)) / 2e-4, expected, rtol=1e-7)
  assert abs(expected) > 0.1
