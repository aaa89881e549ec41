"""Scores in blocks against dense ones, twice differentiated, and their size."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mattt_jax.model import head

C, D, V = 5, 4, 23


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def draw(seed=0):
  rng = np.random.default_rng(seed)
  h, w = rng.normal(size=(C, D)), rng.normal(size=(D, V))
  return h, w, rng.integers(0, V, C), rng.integers(0, V, (C, 3))


@pytest.mark.parametrize("block", [0, 1, 4, 8, 22, 23, 100])
def test_equals_dense(float64, block):
  h, w, target, asked = draw()
  w[:, 7] = w[:, 20] = 3 * h[0]  # two best: the first counts
  logits = h @ w
  found = jax.jit(functools.partial(head.scores, block=block))(
    h, w, target, asked_CxJ=asked
  )
  rows = np.arange(C)
  for a, b in (
    (found.target_C, logits[rows, target]),
    (found.log_total_C, np.log(np.exp(logits).sum(-1))),
    (found.best_C, logits.max(-1)),
    (found.asked_CxJ, logits[rows[:, None], asked]),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-13)
  np.testing.assert_array_equal(found.likely_C, logits.argmax(-1))
  assert found.likely_C[0] == 7


def test_second_derivatives(float64):
  """Of the loss, of its gradient, by reverse and by forward over reverse."""
  h, w, target, _ = draw(1)

  def loss(block, h, w):
    return -jnp.sum(jnp.sin(head.scores(h, w, target, block).log_prob_C))

  def dense(h, w):
    log_prob = jax.nn.log_softmax(h @ w)
    return -jnp.sum(jnp.sin(log_prob[np.arange(C), target]))

  def derivatives(f):
    grad = jax.grad(f, argnums=(0, 1))
    along = (jnp.cos(h), jnp.sin(w))

    def slope(*x):
      parts = zip(grad(*x), along, strict=True)
      return sum(jnp.vdot(a, b) for a, b in parts)

    reverse = jax.grad(slope, argnums=(0, 1))(h, w)
    return grad(h, w), reverse, jax.jvp(grad, (h, w), along)[1]

  found = jax.jit(lambda: derivatives(functools.partial(loss, 6)))()
  wanted = jax.jit(lambda: derivatives(dense))()
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    assert np.abs(b).max() > 1e-2


def test_logits_of_the_whole_vocabulary_never_exist():
  c, d, v, block = 32, 2, 4096, 128

  def sizes(block):
    def loss(h, w):
      return jnp.sum(head.scores(h, w, jnp.zeros(c, int), block).log_prob_C)

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(
      jnp.zeros((c, d)), jnp.zeros((d, v))
    )
    return largest(jaxpr.jaxpr)

  assert sizes(0) >= c * v  # what the test would otherwise find
  assert sizes(block) <= max(d * v, c * block)


def largest(jaxpr):
  """Elements of the largest array, those of inner jaxprs too."""
  found = 0
  for equation in jaxpr.eqns:
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      found = max(found, largest(inner))
    for variable in equation.outvars:
      found = max(found, getattr(variable.aval, "size", 0))
  return found


@pytest.mark.parametrize("vocab", [40, 4])  # by comparing, by adding up
def test_mass_of_candidates_that_name_the_same_token(vocab):
  rng = np.random.default_rng(0)
  token, mass = rng.integers(0, 4, (3, 6)), rng.random((3, 6))
  wanted = [
    [mass[row][token[row] == one].sum() for one in token[row]]
    for row in range(3)
  ]
  found = head.total_of_each(
    jnp.asarray(token), jnp.asarray(mass, jnp.float32), vocab
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
