"""What every registered memory must do, whatever it stores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config, registry
from mattt_jax.memory.base import Memory, Pairs

DIM, CHUNK, VOCAB, CONTEXT = 6, 4, 20, 12
NAMES = registry.names(config.MEMORIES)
SYSTEMS = [
  (name, read)
  for name in NAMES
  for read in getattr(registry.load(config.MEMORIES, name).Config, "reads", ())
]


@pytest.fixture(scope="module", params=SYSTEMS, ids="-".join)
def memory(request):
  """A memory of which no parameter is at its initial zero or one."""
  name, read = request.param
  settings = registry.load(config.MEMORIES, name).Config(read=read)
  memory = settings.make(DIM, CHUNK, nnx.Rngs(0))
  graphdef, state = nnx.split(memory)
  leaves, treedef = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(3), len(leaves))
  state = treedef.unflatten(
    x + 0.3 * jax.random.normal(k, x.shape)
    for k, x in zip(keys, leaves, strict=True)
  )
  return nnx.merge(graphdef, state)


def pairs(seed=0, valid=(True,) * CHUNK, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  return Pairs(
    hidden_CxD=jnp.asarray(rng.normal(size=(CHUNK, DIM)), dtype),
    value_CxD=jnp.asarray(rng.normal(size=(CHUNK, DIM)), jnp.float32),
    next_token_C=jnp.asarray(rng.integers(0, VOCAB, CHUNK), jnp.int32),
    surprise_C=jnp.asarray(rng.random(CHUNK), jnp.float32),
    gradient_C=jnp.asarray(rng.random(CHUNK), jnp.float32),
    relevant_C=jnp.asarray(rng.random(CHUNK) < 0.5),
    valid_C=jnp.asarray(valid),
  )


ASKED = jnp.asarray(np.random.default_rng(5).normal(size=(3, DIM)), jnp.float32)


def answer(memory, state, asked=ASKED):
  """Of a read: (share of null, [C, V] distribution) or ([C, D] vectors,)."""
  read = memory.read(state, asked)
  if memory.config.read == "residual":
    return (read.output_CxD,)
  rows = jnp.arange(len(asked))[:, None]
  probs = jnp.zeros((len(asked), VOCAB))
  probs = probs.at[rows, read.token_CxJ].add(jnp.exp(read.log_prob_CxJ))
  return jnp.exp(read.log_null_C), probs


def shapes(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_fit_the_default_experiment(name):
  config.from_config_dict(config.template("associative_recall", name))


def test_it_is_a_memory(memory):
  assert isinstance(memory, Memory)
  state = memory.init_state(CONTEXT)
  assert jax.tree.leaves(state)
  assert memory.config.read in memory.config.reads


@pytest.mark.parametrize(
  "name, settings",
  [(name, {"read": read}) for name, read in SYSTEMS]
  + [("episodic", {"read": "residual", "rekey": True})],
)
def test_the_blocks_of_a_model_say_what_one_says(name, settings):
  """A model keeps the parameters of its blocks stacked."""
  one = (
    registry.load(config.MEMORIES, name)
    .Config(**settings)
    .make(DIM, CHUNK, nnx.Rngs(0))
  )
  graphdef, state = nnx.split(one)
  blocks = nnx.merge(graphdef, jax.tree.map(lambda x: jnp.stack([x, x]), state))
  assert shapes(blocks.init_state(CONTEXT)) == shapes(one.init_state(CONTEXT))
  assert blocks.state_bytes(CONTEXT) == one.state_bytes(CONTEXT)
  assert blocks.flops_per_token(CONTEXT) == one.flops_per_token(CONTEXT)


def declared(state):
  """(class, field, number of its axes, AXES of it) of all arrays of a state."""
  axes = type(state).AXES
  names = {field.name for field in dataclasses.fields(state)}
  assert axes.keys() <= names
  for name in names:
    part = getattr(state, name)
    if dataclasses.is_dataclass(part):
      yield from declared(part)
    else:
      for x in jax.tree.leaves(part):
        yield type(state), name, x.ndim, axes[name]


@pytest.mark.parametrize("name, read", SYSTEMS)
def test_its_state_says_how_it_is_split(name, read):
  """All of an array's axes, or none."""
  settings = registry.load(config.MEMORIES, name).Config(read=read)
  state = settings.make(DIM, CHUNK, nnx.Rngs(0)).init_state(CONTEXT)
  for kind, field, ndim, axes in declared(state):
    assert len(axes) in (0, ndim), (kind, field)


def test_nothing_is_recalled_before_a_write(memory):
  state = memory.init_state(CONTEXT)
  if memory.config.read == "residual":
    np.testing.assert_array_equal(answer(memory, state)[0], 0)
  else:
    null, probs = answer(memory, state)
    np.testing.assert_array_equal(null, 1)
    np.testing.assert_array_equal(probs, 0)


def test_what_was_written_is_recalled(memory):
  state = memory.write(memory.init_state(CONTEXT), pairs())
  got = answer(memory, state)
  if memory.config.read == "residual":
    assert (np.abs(got[0]).max(-1) > 1e-4).all()
  else:
    null, probs = got
    assert (null < 1).all()
    np.testing.assert_allclose(null + probs.sum(-1), 1, rtol=1e-5)
    stored = np.isin(np.arange(VOCAB), pairs().next_token_C)
    assert (probs[:, stored] > 0).all() and not probs[:, ~stored].any()


def test_shapes_do_not_change_and_bytes_are_counted(memory):
  state = memory.init_state(CONTEXT)
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  assert memory.state_bytes(CONTEXT) == size > 0
  for dtype in (jnp.float32, jnp.bfloat16):
    written = memory.write(state, pairs(dtype=dtype))
    assert jax.tree.structure(written) == jax.tree.structure(state)
    assert shapes(written) == shapes(state)


def test_pure(memory):
  """Nothing given is changed; the same again gives the same."""
  state = memory.write(memory.init_state(CONTEXT), pairs())
  before = jax.tree.map(np.array, (state, nnx.state(memory)))
  graphdef = nnx.graphdef(memory)
  first = answer(memory, state), memory.write(state, pairs(1))
  second = answer(memory, state), memory.write(state, pairs(1))
  assert_same(first, second)
  assert_same(before, (state, nnx.state(memory)))
  assert nnx.graphdef(memory) == graphdef


def test_invalid_pairs_are_not_recalled(memory):
  state = memory.write(memory.init_state(CONTEXT), pairs())
  nothing = memory.write(state, pairs(1, [False] * CHUNK))
  assert_same(answer(memory, nothing), answer(memory, state))
  # Half a chunk: what the other half holds does not matter.
  valid = [True, False, False, True]
  mixed = pairs(1, valid)
  other = jax.tree.map(
    lambda x, y: jnp.where(
      jnp.expand_dims(mixed.valid_C, range(1, x.ndim)), x, y
    ),
    mixed,
    pairs(2, valid),
  )
  a, b = (memory.write(state, p) for p in (mixed, other))
  assert_same(answer(memory, a), answer(memory, b))
  whole = memory.write(state, pairs(1))
  for x in (state, whole):
    assert not np.allclose(answer(memory, a)[-1], answer(memory, x)[-1])


def test_a_read_of_each_token_is_its_own(memory):
  """One token at a time gives the same as all at once."""
  state = memory.write(memory.init_state(CONTEXT), pairs())
  together = answer(memory, state)
  for i in range(len(ASKED)):
    alone = answer(memory, state, ASKED[i : i + 1])
    for x, y in zip(together, alone, strict=True):
      # A matrix product of one row may be summed in another order than one of
      # several: entries near 0 are sums of float32 terms near 1.
      np.testing.assert_allclose(x[i], y[0], rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_and_reach_every_parameter(memory):
  graphdef, params = nnx.split(memory)

  def loss(params, first, second, asked):
    memory = nnx.merge(graphdef, params)
    state = memory.init_state(CONTEXT)
    total = sum(jnp.sum(x) for x in answer(memory, state, asked))
    for chunk in (first, second):
      state = memory.write(state, chunk)
      out = answer(memory, state, asked)[-1]
      total += jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))
    return total

  grad = jax.jit(jax.grad(loss, argnums=(0, 3)))
  grads = grad(params, pairs(0), pairs(1), ASKED)
  for path, g in nnx.to_flat_state(grads[0]):
    assert np.abs(g[...]).max() > 1e-7, path
  # The worst inputs: zeros, and nothing valid.
  zeros = jax.tree.map(jnp.zeros_like, pairs())
  others = grad(params, zeros, pairs(1, [False] * CHUNK), 0 * ASKED)
  for g in jax.tree.leaves((grads, others)):
    assert np.isfinite(g).all()


@pytest.mark.parametrize(
  "name, changes, error",
  [
    *(
      (name, dict(read="sideways"), "memory.read='sideways' is not known: use")
      for name, _ in SYSTEMS
    ),
    *(
      (name, dict(read=read, address="here"), "memory.address='here'")
      for name, read in SYSTEMS
    ),
    *(
      (name, dict(read=read, place="after_all"), "memory.place='after_")
      for name, read in SYSTEMS
    ),
    ("episodic", dict(address="hidden"), "'hidden' does not go with .*prefix"),
    ("episodic", dict(capacity=-8), "memory.capacity=-8 must be at least 0"),
    ("episodic", dict(capacity=33), "memory.capacity=33 .* of chunk=32"),
    ("episodic", dict(top_k=-1), "memory.top_k=-1 must be at least 0"),
    ("episodic", dict(num_heads=0), "memory.num_heads=0 must be at least 1"),
    ("episodic", dict(head_dim=0), "memory.head_dim=0 must be at least 1"),
    ("episodic", dict(temperature=0.0), "memory.temperature=0.0 must be pos"),
    ("associative", dict(num_heads=0), "memory.num_heads=0 must be at least"),
    ("associative", dict(key_dim=0), "memory.key_dim=0 must be at least 1"),
    ("associative", dict(value_dim=0), "memory.value_dim=0 must be at least"),
    ("associative", dict(decay=1.0), r"memory.decay=1.0 must lie in \(0, 1\)"),
  ],
)  # fmt: skip
def test_settings_that_do_not_fit(name, changes, error):
  tree = config.template("associative_recall", name)
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)


@pytest.mark.parametrize(
  "name", [name for name, read in SYSTEMS if read == "residual"]
)
def test_a_residual_read_needs_a_suffix(name):
  tree = config.template("associative_recall", name)
  tree.memory.read = "residual"
  tree.model.num_suffix = 0
  with pytest.raises(ValueError, match="model.num_suffix=0: use at least 1"):
    config.from_config_dict(tree)
