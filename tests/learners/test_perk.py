"""PERK against an explicit loop, and what its meta-gradient passes through."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mattt_jax import config
from mattt_jax.learners.build import build_learner
from mattt_jax.model import fast_weights
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens

VOCAB, CHUNK, CHUNKS = 20, 4, 4
LENGTH = CHUNK * CHUNKS
RATE = 0.05


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def experiment(**changes):
  tree = config.template("associative_recall", "none", "perk")
  tree.update({"length": LENGTH, "chunk": CHUNK, "batch_size": 1})
  tree.model.update(
    dim=8, num_layers=1, num_suffix=1, num_heads=2, mlp_dim=10,
    fast_mlp_dim=0, attention="full", init_std=0.3, remat_prefix=False,
    qk_norm=False, post_norm=False,
  )  # fmt: skip
  tree.task.update(num_keys=4, num_values=4, num_fillers=4)
  tree.task.update(num_pairs=1, num_queries=1)
  tree.learner.update(rank=2, alpha=3.0, steps=2, unroll=2)
  tree.learner.layers = ("*/attention/wq", "suffix/mlp/w*", "embedding")
  tree.inner.update(
    optimizer="adamw", learning_rate=RATE, learn_rate=True, clip_norm=0.0,
    eps=1e-3, weight_decay=0.1, remat_levels=0,
  )  # fmt: skip
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def make(noise=0.1, **changes):
  """A learner in float64; with `noise` no parameter is where it starts."""
  learner = build_learner(experiment(**changes), VOCAB)
  object.__setattr__(learner.model.config, "dtype", "float64")  # no setting
  graphdef, state = nnx.split(learner)
  leaves, treedef = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    x.astype(jnp.float64) + noise * jax.random.normal(key, x.shape)
    for x, key in zip(leaves, keys, strict=True)
  ]
  return nnx.merge(graphdef, treedef.unflatten(leaves))


def text(seed=0):
  """(tokens, targets, weight), each [L]."""
  rng = np.random.default_rng(seed)
  seq = rng.integers(0, VOCAB, LENGTH + 1).astype(np.int32)
  weight = np.where(rng.random(LENGTH) < 0.8, rng.random(LENGTH), 0.0)
  return seq[:-1], seq[1:], weight


@functools.partial(jax.jit, static_argnames=("graphdef", "parts"))
def _read(graphdef, state, tokens, parts):
  return nnx.merge(graphdef, state).read_whole(tokens, parts)


def read(learner, tokens, targets, weight, inner=True):
  given = make_tokens(tokens, targets, weight)
  return _read(*nnx.split(learner), given, Parts(inner=inner))


def parameters(state):
  """{path: array}, the adapters' too."""
  flat = nnx.to_flat_state(state)
  return {"/".join(map(str, path)): value[...] for path, value in flat}


def by_hand(
  learner, params, tokens, targets, weight, *, questions=1, detached=0
):
  """Losses [n, C], from explicit parameters; the unrolled steps one by one.

  `detached`: the updates of so many first steps are constants.
  """
  settings = learner.config
  graphdef, state = nnx.split(learner.model)

  def losses(phi, tokens, targets):
    """[C], hidden [C, D]: of tokens alone in the model with phi."""
    changed = {name: params["model/" + name] for name in names_of_model}
    for index, name in enumerate(learner.paths):
      a, b = phi[f"adapters/{index}/a"], phi[f"adapters/{index}/b"]
      product = jnp.einsum("...ir,...rj->...ij", a, b)
      product = product * settings.alpha / settings.rank
      changed[name] = changed[name] + product
    new = nnx.from_flat_state(
      (path, variable.replace(changed["/".join(map(str, path))]))
      for path, variable in nnx.to_flat_state(state)
    )
    model = nnx.merge(graphdef, new)
    # A cache of another size: what it holds before position 0 is empty.
    x, _ = model.read_prefix(tokens, model.init_cache(1, False), 0)
    forward = model.forward(x, model.init_cache(7, False), None, 0)
    log_prob = jax.nn.log_softmax(model.logits(forward))
    return -log_prob[np.arange(len(tokens)), targets], forward.final_CxD

  names_of_model = [
    name.removeprefix("model/") for name in params if name.startswith("model/")
  ]
  phi = {name: x for name, x in params.items() if name.startswith("adapters")}
  at = LENGTH - questions * CHUNK
  context = [x[:at].reshape(-1, CHUNK) for x in (tokens, targets, weight)]

  def read_context(phi):
    return jax.vmap(lambda *x: losses(phi, *x))(*context[:2])

  def loss(phi):
    loss_gxC, hidden = read_context(phi)
    score = jax.lax.stop_gradient(hidden) @ params["token_weight/kernel"]
    score = score[..., 0] + params["token_weight/bias"]
    w = context[2] * jnp.log1p(jnp.exp(score))
    return jnp.sum(w * loss_gxC) / jnp.sum(w)

  first, _ = read_context(phi)
  # The learner's order of tensors: sorted by path, as of any pytree.
  rates = jnp.exp(params["inner/log_rate_T"]).reshape(settings.steps, -1)
  descent = optax.adamw(
    1.0, b1=0.9, b2=0.95, eps=1e-3, eps_root=1e-12, weight_decay=0.1
  )
  opt_state = descent.init(phi)
  for k in range(settings.steps):
    updates, opt_state = descent.update(jax.grad(loss)(phi), opt_state, phi)
    if k < detached:
      updates, opt_state = jax.lax.stop_gradient((updates, opt_state))
    phi = {
      name: phi[name] + rates[k, t] * updates[name]
      if k >= detached
      else phi[name] + jax.lax.stop_gradient(rates[k, t] * updates[name])
      for t, name in enumerate(sorted(phi))
    }
  last, _ = losses(phi, tokens[at:], targets[at:])
  return jnp.concatenate([first.reshape(-1), last]).reshape(-1, CHUNK)


@pytest.mark.parametrize("unroll, questions, suffix", [(2, 1, 0), (1, 2, 1)])
def test_an_unrolled_loop_by_hand(unroll, questions, suffix):
  """Losses, and gradients by everything that is meta-learned; truncation is a
  stop_gradient on what the first K - T steps add."""
  learner = make(
    learner__unroll=unroll, learner__question_chunks=questions,
    inner__remat_levels=int(unroll == 1), model__num_suffix=suffix,
    learner__layers=("*/attention/wq", "*/mlp/w1", "embedding"),
  )  # fmt: skip
  arrays = text()
  outer = np.random.default_rng(4).random((CHUNKS, CHUNK))
  graphdef, state = nnx.split(learner)

  def by_learner(state):
    made = nnx.merge(graphdef, state)
    out = made.read_whole(make_tokens(*arrays))
    return jnp.sum(outer * out.loss_C), out

  def unrolled(params):
    loss = by_hand(
      learner, params, *arrays, questions=questions, detached=2 - unroll
    )
    return jnp.sum(outer * loss), loss

  found, out = jax.jit(jax.grad(by_learner, has_aux=True))(state)
  wanted, expected = jax.jit(jax.grad(unrolled, has_aux=True))(
    parameters(state)
  )
  np.testing.assert_allclose(out.loss_C, expected, rtol=1e-9)
  assert out.diagnostics["last_loss"] < out.diagnostics["first_loss"]
  found = parameters(found)
  assert set(found) == set(wanted)
  for name, gradient in wanted.items():
    np.testing.assert_allclose(
      found[name], gradient, rtol=1e-6, atol=1e-9, err_msg=name
    )
    assert np.any(gradient), name
  rate_KxT = found["inner/log_rate_T"].reshape(2, -1)
  np.testing.assert_array_equal(
    np.any(rate_KxT != 0, axis=1), np.arange(2) >= 2 - unroll
  )


def test_meta_gradient_by_finite_differences():
  """(Without weighting, whose look at the hidden state has no gradient.)"""
  learner = make(
    learner__weigh_tokens=False,
    learner__layers=("suffix/mlp/w1",),
  )
  graphdef, state = nnx.split(learner)
  arrays = text(5)
  leaves, treedef = jax.tree.flatten(state)
  rng = np.random.default_rng(6)
  direction = treedef.unflatten(rng.normal(size=x.shape) for x in leaves)

  @jax.jit
  def loss(size):
    moved = jax.tree.map(lambda x, d: x + size * d, state, direction)
    made = nnx.merge(graphdef, moved)
    return jnp.sum(
      made.read_whole(make_tokens(*arrays)).loss_C[-1]
    )  # the questions': the others know no inner step

  step = 1e-6
  slope = (loss(step) - loss(-step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-5)


def test_the_order_of_segments_does_not_matter():
  learner = make()
  tokens, targets, weight = (x.reshape(CHUNKS, CHUNK) for x in text())
  order = np.array([2, 0, 1, 3])
  loss = read(learner, *(x.reshape(-1) for x in (tokens, targets, weight)))
  other = read(
    learner, *(x[order].reshape(-1) for x in (tokens, targets, weight))
  )
  np.testing.assert_allclose(other.loss_C, loss.loss_C[order], rtol=1e-9)


def test_the_question_sees_the_context_through_the_adapter_alone():
  learner = make()
  tokens, targets, weight = text()
  other = tokens.copy()
  other[5] = (other[5] + 1) % VOCAB
  on = [
    np.asarray(read(learner, t, targets, weight).loss_C)
    for t in (tokens, other)
  ]
  assert np.abs(on[0][-1] - on[1][-1]).max() > 1e-6
  off = [
    read(learner, t, targets, weight, inner=False).loss_C
    for t in (tokens, other)
  ]
  np.testing.assert_array_equal(off[0][-1], off[1][-1])
  # Of other segments, no token of the context knows; targets do not matter.
  np.testing.assert_array_equal(on[0][[0, 2]], on[1][[0, 2]])
  np.testing.assert_array_equal(on[0][1], off[0][1])
  # A token of weight 0 teaches nothing.
  unread = targets.copy()
  unread[np.flatnonzero(weight == 0)[0]] += 1
  assert np.flatnonzero(weight == 0)[0] < LENGTH - CHUNK
  same = read(learner, tokens, unread % VOCAB, weight).loss_C
  np.testing.assert_array_equal(same[-1], on[0][-1])


def test_the_adapter_starts_as_the_base_model():
  learner = make(noise=0.0, model__num_layers=2)
  base = build_learner(
    dataclasses.replace(
      experiment(model__fast=(), model__num_layers=2),
      learner=config.registry.load(config.LEARNERS, "recurrence").Config(),
      inner=config.InnerConfig(enabled=False),
    ),
    VOCAB,
  )
  arrays = text()
  found = read(learner, *arrays, inner=False)
  for at in range(0, LENGTH, CHUNK):
    part = slice(at, at + CHUNK)
    alone = read(base, *(x[part] for x in arrays), inner=False)
    np.testing.assert_allclose(
      found.loss_C[at // CHUNK], alone.loss_C[0], rtol=1e-5
    )
  _, fast, _ = fast_weights.split(learner)
  shapes = sorted(x.shape for x in jax.tree.leaves(fast))
  assert shapes == sorted(
    [(1, 8, 2), (1, 2, 8)] * 2  # wq of the prefix and of the suffix
    + [(1, 8, 2), (1, 2, 10)] * 2  # w1, w3
    + [(1, 10, 2), (1, 2, 8), (VOCAB, 2), (2, 8)]
  )


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(learner__rank=0), "learner.rank=0"),
    (dict(learner__alpha=0.0), "learner.alpha=0.0"),
    (dict(learner__unroll=3), "learner.unroll=3 must be <= learner.steps=2"),
    (dict(learner__question_chunks=4), "question_chunks=4 leaves no context"),
    (
      dict(eval__lengths=(16, 12), learner__question_chunks=3),
      "the 3 chunks of eval.lengths=12: use fewer, or a length of at least 16",
    ),
    (dict(model__attention="window", model__window=3), "model.window=3 must"),
    (dict(inner__enabled=False), "inner.enabled=False"),
    (
      dict(
        model__attention="window",
        model__window=LENGTH,
        model__prefix_attention="splash",
        task__out_of_reach=False,
      ),
      "inner loop of learner perk goes through the prefix",
    ),
    (dict(inner__retention=0.9), "inner.retention=0.9 does nothing"),
    (dict(coordination__replay=1), "coordination.replay=1 does nothing"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    experiment(**changes)


def test_its_prefix_can_be_differentiated_twice():
  assert make().model.config.prefix_attention == "banded"


@pytest.mark.parametrize(
  "layers", [("suffix/fast_mlp/*",), ("*norm*",), ("suffix/*",), ()]
)
def test_layers_that_are_no_matrices(layers):
  with pytest.raises(ValueError, match=r"learner.layers=\("):
    make(learner__layers=layers)


def test_no_memory_no_stream_no_context():
  tree = config.template("associative_recall", "episodic", "perk")
  with pytest.raises(ValueError, match="use memory=none"):
    config.from_config_dict(tree)
  learner = make()
  with pytest.raises(ValueError, match="whole sequences only"):
    learner.init_state(LENGTH)
  for length, message in ((7, "must divide length=7"), (4, "no context of")):
    arrays = (x[:length] for x in text())
    with pytest.raises(ValueError, match=message):
      learner.read_whole(make_tokens(*arrays))


def test_state_bytes():
  learner = build_learner(experiment(model__num_layers=2), VOCAB)
  found = learner.state_bytes(LENGTH)
  numbers = 4 * 32 + 2 * 36 + VOCAB * 2 + 16 - 2 * 32 + 36
  assert found["fast_weights"] == 4 * numbers
  assert found["inner_optimizer"] == 2 * 4 * numbers + 4
  assert found["replay"] == 4 * LENGTH and found["memory"] == 0
  assert found["cache"] == 2 * 2 * 4 * CHUNK * 8
