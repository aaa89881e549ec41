"""Neural memory against Titans' recurrences, token by token in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config
from mattt_jax.memory import neural
from mattt_jax.memory.base import Pairs
from mattt_jax.planning.cost_model import matmul_flops

DIM, HEADS, KEY, VALUE, HIDDEN, LENGTH = 6, 2, 3, 5, 4, 12


def make(depth, write_chunk, **changes):
  """With every parameter drawn anew, rates different for each token."""
  memory = neural.Config(
    num_heads=HEADS, key_dim=KEY, value_dim=VALUE, hidden=HIDDEN,
    depth=depth, write_chunk=write_chunk, **changes,
  ).make(DIM, LENGTH, nnx.Rngs(0))  # fmt: skip
  rng = np.random.default_rng(1)
  for parameter in (
    memory.gate.bias, memory.gate.weight, memory.rate_weight,
    memory.rate_bias, memory.wq, *memory.initial,
  ):  # fmt: skip
    parameter[...] = jnp.asarray(
      rng.normal(size=parameter[...].shape), jnp.float32
    )
  return memory


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def normed(x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def heads(x, w, unit=False, count=HEADS):
  y = (x @ np.asarray(w[...], np.float64)).reshape(len(x), count, -1)
  return y / np.linalg.norm(y, axis=-1, keepdims=True) if unit else y


def forward(weights, x):
  """(output, inputs of the layers, what the SiLUs saw) of one head."""
  inputs, seen = [x], []
  for w in weights[:-1]:
    seen.append(inputs[-1] @ w)
    inputs.append(seen[-1] * sigmoid(seen[-1]) / np.sqrt(w.shape[1]))
  return inputs[-1] @ weights[-1], inputs, seen


def gradient(weights, k, v):
  """Of |M(k) - v|^2, by backpropagation."""
  out, inputs, seen = forward(weights, k)
  d = 2 * (out - v)
  grads = [np.outer(inputs[-1], d)]
  for i in reversed(range(len(seen))):
    s = sigmoid(seen[i])
    silu_slope = s + seen[i] * s * (1 - s)
    d = weights[i + 1] @ d * silu_slope / np.sqrt(len(s))
    grads.insert(0, np.outer(inputs[i], d))
  return grads


def initial(memory, head):
  return [np.asarray(w[...], np.float64)[head] for w in memory.initial]


def by_hand(memory, pairs):
  """(weights, momentum) of each head after the pairs."""
  x = normed(pairs.hidden_CxD)
  k, v = heads(x, memory.wk, True), heads(pairs.value_CxD, memory.wv, True)
  rates = sigmoid(x @ np.asarray(memory.rate_weight[...]) + memory.rate_bias)
  theta, eta, alpha = np.moveaxis(rates.reshape(-1, 3, HEADS), 1, 0)
  theta = 2 * memory.config.learning_rate * theta
  found = []
  for h in range(HEADS):
    weights = initial(memory, h)
    momentum = [np.zeros_like(w) for w in weights]
    for t in range(LENGTH):
      if t % memory.config.write_chunk == 0:
        shared = weights
      if not pairs.valid_C[t]:
        continue
      grads = gradient(shared, k[t, h], v[t, h])
      norm = np.sqrt(sum((g**2).sum() for g in grads))
      clipped = min(1, (memory.config.clip_norm or np.inf) / norm)
      momentum = [
        eta[t, h] * s - theta[t, h] * clipped * g
        for s, g in zip(momentum, grads, strict=True)
      ]
      weights = [
        (1 - alpha[t, h]) * w + s
        for w, s in zip(weights, momentum, strict=True)
      ]
    found.append((weights, momentum))
  return found


def text(seed=0, valid=0.8):
  rng = np.random.default_rng(seed)
  return Pairs(
    hidden_CxD=rng.normal(size=(LENGTH, DIM)).astype(np.float32),
    value_CxD=rng.normal(size=(LENGTH, DIM)).astype(np.float32),
    next_token_C=np.zeros(LENGTH, np.int32),
    surprise_C=np.zeros(LENGTH, np.float32),
    gradient_C=np.zeros(LENGTH, np.float32),
    relevant_C=np.zeros(LENGTH, bool),
    valid_C=rng.random(LENGTH) < valid,
  )


def rows(pairs, which=...):
  return jax.tree.map(lambda x: jnp.asarray(x[which]), pairs)


def write(memory, pairs, chunk=LENGTH):
  state = memory.init_state(LENGTH)
  put = jax.jit(memory.write)
  for i in range(0, LENGTH, chunk):
    state = put(state, rows(pairs, slice(i, i + chunk)))
  return state


@pytest.mark.parametrize(
  "depth, write_chunk, clip_norm",
  [(1, 1, 0.0), (1, 4, 2.0), (2, 1, 0.0), (2, 4, 2.0), (3, 12, 2.0)],
)
def test_write_is_titans(depth, write_chunk, clip_norm):
  memory, pairs = make(depth, write_chunk, clip_norm=clip_norm), text()
  assert not pairs.valid_C.all()
  state = write(memory, pairs)
  for h, (weights, momentum) in enumerate(by_hand(memory, pairs)):
    for start, w, s, change, kept in zip(
      initial(memory, h), weights, momentum, state.change, state.momentum,
      strict=True,
    ):  # fmt: skip
      np.testing.assert_allclose(change[h], w - start, rtol=1e-3, atol=1e-4)
      np.testing.assert_allclose(kept[h], s, rtol=1e-3, atol=1e-4)
      assert np.abs(w - start).max() > 0.1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_read_is_what_the_context_taught(depth):
  """gate (M(q) - M_0(q)) wo."""
  memory, pairs = make(depth, 4), text()
  asked = np.random.default_rng(4).normal(size=(5, DIM)).astype(np.float32)
  x = normed(asked)
  q, out = heads(x, memory.wq, True), np.zeros((5, HEADS, VALUE))
  for h, (weights, _) in enumerate(by_hand(memory, pairs)):
    out[:, h] = forward(weights, q[:, h])[0]
    out[:, h] -= forward(initial(memory, h), q[:, h])[0]
  gate = memory.gate.bias[...] + x @ np.asarray(memory.gate.weight[...])
  expected = out.reshape(5, -1) @ np.asarray(memory.wo[...])
  expected *= sigmoid(gate)[:, None]
  read = memory.read(write(memory, pairs), jnp.asarray(asked))
  np.testing.assert_allclose(read.output_CxD, expected, rtol=2e-3, atol=1e-4)
  assert np.abs(expected).max() > 0.1


def test_the_delta_rule_is_a_special_case():
  """depth=1, theta=b/2, eta=alpha=0, write_chunk=1: S += b k (v - k S)."""
  memory, pairs = make(1, 1, learning_rate=0.3, clip_norm=0.0), text()
  memory.rate_weight[...] = jnp.zeros_like(memory.rate_weight[...])
  bias = np.repeat(np.array([0.0, -1e3, -1e3], np.float32), HEADS)
  memory.rate_bias[...] = jnp.asarray(bias)
  x = normed(pairs.hidden_CxD)
  k, v = heads(x, memory.wk, True), heads(pairs.value_CxD, memory.wv, True)
  (change_HxKxE,) = write(memory, pairs).change
  for h in range(HEADS):
    (matrix,) = initial(memory, h)
    for t in np.flatnonzero(pairs.valid_C):
      error = v[t, h] - k[t, h] @ matrix
      matrix = matrix + 0.6 * np.outer(k[t, h], error)
    np.testing.assert_allclose(
      change_HxKxE[h], matrix - initial(memory, h)[0], rtol=1e-4, atol=1e-5
    )


def test_chunks_one_after_the_other_are_the_whole():
  memory, pairs = make(2, 2), text()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    write(memory, pairs, 4),
    write(memory, pairs),
  )
  with pytest.raises(ValueError, match="write_chunk=2 must divide the 3 pairs"):
    write(memory, pairs, 3)


def test_padding_moves_nothing():
  """Weights and momentum are the same as without it."""
  memory, shorter = make(2, 4), make(2, 2)
  pairs = text()
  pairs.valid_C[:] = np.arange(LENGTH) % 4 < 2
  put = jax.jit(memory.write)
  padded = put(memory.init_state(LENGTH), rows(pairs))
  alone = jax.jit(shorter.write)(
    shorter.init_state(LENGTH), rows(pairs, pairs.valid_C)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    padded,
    alone,
  )
  pairs.valid_C[:] = False
  jax.tree.map(np.testing.assert_array_equal, put(padded, rows(pairs)), padded)


def test_an_empty_memory_adds_exactly_nothing():
  """Also with M_0 shared by a batch of M, compiled as outside of the tests
  (optimised: multiplications and additions are fused)."""
  memory = make(3, 4)
  asked = np.random.default_rng(4).normal(size=(3, 32, DIM)).astype(np.float32)
  states = jax.tree.map(lambda x: jnp.stack([x] * 3), memory.init_state(LENGTH))
  read = jax.jit(jax.vmap(memory.read)).lower(states, asked)
  read = read.compile({"xla_backend_optimization_level": 3})(states, asked)
  np.testing.assert_array_equal(read.output_CxD, 0)


def test_a_pair_is_recalled_and_replaced():
  """A write moves the read of its key towards its value, and the last wins."""
  memory = neural.Config(learning_rate=1.0).make(DIM, LENGTH, nnx.Rngs(0))
  pairs = text(valid=1.0)
  pairs.hidden_CxD[:] = pairs.hidden_CxD[0]
  pairs.value_CxD[6:] = pairs.value_CxD[6]
  state = write(memory, pairs)
  v = heads(pairs.value_CxD[6:7], memory.wv, True, 4)
  wanted = v.reshape(-1) @ np.asarray(memory.wo[...])
  read = memory.read(state, jnp.asarray(pairs.hidden_CxD[:1]))
  error = np.linalg.norm(read.output_CxD[0] / read.gate_C[0] - wanted)
  assert error < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("depth, write_chunk", [(2, 1), (3, LENGTH)])
def test_large_rates_do_not_diverge(depth, write_chunk):
  """A step is bounded, so that what is recalled stays finite."""
  memory = neural.Config(
    depth=depth, write_chunk=write_chunk, learning_rate=5.0, momentum=0.95
  ).make(DIM, LENGTH, nnx.Rngs(0))
  pairs = rows(text())

  def step(state, _):
    return memory.write(state, pairs), None

  state, _ = jax.lax.scan(step, memory.init_state(LENGTH), length=100)
  read = memory.read(state, pairs.hidden_CxD)
  assert np.isfinite(read.output_CxD).all()


def test_initial_rates_are_the_settings():
  memory = neural.Config(learning_rate=0.7, momentum=0.6, forget=0.02).make(
    DIM, LENGTH, nnx.Rngs(0)
  )
  rates = memory._rates(jnp.ones((1, DIM)), jnp.ones((1,), bool))
  np.testing.assert_allclose(rates.theta, 0.7, rtol=1e-5)
  np.testing.assert_allclose(rates.eta, 0.6, rtol=1e-5)
  np.testing.assert_allclose(rates.keep, 0.98, rtol=1e-5)
  np.testing.assert_array_equal(memory.wk[...], memory.wq[...])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_size_and_flops(depth):
  memory, pairs = make(depth, 4), rows(text())
  state = memory.init_state(LENGTH)
  widths = [KEY, *[HIDDEN] * (depth - 1), VALUE]
  numbers = sum(i * o for i, o in zip(widths, widths[1:], strict=False))
  assert memory.state_bytes(10) == 2 * 4 * HEADS * numbers
  assert memory.state_bytes(10) == memory.state_bytes(10_000)
  counted = matmul_flops(memory.read, state, pairs.hidden_CxD)
  counted += matmul_flops(memory.write, state, pairs)
  assert memory.flops_per_token(LENGTH) == counted / LENGTH


def test_second_derivatives_are_finite():
  """Also of zeros, and with nothing valid."""
  graphdef, params = nnx.split(make(2, 4))

  def loss(params, pairs, asked):
    memory = nnx.merge(graphdef, params)
    state = memory.write(memory.init_state(LENGTH), pairs)
    return jnp.sum(jnp.square(memory.read(state, asked).output_CxD))

  @jax.jit
  def twice(params, pairs, asked):
    def slope(params, asked):
      grads = jax.grad(loss, argnums=(0, 2))(params, pairs, asked)
      return sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(grads))

    return jax.grad(slope, argnums=(0, 1))(params, asked)

  pairs = rows(text())
  asked = pairs.hidden_CxD[:2] + 1
  usual = twice(params, pairs, asked)
  for path, g in nnx.to_flat_state(usual[0]):
    assert np.abs(g[...]).max() > 1e-7, path
  zeros = twice(params, jax.tree.map(jnp.zeros_like, pairs), 0 * asked)
  for g in jax.tree.leaves((usual, zeros)):
    assert np.isfinite(g).all()


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(write_chunk=5), "memory.write_chunk=5 must divide chunk=32"),
    (dict(write_chunk=0), "memory.write_chunk=0 must be at least 1"),
    (dict(clip_norm=-1.0), "memory.clip_norm=-1.0 must be at least 0.0"),
    (dict(depth=0), "memory.depth=0 must be at least 1"),
    (dict(hidden=0), "memory.hidden=0 must be at least 1"),
    (dict(num_heads=0), "memory.num_heads=0 must be at least 1"),
    (dict(key_dim=0), "memory.key_dim=0 must be at least 1"),
    (dict(value_dim=0), "memory.value_dim=0 must be at least 1"),
    (dict(learning_rate=0.0), "memory.learning_rate=0.0 must be positive"),
    (dict(momentum=0.0), r"memory.momentum=0.0 must lie in \(0, 1\)"),
    (dict(forget=1.0), r"memory.forget=1.0 must lie in \(0, 1\)"),
  ],
)
def test_settings_that_do_not_fit(changes, error):
  tree = config.template("associative_recall", "neural")
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)
