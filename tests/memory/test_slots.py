"""Slots against the equations of the DNC, slot by slot in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config
from mattt_jax.memory import slots
from mattt_jax.memory.base import Pairs
from mattt_jax.planning.cost_model import matmul_flops

DIM, SLOTS, WIDTH, HEADS, LENGTH = 6, 5, 3, 2, 12


def make(noise=0.5, **changes):
  """A memory of which no parameter is at its initial zero or one."""
  settings = dict(
    capacity=SLOTS, width=WIDTH, num_heads=HEADS, sharpness=3.0, null_bias=0.5,
    retention=0.8,
  ) | changes  # fmt: skip
  memory = slots.Config(**settings).make(DIM, 4, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  graphdef, state = nnx.split(memory)
  return nnx.merge(
    graphdef,
    jax.tree.map(
      lambda x: x + noise * rng.normal(size=x.shape).astype(np.float32), state
    ),
  )


def saturated(**changes):
  """Writes all of every pair, each into one slot, and erases all of it."""
  memory = make(noise=0.0, sharpness=50.0, retention=0.9999, **changes)
  for control in (memory.write_gate, memory.allocation_gate, memory.erase):
    control.bias[...] = jnp.full_like(control.bias[...], 50.0)
  return memory


def text(length=LENGTH, seed=0, valid=0.8):
  rng = np.random.default_rng(seed)
  return Pairs(
    hidden_CxD=rng.normal(size=(length, DIM)).astype(np.float32),
    value_CxD=rng.normal(size=(length, DIM)).astype(np.float32),
    next_token_C=np.zeros(length, np.int32),
    surprise_C=np.zeros(length, np.float32),
    gradient_C=np.zeros(length, np.float32),
    relevant_C=np.zeros(length, bool),
    valid_C=rng.random(length) < valid,
  )


def part(pairs, which):
  return jax.tree.map(lambda x: jnp.asarray(x[which]), pairs)


@nnx.jit
def write_chunk(memory, state, pairs):
  return memory.write(state, pairs)


def write(memory, pairs, chunk=None):
  length = len(pairs.valid_C)
  state = memory.init_state(length)
  for i in range(0, length, chunk or length):
    now = part(pairs, slice(i, i + (chunk or length)))
    state = write_chunk(memory, state, now)
  return state


# The equations.


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x)))


def cosine(a, b):
  norms = np.linalg.norm(a) * np.linalg.norm(b)
  return a @ b / norms if norms else 0.0


def normed(memory, x):
  scale = np.asarray(memory.norm.scale[...])
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def control(module, x):
  return np.asarray(module.bias[...]) + x @ np.asarray(module.weight[...])


def allocation_by_hand(usage):
  """a[f_j] = (1 - u[f_j]) prod_{i<j} u[f_i]; the rest to f_1."""
  free_list = sorted(range(len(usage)), key=lambda i: (usage[i], i))
  weight, product = np.zeros(len(usage)), 1.0
  for slot in free_list:
    weight[slot] = (1 - usage[slot]) * product
    product *= usage[slot]
  weight[free_list[0]] += product
  return weight


def content_by_hand(keys, usage, key, sharpness, null=None):
  """u exp(b cos) over the sum of those and of exp(null)."""
  found = [
    u * np.exp(sharpness * cosine(m, key))
    for m, u in zip(keys, usage, strict=True)
  ]
  total = sum(found) + (0.0 if null is None else np.exp(null))
  return np.array(found) / total if total else np.zeros(len(keys))


def write_by_hand(memory, pairs):
  """(slots, usage) after the valid pairs, one number at a time."""
  x = normed(memory, pairs.hidden_CxD)
  k, v = (
    x @ np.asarray(memory.wk[...]),
    pairs.value_CxD @ np.asarray(memory.wv[...]),
  )
  sharpness = 1 + np.log1p(np.exp(control(memory.write_sharpness, x)[:, 0]))
  gate = sigmoid(control(memory.write_gate, x)[:, 0])
  allocate = sigmoid(control(memory.allocation_gate, x)[:, 0])
  erase = sigmoid(control(memory.erase, x))
  retention = sigmoid(memory.retention_logit[...])
  size, width = memory.config.capacity, memory.config.width
  matrix, usage = np.zeros((size, 2 * width)), np.zeros(size)
  for t in np.flatnonzero(pairs.valid_C):
    usage = usage * (1 - (1 - retention) * gate[t])
    new = np.concatenate([k[t] / np.linalg.norm(k[t]), v[t]])
    a = allocation_by_hand(usage)
    c = content_by_hand(matrix[:, :width], usage, k[t], sharpness[t])
    weight = gate[t] * (allocate[t] * a + (1 - allocate[t]) * c)
    for m in range(size):
      matrix[m] = matrix[m] * (1 - weight[m] * erase[t]) + weight[m] * new
    usage = usage + weight - usage * weight
  return matrix, usage


def read_by_hand(memory, matrix, usage, asked):
  """(output, share of null)."""
  x, width = normed(memory, asked), memory.config.width
  q = (x @ np.asarray(memory.wq[...])).reshape(len(x), -1, width)
  sharpness = 1 + np.log1p(np.exp(control(memory.read_sharpness, x)))
  null = control(memory.read_null, x)
  found = np.zeros(q.shape)
  missed = np.zeros(q.shape[:2])
  for c, h in np.ndindex(*q.shape[:2]):
    weight = content_by_hand(
      matrix[:, :width], usage, q[c, h], sharpness[c, h], null[c, h]
    )
    found[c, h], missed[c, h] = weight @ matrix[:, width:], 1 - weight.sum()
  out = found.reshape(len(x), -1) @ np.asarray(memory.wo[...])
  gate = sigmoid(
    memory.gate.bias[...] + x @ np.asarray(memory.gate.weight[...])
  )
  return gate[:, None] * out, missed.mean(-1)


ASKED = np.random.default_rng(8).normal(size=(4, DIM)).astype(np.float32)
USAGES = {
  "free": [0.9, 0.0, 0.3, 0.7, 0.1],
  "empty": [0.0] * 5,
  "full": [1.0] * 5,
  "no slot is free": [0.9, 0.5, 0.8, 0.99, 0.7],
  "ties": [0.5, 0.2, 0.5, 0.2, 1.0],
}


@pytest.mark.parametrize("usage", USAGES.values(), ids=USAGES)
def test_allocation(usage):
  got = slots.allocation_weights(jnp.asarray(usage))
  np.testing.assert_allclose(
    got, allocation_by_hand(np.array(usage)), atol=1e-6
  )
  np.testing.assert_allclose(jnp.sum(got), 1, rtol=1e-6)


def test_allocation_by_the_numbers():
  got = slots.allocation_weights(jnp.asarray([0.5, 0.25, 1.0]))
  # (1 - 1/4); 1/4 (1 - 1/2); nothing; and 1/8 that found no free slot.
  np.testing.assert_allclose(got, [0.125, 0.75 + 0.125, 0.0], rtol=1e-6)


def test_gradient_of_allocation():
  """That of the products, in the order as it is: central differences."""
  usage = np.array(USAGES["no slot is free"])
  got = jax.jacobian(slots.allocation_weights)(jnp.asarray(usage, jnp.float32))
  for i, step in enumerate(1e-6 * np.eye(len(usage))):
    up, down = (allocation_by_hand(usage + s) for s in (step, -step))
    np.testing.assert_allclose(got[:, i], (up - down) / 2e-6, atol=1e-5)


def test_content_weights():
  rng = np.random.default_rng(0)
  keys, key = rng.normal(size=(SLOTS, WIDTH)), rng.normal(size=WIDTH)
  score = 2.5 * np.array([cosine(m, key) for m in keys])
  # In full use, without null: the softmax of the DNC.
  got = slots.content_weights(jnp.asarray(score), jnp.ones(SLOTS))
  np.testing.assert_allclose(got, jax.nn.softmax(score), rtol=1e-5)
  usage = np.array([0.0, 1.0, 0.5, 0.0, 0.01])
  for null in (None, -2.0, 3.0):
    expected = content_by_hand(keys, usage, key, 2.5, null)
    args = () if null is None else (null,)
    got = slots.content_weights(jnp.asarray(score), jnp.asarray(usage), *args)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert got[0] == got[3] == 0
  # An empty slot that fits better does not hide the one in use.
  got = slots.content_weights(jnp.asarray([50.0, 0.0]), jnp.asarray([0.0, 1.0]))
  np.testing.assert_allclose(got, [0, 1], atol=1e-5)
  # A slot that is hardly in use is not found, though it is the only one.
  assert slots.content_weights(jnp.ones(1), jnp.full(1, 1e-20))[0] < 1e-10
  # No score is so high or low that it overflows.
  for score in (-300.0, 300.0):
    got = slots.content_weights(jnp.full(2, score), jnp.ones(2), -score)
    np.testing.assert_allclose(jnp.sum(got), score > 0, atol=1e-5)


@pytest.mark.parametrize("chunk", [LENGTH, 4])
def test_a_write_is_the_recurrence(chunk):
  """More pairs than slots, some of them padding, in one chunk or in three."""
  memory, pairs = make(), text()
  assert SLOTS < pairs.valid_C.sum() < LENGTH
  state = write(memory, pairs, chunk)
  matrix, usage = write_by_hand(memory, pairs)
  np.testing.assert_allclose(state.slot_MxP, matrix, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(state.usage_M, usage, rtol=1e-3, atol=1e-4)
  assert np.ptp(usage) > 0.05


@pytest.mark.parametrize("count", [2, LENGTH])
def test_a_read_is_a_mean_of_values(count):
  """With slots that are empty, and with none."""
  memory, pairs = make(), part(text(valid=1), slice(count))
  matrix, usage = write_by_hand(memory, jax.tree.map(np.asarray, pairs))
  read = memory.read(write(memory, pairs), jnp.asarray(ASKED))
  expected, null = read_by_hand(memory, matrix, usage, ASKED)
  np.testing.assert_allclose(read.output_CxD, expected, rtol=2e-3, atol=1e-4)
  np.testing.assert_allclose(read.null_C, null, rtol=1e-3)
  assert np.abs(expected).max() > 0.1 and 0.05 < null.min() < 0.95


def test_an_empty_slot_is_not_read():
  memory = make()
  state = write(memory, text())
  read = memory.read(memory.init_state(0), jnp.asarray(ASKED))
  np.testing.assert_array_equal(read.output_CxD, 0)
  np.testing.assert_array_equal(read.null_C, 1)
  # Whatever it holds.
  emptied = state.replace(usage_M=state.usage_M.at[1].set(0.0))
  other = emptied.replace(slot_MxP=emptied.slot_MxP.at[1].set(7.0))
  a, b, c = (
    memory.read(s, jnp.asarray(ASKED)).output_CxD
    for s in (emptied, other, state)
  )
  np.testing.assert_array_equal(a, b)
  assert not np.allclose(a, c)


def test_padding_changes_nothing():
  memory, pairs = make(), text()
  kept = write(memory, part(pairs, pairs.valid_C))
  padded = write(memory, pairs)
  for x, y in zip(*map(jax.tree.leaves, (kept, padded)), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
  nothing = write_chunk(memory, kept, part(text(seed=3, valid=0), slice(None)))
  for x, y in zip(*map(jax.tree.leaves, (kept, nothing)), strict=True):
    np.testing.assert_array_equal(x, y)


def held(memory, state):
  """Values of the slots, [M, W]."""
  return np.asarray(state.slot_MxP[:, memory.config.width :])


def test_overflow_overwrites_the_least_used_slot():
  memory, pairs = saturated(), text(SLOTS + 2, valid=1)
  v = pairs.value_CxD @ np.asarray(memory.wv[...])
  got = held(memory, write(memory, part(pairs, slice(SLOTS))))
  np.testing.assert_allclose(got, v[:SLOTS], atol=1e-3)
  # The two oldest, which lost most of their usage, are gone; nothing else is.
  got = held(memory, write(memory, pairs))
  expected = np.r_[v[SLOTS:], v[2:SLOTS]]
  np.testing.assert_allclose(got, expected, atol=1e-2)
  # A slot is used by what it holds, not by its age alone.
  state = write(memory, part(pairs, slice(SLOTS)))
  state = state.replace(usage_M=state.usage_M.at[3].set(0.0))
  state = write_chunk(memory, state, part(pairs, slice(SLOTS, SLOTS + 1)))
  expected = np.r_[v[:3], v[SLOTS : SLOTS + 1], v[4:5]]
  np.testing.assert_allclose(held(memory, state), expected, atol=1e-3)


def test_a_key_is_bound_again_in_its_slot():
  """With allocation off, a pair goes where its key is."""
  memory, pairs = saturated(), text(SLOTS, valid=1)
  again = part(text(1, seed=5, valid=1), slice(None)).replace(
    hidden_CxD=jnp.asarray(pairs.hidden_CxD[2:3])
  )
  v = pairs.value_CxD @ np.asarray(memory.wv[...])
  v[2] = again.value_CxD @ memory.wv[...]
  state = write(memory, pairs)
  memory.allocation_gate.bias[...] = jnp.full(1, -50.0)
  state = write_chunk(memory, state, again)
  np.testing.assert_allclose(held(memory, state), v, atol=2e-2)


def test_as_initialised_the_pair_asked_for_is_found():
  memory = slots.Config().make(64, 4, nnx.Rngs(0))
  rng = np.random.default_rng(0)
  hidden_CxD, value_CxD = rng.normal(size=(2, 60, 64)).astype(np.float32)
  pairs = text(60, valid=1).replace(hidden_CxD=hidden_CxD, value_CxD=value_CxD)
  read = memory.read(write(memory, pairs), jnp.asarray(hidden_CxD[10:11]))
  v = np.tile(value_CxD @ np.asarray(memory.wv[...]), memory.config.num_heads)
  like = [cosine(x, read.output_CxD[0]) for x in v @ memory.wo[...]]
  assert np.argmax(like) == 10
  assert like[10] > 0.9
  assert read.null_C[0] < 0.1


def test_initial_settings():
  memory = slots.Config(sharpness=4.5, retention=0.97, null_bias=1.5).make(
    DIM, 4, nnx.Rngs(0)
  )
  x = jnp.ones((1, DIM))
  for module in (memory.read_sharpness, memory.write_sharpness):
    np.testing.assert_allclose(1 + jax.nn.softplus(module(x)), 4.5, rtol=1e-5)
  np.testing.assert_allclose(sigmoid(memory.retention_logit[...]), 0.97, 1e-5)
  np.testing.assert_array_equal(memory.read_null(x), 1.5)
  q_HxDxW = np.split(np.asarray(memory.wq[...]), memory.config.num_heads, 1)
  for q_DxW in q_HxDxW:
    np.testing.assert_array_equal(q_DxW, memory.wk[...])


def test_costs():
  memory = make()
  # 5 slots of a key and a value of 3 float32 each, and a usage.
  assert memory.state_bytes(10) == memory.state_bytes(10_000) == 5 * (6 + 1) * 4
  chunk, state = part(text(4), slice(None)), memory.init_state(0)
  counted = matmul_flops(memory.read, state, jnp.asarray(ASKED)) / len(ASKED)
  counted += matmul_flops(memory.write, state, chunk) / 4
  assert memory.flops_per_token(10) == counted > 0


WORST = {
  "random": (1.0, 0.8),
  "zeros": (0.0, 1.0),
  "nothing valid": (1.0, 0.0),
}


@pytest.fixture(scope="module")
def second_derivative():
  """Of reads between writes from empty slots, which are all tied."""
  graphdef, params = nnx.split(make())

  def loss(params, hidden_CxD, value_CxD, valid_C):
    memory = nnx.merge(graphdef, params)
    state, total = memory.init_state(0), 0.0
    chunk = part(text(len(valid_C)), slice(None)).replace(
      hidden_CxD=hidden_CxD, value_CxD=value_CxD, valid_C=valid_C
    )
    for _ in range(2):
      state = memory.write(state, chunk)
      out_CxD = memory.read(state, hidden_CxD).output_CxD
      total += jnp.sum(jnp.sin(out_CxD + jnp.arange(DIM)))
    return total

  def both(hidden_CxD, value_CxD, valid_C):
    args = params, hidden_CxD, value_CxD

    def gradient(*args):
      return jax.grad(loss, (0, 1, 2))(*args, valid_C)

    return jax.jvp(gradient, args, jax.tree.map(jnp.ones_like, args))

  return jax.jit(both)


@pytest.mark.parametrize("scale, valid", WORST.values(), ids=WORST)
def test_second_derivatives_are_finite(second_derivative, scale, valid):
  pairs = text(4, seed=1, valid=valid)
  first, second = second_derivative(
    scale * pairs.hidden_CxD, scale * pairs.value_CxD, pairs.valid_C
  )
  for x in jax.tree.leaves((first, second)):
    assert np.isfinite(x).all()
  if scale and valid:  # and reach every parameter
    for path, x in nnx.to_flat_state(second[0]):
      assert np.abs(x[...]).max() > 1e-6, path


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(capacity=0), "memory.capacity=0 must be at least 1"),
    (dict(width=0), "memory.width=0 must be at least 1"),
    (dict(num_heads=0), "memory.num_heads=0 must be at least 1"),
    (dict(sharpness=1.0), r"memory.sharpness=1.0 must be > 1: .* softplus"),
    (dict(retention=1.0), r"memory.retention=1.0 must lie in \(0, 1\)"),
    (dict(retention=0.0), r"memory.retention=0.0 must lie in \(0, 1\)"),
    (dict(read="pointer"), "memory.read='pointer' is not known: .* residual"),
  ],
)  # fmt: skip
def test_settings_that_do_not_fit(changes, error):
  tree = config.template("associative_recall", "slots")
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)
