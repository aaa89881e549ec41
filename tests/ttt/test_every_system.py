"""What holds for every system of the table, whatever it is made of.

The tests of a system share their two programs, by the compilation cache.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from mattt_jax import config, systems
from mattt_jax.devices import meshes, sharding
from mattt_jax.learners.build import build_learner
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.meta_loss import meta_loss
from mattt_jax.ttt.parts import Parts

LENGTH = 6 * small.CHUNK
# What cuts gradients as published, and how to have them whole: with a cut they
# are no slopes.
CUTS = {
  "ttt_e2e_first_order": {"inner.second_order": True},
  "memorizing_transformer": {"memory.stop_gradient_keys": False},
  "perk": {"learner.unroll": 2},
}
# What was stored is a constant to gradients: no slope by what it is made of.
CONSTANT = {"ttt_nn": ("prefix", "embedding")}


def settings(name, **changes):
  tree = config.template("associative_recall")
  tree.update({"length": LENGTH, "chunk": small.CHUNK, "batch_size": 4})
  tree.model.update(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=10,
    fast_mlp_dim=6, window=4, init_std=0.3, remat_prefix=False,
  )  # fmt: skip
  tree.task.update(num_keys=4, num_values=4, num_fillers=4)
  tree.task.update(num_pairs=1, num_queries=1)
  systems.apply(tree, name)
  # So that each part matters, and what is chosen is not all there is.
  tree.inner.update(learning_rate=0.1, remat_levels=0)
  sizes = dict(num_heads=2, head_dim=4, top_k=3, key_dim=3, value_dim=5,
               null_bias=0.0)  # fmt: skip
  tree.memory.update({k: x for k, x in sizes.items() if k in tree.memory})
  # Of PERK, few steps: after four, a parameter's effect is no line for long.
  sizes = dict(top_k=1, query_tokens=3, neighbours=1, steps=2, unroll=1)
  tree.learner.update({k: x for k, x in sizes.items() if k in tree.learner})
  tree.update_from_flattened_dict(changes)
  return config.from_config_dict(tree)


def make(name, float64=False, **changes):
  """(graphdef, state) of which nothing is at its initial zero or one."""
  learner = build_learner(settings(name, **changes), small.VOCAB)
  if float64:  # for checks only, so not a choice of the settings
    object.__setattr__(learner.model.config, "dtype", "float64")
  graphdef, state = nnx.split(learner)
  leaves, treedef = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  state = treedef.unflatten(
    x + 0.2 * jax.random.normal(k, x.shape, x.dtype)
    for k, x in zip(keys, leaves, strict=True)
  )
  return graphdef, small.as_float64(state) if float64 else state


def texts(number=4):
  found = [small.text(LENGTH, seed) for seed in range(number)]
  tokens, targets = (np.stack(x) for x in zip(*found, strict=True))
  weight = np.ones((number, LENGTH), np.float32)
  weight[0, 3] = 0.0
  return {
    "tokens": tokens,
    "targets": targets,
    "inner_weight": weight,
    "outer_weight": np.tile(np.linspace(0, 1, LENGTH), (number, 1)),
  }


def loss_and_gradient(name, graphdef):
  inner = settings(name).inner.enabled

  def loss(state, batch):
    learner = nnx.merge(graphdef, state)
    loss, output = meta_loss(learner, batch, Parts(inner=inner))
    return loss, output.loss_BxL

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture
def in_float64(monkeypatch):
  """Checks to many digits; memories and caches keep float32 otherwise."""
  init_state = Learner.init_state
  monkeypatch.setattr(
    Learner,
    "init_state",
    lambda *args, **kwargs: small.as_float64(init_state(*args, **kwargs)),
  )
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_meta_gradient_by_finite_differences(name, in_float64):
  changes = dict(CUTS.get(name, {}))
  if name == "perk":  # the weighting sees hidden states as constants
    changes["learner.weigh_tokens"] = False
  graphdef, state = make(name, float64=True, **changes)
  run, batch = loss_and_gradient(name, graphdef), texts()
  (_, loss_BxL), grads = run(state, batch)
  assert loss_BxL.dtype == jnp.float64
  grads, state = jax.device_get((grads, state))
  rng = np.random.default_rng(0)

  def constant(path):
    return any(
      part in sharding.path_name(path) for part in CONSTANT.get(name, ())
    )

  for _ in range(3):
    way = jax.tree_util.tree_map_with_path(
      lambda path, x: rng.normal(size=x.shape) * (not constant(path)), state
    )

    def at(step, way=way):
      moved = jax.tree.map(lambda x, d: x + step * d, state, way)
      return run(moved, batch)[0][0]

    h = 3e-6
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    along = jax.tree.map(np.vdot, grads, way)
    np.testing.assert_allclose(slope, sum(jax.tree.leaves(along)), rtol=1e-6)


@pytest.mark.parametrize("name", CUTS)
def test_gradients_are_cut_as_published(name, in_float64):
  """The loss stays, the gradient does not."""
  found = []
  for changes in ({}, CUTS[name]):
    graphdef, state = make(name, float64=True, **changes)
    found.append(loss_and_gradient(name, graphdef)(state, texts()))
  ((cut_loss, _), cut), ((loss, _), whole) = found
  np.testing.assert_allclose(cut_loss, loss, rtol=1e-12)
  change = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), cut, whole)
  assert max(jax.tree.leaves(change)) > 1e-3


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_sharded_as_single(name, in_float64):
  graphdef, state = make(name, float64=True, **CUTS.get(name, {}))
  run, mesh = loss_and_gradient(name, graphdef), meshes.make_mesh(4)
  single = run(state, texts())
  sharded = run(
    jax.device_put(state, sharding.replicated(mesh)),
    sharding.put_batch(texts(), mesh),
  )
  assert len(sharded[0][1].sharding.device_set) == 4
  for a, b in zip(*map(jax.tree.leaves, (sharded, single)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def losses(name, graphdef):
  enabled = settings(name).inner.enabled

  @jax.jit
  def read(state, batch, rate_scale):
    learner = nnx.merge(graphdef, state)
    on, off = (
      meta_loss(learner, batch, Parts(inner), rate_scale=rate_scale)[1]
      for inner in (enabled, False)
    )
    return on.loss_BxL, off.loss_BxL

  return read


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_no_loss_depends_on_later_tokens(name):
  graphdef, state = make(name)
  read, given = losses(name, graphdef), texts(1)
  before = [x[0] for x in read(state, given, 1.0)]
  # PERK learns from its whole context, in no order, before the questions.
  first = LENGTH - small.CHUNK if name == "perk" else 5
  for s in (first, LENGTH - small.CHUNK + 1, LENGTH - 1):
    tokens, targets = given["tokens"].copy(), given["targets"].copy()
    tokens[0, s] = (tokens[0, s] + 1) % small.VOCAB
    targets[0, s] = (targets[0, s] + 1) % small.VOCAB
    after = read(state, given | {"tokens": tokens, "targets": targets}, 1.0)
    for a, b in zip(after, before, strict=True):
      np.testing.assert_array_equal(a[0, :s], b[:s])
      assert a[0, s] != b[s]


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_an_inner_rate_of_zero_is_no_inner_loop(name):
  graphdef, state = make(name)
  read = losses(name, graphdef)
  on, off = read(state, texts(1), 0.0)
  np.testing.assert_allclose(on, off, rtol=1e-5)
  on, _ = read(state, texts(1), 1.0)
  assert (np.abs(on - off).max() > 1e-3) == settings(name).inner.enabled


@pytest.mark.parametrize(
  "memory", [name for name, read in small.SYSTEMS if read == "residual"]
)
def test_a_gate_of_zero_leaves_the_model_untouched(memory):
  """At step 0, however much is stored."""
  made = small.experiment(
    memory, "residual", length=LENGTH, memory__gate="zero"
  )
  graphdef, state = nnx.split(build_learner(made, small.VOCAB))
  given = texts(1)

  @jax.jit
  def losses(state):
    learner = nnx.merge(graphdef, state)
    return [
      meta_loss(learner, given, Parts(memory=on))[1].loss_BxL
      for on in (True, False)
    ]

  np.testing.assert_array_equal(*losses(state))
