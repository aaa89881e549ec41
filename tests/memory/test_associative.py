"""Associative memory against the papers' equations, token by token in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config
from mattt_jax.memory import associative
from mattt_jax.memory.base import Pairs
from mattt_jax.planning.cost_model import matmul_flops

DIM, HEADS, KEY, VALUE, LENGTH = 6, 2, 3, 5, 12
RULES = [
  dict(),  # the default: delta rule on unit keys, a learned decay a head
  dict(rule="linear", features="elu"),
  dict(rule="linear", features="dpfp"),
  dict(rule="linear_delta", features="elu"),
  dict(rule="linear_delta", features="dpfp", dpfp_nu=2),
  dict(rule="delta"),
  dict(rule="delta", features="dpfp", dpfp_nu=2),
  dict(rule="decayed_delta", features="elu"),
  dict(rule="gated_delta"),
]


def make(**changes):
  """No parameter is at its initial zero."""
  memory = associative.Config(
    num_heads=HEADS, key_dim=KEY, value_dim=VALUE, **changes
  ).make(DIM, LENGTH, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  graphdef, state = nnx.split(memory)
  state = jax.tree.map(
    lambda x: x + 0.5 * rng.normal(size=x.shape).astype(x.dtype), state
  )
  memory = nnx.merge(graphdef, state)
  if hasattr(memory, "decay_logit"):
    memory.decay_logit[...] = jnp.asarray([0.5, 2.0], jnp.float32)
  return memory


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def normed(memory, x):
  scale = np.asarray(memory.norm.scale[...])
  return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def heads(x, w):
  return (x @ np.asarray(w[...])).reshape(len(x), HEADS, -1)


def features(settings, x):
  """Of one key or query."""
  if settings.features == "unit":
    return x / np.linalg.norm(x)
  if settings.features == "elu":
    y = np.where(x > 0, x + 1, np.exp(x))
  else:
    r = np.maximum(0, np.concatenate([x, -x]))
    y = np.asarray([
      r[i] * r[(i + j) % len(r)]
      for j in range(1, settings.dpfp_nu + 1)
      for i in range(len(r))
    ])  # fmt: skip
  return y if settings.rule.startswith("linear") else y / y.sum()


def ratio(q, matrix, z):
  """What a normalised read gives; 0 where no key has a part of the query."""
  return q @ matrix / (q @ z) if q @ z > 0 else np.zeros(VALUE)


def by_hand(memory, pairs):
  """(S, z) of each head: the equations of each paper."""
  c, p = memory.config, {
    k: np.asarray(v[...]) for k, v in vars(memory).items()
    if isinstance(v, nnx.Param)
  }  # fmt: skip
  x = normed(memory, pairs.hidden_CxD)
  k, v = heads(x, memory.wk), heads(pairs.value_CxD, memory.wv)
  states = []
  for h in range(HEADS):
    matrix, z = np.zeros((c.num_features, VALUE)), np.zeros(c.num_features)
    for t in np.flatnonzero(pairs.valid_C):
      key, value = features(c, k[t, h]), v[t, h]
      if c.rule == "linear":  # 2404.07143, eq. 4
        matrix = matrix + np.outer(key, value)
        z = z + key
      elif c.rule == "linear_delta":  # eq. 5
        matrix = matrix + np.outer(key, value - ratio(key, matrix, z))
        z = z + key
      else:
        b = p["strength_bias"] + x[t] @ p["strength_weight"]
        b = sigmoid(b[h])
        if c.rule == "decayed_delta":
          matrix = sigmoid(p["decay_logit"][h]) * matrix
        if c.rule == "gated_delta":  # 2412.06464, eq. 10
          gate = x[t] @ p["decay_weight"][:, h] + p["decay_bias"][h]
          rate = np.exp(p["decay_log_scale"][h]) * np.log1p(np.exp(gate))
          matrix = np.exp(-rate) * matrix
        # 2102.11174: W + b (v - W k) k'
        matrix = matrix + b * np.outer(key, value - key @ matrix)
    states.append((matrix, z))
  return states


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


@jax.jit
def write_chunk(memory, state, pairs):
  return memory.write(state, pairs)


def write(memory, pairs, chunk=LENGTH):
  state = memory.init_state(LENGTH)
  for i in range(0, LENGTH, chunk):
    state = write_chunk(memory, state, rows(pairs, slice(i, i + chunk)))
  return state


@pytest.mark.parametrize("chunkwise, chunk", [(True, 4), (False, LENGTH)])
@pytest.mark.parametrize("changes", RULES, ids=str)
def test_write_and_read(changes, chunkwise, chunk):
  """Parts at once or token by token; a chunk or several."""
  memory, pairs = make(chunkwise=chunkwise, **changes), text()
  assert not pairs.valid_C.all()
  state, expected = write(memory, pairs, chunk), by_hand(memory, pairs)
  matrix = np.stack([m for m, _ in expected])
  np.testing.assert_allclose(state.matrix_HxFxE, matrix, rtol=1e-3, atol=2e-5)

  asked = np.random.default_rng(4).normal(size=(5, DIM)).astype(np.float32)
  x, out = normed(memory, asked), np.zeros((5, HEADS, VALUE))
  for t, h in np.ndindex(5, HEADS):
    q = features(memory.config, heads(x, memory.wq)[t, h])
    matrix, z = expected[h]
    out[t, h] = ratio(q, matrix, z) if z.any() else q @ matrix
  gate = memory.gate.bias[...] + x @ np.asarray(memory.gate.weight[...])
  out = out.reshape(5, -1) @ np.asarray(memory.wo[...])
  out *= sigmoid(np.asarray(gate))[:, None]
  read = memory.read(state, jnp.asarray(asked))
  np.testing.assert_allclose(read.output_CxD, out, rtol=2e-3, atol=2e-5)
  assert np.abs(out).max() > 0.1


@pytest.mark.parametrize("changes", RULES, ids=str)
def test_chunkwise_is_token_by_token(changes):
  """To rounding; half of the first chunk is padding."""
  pairs = text()
  pairs.valid_C[:2] = False

  def double(tree):
    return jax.tree.map(
      lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x, tree
    )

  with jax.enable_x64(True):
    found = []
    for chunkwise in (True, False):
      graphdef, params = nnx.split(make(chunkwise=chunkwise, **changes))
      memory = nnx.merge(graphdef, double(params))
      state = double(memory.init_state(LENGTH))
      state = write_chunk(memory, state, double(pairs))
      found.append(write_chunk(memory, state, double(text(1))))
  assert found[0].matrix_HxFxE.dtype == np.float64
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-10, atol=1e-10 * np.abs(b).max()
    ),
    *found,
  )


@pytest.mark.parametrize(
  "changes", [RULES[i] for i in (0, 1, 4, 6, 8)], ids=str
)
def test_nothing_and_zeros(changes):
  """An empty memory adds exactly 0, padding nothing; derivatives of first and
  second order are finite also where all inputs are zero."""
  memory, pairs = make(**changes), rows(text(), slice(None))
  empty = memory.init_state(LENGTH)
  nothing = pairs.replace(valid_C=jnp.zeros(LENGTH, bool))
  zeros = jax.tree.map(jnp.zeros_like, pairs).replace(valid_C=pairs.valid_C)
  assert not memory.read(empty, pairs.hidden_CxD).output_CxD.any()
  state = write_chunk(memory, empty, pairs)
  jax.tree.map(
    np.testing.assert_array_equal, write_chunk(memory, state, nothing), state
  )
  graphdef, params = nnx.split(memory)

  def loss(params, pairs):
    memory = nnx.merge(graphdef, params)
    state = memory.write(empty, pairs)
    for part in (nothing, pairs):
      state = memory.write(state, part)
    return jnp.sum(jnp.sin(memory.read(state, pairs.hidden_CxD).output_CxD))

  @jax.jit
  def derivatives(pairs):
    grad = jax.grad(loss)
    other = jax.tree.map(jnp.ones_like, params)
    return jax.jvp(lambda p: grad(p, pairs), (params,), (other,))

  for case in (pairs, zeros, nothing):
    found = derivatives(case)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    if case is pairs:
      for path, x in nnx.to_flat_state(found[0]):
        assert np.abs(x[...]).max() > 1e-7, path


@pytest.mark.parametrize("changes", [{}, dict(rule="gated_delta")], ids=str)
def test_a_pair_is_recalled_and_replaced(changes):
  """At full strength a key gives its last value back exactly."""
  memory, pairs = make(**changes), text()
  memory.strength_bias[...] = jnp.full(HEADS, 1e3)
  pairs.hidden_CxD[-1] = pairs.hidden_CxD[2]  # bound again
  pairs.valid_C[[2, -1]] = True
  matrix = write(memory, pairs).matrix_HxFxE
  k = heads(normed(memory, pairs.hidden_CxD[-1:]), memory.wk)[0]
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  v = heads(pairs.value_CxD[-1:], memory.wv)[0]
  np.testing.assert_allclose(
    np.einsum("hk,hke->he", k, matrix), v, rtol=1e-4, atol=1e-5
  )


def test_dpfp_of_two_numbers():
  """relu([2, -3, -2, 3]) = [2, 0, 0, 3], times its neighbours."""
  x = jnp.asarray([2.0, -3.0])
  np.testing.assert_array_equal(associative.dpfp(x, 1), [0, 0, 0, 6])
  np.testing.assert_array_equal(
    associative.dpfp(x, 3), [0, 0, 0, 6] + [0] * 4 + [6, 0, 0, 0]
  )


@pytest.mark.parametrize("rule", associative.DECAYED)
def test_initial_decay_is_the_setting(rule):
  settings = associative.Config(rule=rule, decay=0.97)
  memory = settings.make(DIM, 4, nnx.Rngs(0))
  decay = np.exp(memory._log_decay(jnp.ones((3, DIM))))
  np.testing.assert_allclose(decay, np.full((3, 4), 0.97), rtol=1e-6)


def test_queries_start_as_keys():
  memory = associative.Config().make(DIM, 4, nnx.Rngs(0))
  np.testing.assert_array_equal(memory.wq[...], memory.wk[...])
  assert memory.wq[...].std() > 0.1


@pytest.mark.parametrize(
  "changes, numbers",
  [
    ({}, KEY * VALUE),
    (dict(rule="linear", features="elu"), KEY * VALUE + KEY),
    (dict(rule="delta", features="dpfp", dpfp_nu=2), 4 * KEY * VALUE),
  ],
  ids=str,
)
def test_state_bytes(changes, numbers):
  """float32, whatever the length of the context."""
  memory = make(**changes)
  for length in (10, 10_000):
    assert memory.state_bytes(length) == 4 * HEADS * numbers


@pytest.mark.parametrize("chunkwise", [True, False])
@pytest.mark.parametrize("changes", RULES, ids=str)
def test_flops_per_token(changes, chunkwise):
  memory = make(chunkwise=chunkwise, **changes)
  state, pairs = memory.init_state(LENGTH), rows(text(), slice(None))
  read = matmul_flops(memory.read, state, pairs.hidden_CxD)
  total = read + matmul_flops(memory.write, state, pairs)
  assert total / LENGTH == memory.flops_per_token(LENGTH)


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(rule="hebb"), "memory.rule='hebb' is not known"),
    (dict(features="relu"), "memory.features='relu' is not known"),
    (dict(rule="linear"), "'unit' may be negative.* use 'elu' or 'dpfp'"),
    (dict(rule="linear_delta"), "memory.rule='linear_delta' divides"),
    (dict(dpfp_nu=0), "memory.dpfp_nu=0 must be at least 1"),
    (dict(dpfp_nu=8, key_dim=4), r"dpfp_nu=8 must be below .*key_dim=8"),
  ],
)
def test_settings_that_do_not_fit(changes, error):
  tree = config.template("associative_recall", "associative")
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)
