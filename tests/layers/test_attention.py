"""Blocked attention against a dense one, its reach, and what it costs."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mattt_jax.layers import attention


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def draw(length, past, heads=2, dim=4, seed=0):
  rng = np.random.default_rng(seed)
  q = rng.normal(size=(heads, length, dim))
  k, v = rng.normal(size=(2, heads, past + length, dim))
  return q, k, v


def dense(q, k, v, position, window):
  """Softmax over the keys that a token sees, one query at a time."""
  length, past = q.shape[1], k.shape[1] - q.shape[1]
  out = np.zeros_like(q)
  for h in range(len(q)):
    for i in range(length):
      last = past + i
      first = 0 if window is None else max(0, last - window + 1)
      first = max(first, past - position)  # empty slots of the cache
      scores = k[h, first : last + 1] @ q[h, i] / np.sqrt(q.shape[-1])
      weights = np.exp(scores - scores.max())
      out[h, i] = weights / weights.sum() @ v[h, first : last + 1]
  return out


# (L, P, position, window); blocks are of 64 queries, or as many as the window
# holds (a longer window's are larger).
SHAPES = [
  (13, 0, 0, 5),
  (12, 4, 4, 4),  # whole blocks
  (13, 5, 20, 5),
  (13, 5, 3, 5),  # two slots of the cache are empty
  (9, 20, 20, 4),  # a longer past than the window
  (3, 20, 50, 8),  # fewer tokens than a block
  (7, 3, 3, 30),  # a longer window than everything
  (1, 6, 6, 6),
  (5, 0, 0, 1),
  (150, 0, 0, 100),  # a window that is no multiple of the block
  (70, 130, 131, 129),
  (150, 1500, 1600, 1300),  # blocks of 81
  (600, 0, 0, None),  # two blocks
  (9, 0, 0, None),
  (9, 4, 4, None),
  (4, 20, 3, None),  # the cache of a context that has just begun
]


@pytest.mark.parametrize("length, past, position, window", SHAPES)
def test_equals_dense_attention(float64, length, past, position, window):
  q, k, v = draw(length, past)
  out = attention.attend(*map(jnp.asarray, (q, k, v)), position, window)
  expected = dense(q, k, v, position, window)
  np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)


def test_empty_slots_are_never_seen(float64):
  """Whatever they hold; where they are seen, it shows."""
  q, k, v = draw(6, 8)
  empty = np.arange(14)[None, :, None] < 5
  args = (q, np.where(empty, 7.0, k), np.where(empty, 7.0, v))
  for window in (7, None):
    out, other = (
      attention.attend(*map(jnp.asarray, x), 3, window)
      for x in ((q, k, v), args)
    )
    np.testing.assert_array_equal(out, other)
    later = attention.attend(*map(jnp.asarray, args), 8, window)
    assert np.abs(later - out).max() > 0.1


@pytest.mark.parametrize("length, past, window", [(7, 3, 3), (5, 2, None)])
def test_differentiable_twice(float64, length, past, window):
  inputs = [jnp.asarray(x) for x in draw(length, past, heads=1, dim=2)]
  position = past - 1  # with an empty slot

  def loss(q, k, v):
    return jnp.sum(jnp.sin(attention.attend(q, k, v, position, window)))

  def dense_loss(q, k, v):
    i = past + np.arange(length)[:, None]
    j = np.arange(past + length)[None, :]
    seen = (j <= i) & (j >= past - position)
    if window is not None:
      seen &= i - j < window
    scores = jnp.einsum("hqd,hkd->hqk", q, k) / np.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.sum(jnp.sin(jnp.einsum("hqk,hkd->hqd", weights, v)))

  direction = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in inputs]

  def twice(loss):
    grad = jax.grad(loss, argnums=(0, 1, 2))

    def along(*x):
      parts = zip(grad(*x), direction, strict=True)
      return sum(jnp.vdot(g, d) for g, d in parts)

    return grad(*inputs), jax.grad(along, argnums=(0, 1, 2))(*inputs)

  for ours, expected in zip(
    jax.tree.leaves(jax.jit(lambda: twice(loss))()),
    jax.tree.leaves(jax.jit(lambda: twice(dense_loss))()),
    strict=True,
  ):
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(ours).max() > 1e-3


def largest_array(jaxpr):
  """Elements of the largest intermediate array, those of inner jaxprs too."""
  largest = 0
  for equation in jaxpr.eqns:
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      largest = max(largest, largest_array(inner))
    for variable in equation.outvars:
      largest = max(largest, getattr(variable.aval, "size", 0))
  return largest


def test_no_scores_of_all_pairs_exist_at_once():
  """Nor keys repeated for each block: O(L) with and without a window."""
  heads, dim = 1, 8

  def size(attend, length):
    x = jnp.zeros((heads, length, dim))

    def loss(q, k, v):
      return jnp.sum(attend(q, k, v) ** 2)

    grad = jax.grad(loss, argnums=(0, 1, 2))
    return largest_array(jax.make_jaxpr(grad)(x, x, x).jaxpr)

  def whole(q, k, v):
    scores = jnp.einsum("hqd,hkd->hqk", q, k)
    return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(scores), v)

  assert size(whole, 2048) >= 2048**2  # what the test would otherwise find
  for window, most in ((64, 64 * 128), (None, 512 * 4096)):
    at = functools.partial(attention.attend, position=0, window=window)
    assert size(at, 4096) <= max(most, (4096 + 64) * dim) * heads


@pytest.mark.parametrize("start", [0, 11])
def test_rope_multiplies_by_complex_numbers(float64, start):
  length, dim, theta = 9, 6, 100.0
  x = np.random.default_rng(0).normal(size=(2, length, dim))
  positions = start + np.arange(length)
  frequency = theta ** (-np.arange(0, dim, 2) / dim)
  turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(
    1j * positions[:, None] * frequency
  )
  out = attention.rope(jnp.asarray(x), theta, start)
  np.testing.assert_allclose(out[..., 0::2], turned.real, atol=1e-13)
  np.testing.assert_allclose(out[..., 1::2], turned.imag, atol=1e-13)


def test_cache_is_empty_at_first():
  cache = attention.init_cache(2, 5, 4, jnp.bfloat16)
  for x in (cache.k_HxPxK, cache.v_HxPxK):
    assert x.shape == (2, 5, 4) and x.dtype == jnp.bfloat16 and not x.any()
