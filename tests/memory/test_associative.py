"""Associative memory against its recurrence, token by token in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax.memory import associative
from mattt_jax.memory.base import Pairs

DIM, HEADS, KEY, VALUE, LENGTH = 6, 2, 3, 5, 12


def make(**changes):
  memory = associative.Config(
    num_heads=HEADS, key_dim=KEY, value_dim=VALUE, **changes
  ).make(DIM, 4, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  for parameter in (
    memory.strength_bias, memory.strength_weight,
    memory.gate.bias, memory.gate.weight,
  ):  # fmt: skip
    parameter[...] = jnp.asarray(rng.normal(size=parameter[...].shape))
  memory.decay_logit[...] = jnp.asarray([0.5, 2.0])  # one a head
  return memory


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x)))


def normed(x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def heads(x, w, unit=False):
  y = (x @ np.asarray(w[...])).reshape(len(x), HEADS, -1)
  return y / np.linalg.norm(y, axis=-1, keepdims=True) if unit else y


def by_hand(memory, pairs):
  """S_t = a S_{t-1} + b k (v - k a S_{t-1}), for each head."""
  x = normed(pairs.hidden_CxD)
  k, v = heads(x, memory.wk, True), heads(pairs.value_CxD, memory.wv)
  strength = sigmoid(
    memory.strength_bias[...] + x @ np.asarray(memory.strength_weight[...])
  )
  decay = sigmoid(memory.decay_logit[...])
  matrix = np.zeros((HEADS, KEY, VALUE))
  for t in np.flatnonzero(pairs.valid_C):
    for h in range(HEADS):
      kept = decay[h] * matrix[h]
      error = v[t, h] - k[t, h] @ kept
      matrix[h] = kept + strength[t, h] * np.outer(k[t, h], error)
  return matrix


def text(seed=0):
  rng = np.random.default_rng(seed)
  return Pairs(
    hidden_CxD=rng.normal(size=(LENGTH, DIM)).astype(np.float32),
    value_CxD=rng.normal(size=(LENGTH, DIM)).astype(np.float32),
    next_token_C=np.zeros(LENGTH, np.int32),
    surprise_C=np.zeros(LENGTH, np.float32),
    gradient_C=np.zeros(LENGTH, np.float32),
    relevant_C=np.zeros(LENGTH, bool),
    valid_C=rng.random(LENGTH) < 0.8,
  )


def rows(pairs, which):
  return jax.tree.map(lambda x: jnp.asarray(x[which]), pairs)


def write(memory, pairs, chunk=LENGTH):
  state = memory.init_state(LENGTH)
  for i in range(0, LENGTH, chunk):
    state = memory.write(state, rows(pairs, slice(i, i + chunk)))
  return state


@pytest.mark.parametrize("chunk", [LENGTH, 4])
def test_write_is_the_delta_rule(chunk):
  memory, pairs = make(), text()
  assert not pairs.valid_C.all()
  np.testing.assert_allclose(
    write(memory, pairs, chunk).matrix_HxKxE,
    by_hand(memory, pairs),
    rtol=1e-4,
    atol=1e-5,
  )


def test_read_is_gated():
  memory, pairs = make(), text()
  asked = np.random.default_rng(4).normal(size=(5, DIM)).astype(np.float32)
  x, matrix = normed(asked), by_hand(memory, pairs)
  out = np.einsum("chk,hke->che", heads(x, memory.wq, True), matrix)
  gate = memory.gate.bias[...] + x @ np.asarray(memory.gate.weight[...])
  expected = out.reshape(5, -1) @ np.asarray(memory.wo[...])
  expected *= sigmoid(gate)[:, None]
  read = memory.read(write(memory, pairs), jnp.asarray(asked))
  np.testing.assert_allclose(read.output_CxD, expected, rtol=1e-3, atol=1e-5)
  assert np.abs(expected).max() > 0.1


def test_a_pair_is_recalled_and_replaced():
  """At full strength a key gives its last value back exactly."""
  memory, pairs = make(), text()
  memory.strength_bias[...] = jnp.full(HEADS, 1e3)
  pairs.hidden_CxD[-1] = pairs.hidden_CxD[2]  # bound again
  pairs.valid_C[[2, -1]] = True
  matrix = write(memory, pairs).matrix_HxKxE
  k = heads(normed(pairs.hidden_CxD[-1:]), memory.wk, True)[0]
  v = heads(pairs.value_CxD[-1:], memory.wv)[0]
  np.testing.assert_allclose(
    np.einsum("hk,hke->he", k, matrix), v, rtol=1e-4, atol=1e-5
  )


def test_initial_decay_is_the_setting():
  memory = associative.Config(decay=0.97).make(DIM, 4, nnx.Rngs(0))
  np.testing.assert_allclose(sigmoid(memory.decay_logit[...]), 0.97, rtol=1e-6)
  assert memory.state_bytes(10) == memory.state_bytes(10_000) == 4 * 4 * 16 * 16
