"""The recurrence on a quadratic, where every step is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratic
from flax import nnx
from quadratic import CHUNK, VOCAB

from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.meta_loss import meta_loss
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens, weighted_mean

CHUNKS = 4
LENGTH = CHUNKS * CHUNK
OPTIMIZERS = ("sgd", "momentum", "adamw")
CLOSE = dict(rtol=1e-11, atol=1e-12)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def text(seed=0, length=LENGTH):
  rng = np.random.default_rng(seed)
  weight = np.where(rng.random(length) < 0.7, rng.random(length), 0.0)
  return rng.integers(0, VOCAB, length), weight


def read(learner, tokens, weight, **kwargs):
  """(final state, outputs), differentiable; the targets do not matter."""
  state = learner.init_state(len(tokens))
  tokens = make_tokens(tokens, tokens, weight)
  return read_sequence(learner, state, tokens, **kwargs)


def start(learner):
  return {name: np.asarray(getattr(learner.model, name)[...]) for name in "ab"}


def fast_of(state):
  return {name: np.asarray(state.fast[name][...]) for name in "ab"}


def unrolled(learner, tokens, weight, optimizer, retention=(1.0, 1.0)):
  """The same by a Python loop; `optimizer` gives the whole optax update."""
  fast_0 = fast = start(learner)
  opt_state = optimizer.init(fast)
  losses, inner_losses, norms = [], [], []
  for i in range(0, len(tokens), CHUNK):
    part = slice(i, i + CHUNK)
    loss = quadratic.token_losses(learner.model, fast, tokens[part])
    losses.append(loss)
    inner_losses.append(np.average(loss, weights=weight[part]))
    grads = quadratic.gradients(learner.model, fast, tokens[part], weight[part])
    norms.append(np.sqrt(sum((g**2).sum() for g in grads.values())))
    updates, opt_state = optimizer.update(grads, opt_state, fast)
    kept = {
      k: fast_0[k] + r * (fast[k] - fast_0[k])
      for k, r in zip("ab", retention, strict=True)
    }
    fast = jax.device_get(optax.apply_updates(kept, updates))
  return fast, np.stack(losses), np.stack(inner_losses), np.stack(norms)


# Settings of the inner optimiser and the optax chain that they mean.
BY_HAND = {
  "sgd": ({}, optax.sgd(0.3)),
  "momentum": (
    dict(optimizer="momentum", momentum=0.8),
    optax.sgd(0.3, momentum=0.8),
  ),
  "adamw": (
    dict(optimizer="adamw", b1=0.7, b2=0.9, eps=1e-3, weight_decay=0.2),
    optax.adamw(
      0.3, b1=0.7, b2=0.9, eps=1e-3, eps_root=1e-12, weight_decay=0.2
    ),
  ),
  "clip": (
    dict(clip_norm=3.8),
    optax.chain(optax.clip_by_global_norm(3.8), optax.sgd(0.3)),
  ),
  "clip_all": (
    dict(clip_norm=0.05, optimizer="momentum"),
    optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(0.3, momentum=0.9)),
  ),
  "decay": (
    dict(weight_decay=0.2),
    optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.3)),
  ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_equals_an_unrolled_loop_of_optax(name):
  settings, optimizer = BY_HAND[name]
  learner = quadratic.learner(**settings)
  tokens, weight = text()
  fast, losses, inner_losses, norms = unrolled(
    learner, tokens, weight, optimizer
  )
  state, out = read(learner, tokens, weight)
  for k, x in fast_of(state).items():
    np.testing.assert_allclose(x, fast[k], **CLOSE)
  np.testing.assert_allclose(out.loss_C, losses, **CLOSE)
  np.testing.assert_allclose(out.inner_loss, inner_losses, **CLOSE)
  np.testing.assert_allclose(out.inner_grad_norm, norms, **CLOSE)
  assert int(state.position) == LENGTH
  if name == "clip":  # active in some chunks, and not in others
    assert norms.min() < 3.8 < norms.max()


@pytest.mark.parametrize("retention", [1.0, 0.8])
def test_closed_form(retention):
  """D_n = -(I - M)^-1 (I - M^n) eta A (W_0 - c), with M = r I - eta A."""
  learner = quadratic.learner(retention=retention)
  tokens = np.full(LENGTH, 2)
  state, _ = read(learner, tokens, np.ones(LENGTH))
  place = np.asarray(learner.model.places[...])[2]
  curvature = {"a": np.asarray(learner.model.curvature[...]), "b": np.eye(3)}
  goal = {"a": place, "b": 2 * place}
  for k, w_0 in start(learner).items():
    step = 0.3 * curvature[k]
    m = retention * np.eye(3) - step
    power = np.linalg.matrix_power(m, CHUNKS)
    moved = -np.linalg.solve(
      np.eye(3) - m, (np.eye(3) - power) @ step @ (w_0 - goal[k])
    )
    np.testing.assert_allclose(fast_of(state)[k], w_0 + moved, rtol=1e-9)
    if retention == 1.0:
      np.testing.assert_allclose(
        w_0 + moved, goal[k] + power @ (w_0 - goal[k]), rtol=1e-9
      )


def test_learned_rates_and_retentions_are_of_each_tensor():
  learner = quadratic.learner(
    learn_rate=True, learn_retention=True, retention=0.9
  )
  rates, retentions = np.array([0.1, 0.5]), np.array([0.95, 0.6])
  inner = learner.inner
  np.testing.assert_allclose(inner.rates(), [0.3, 0.3], rtol=1e-6)
  np.testing.assert_allclose(inner.retentions(), [0.9, 0.9], rtol=1e-6)
  inner.log_rate_T[...] = jnp.log(rates)
  inner.retention_logit_T[...] = jnp.log(retentions / (1 - retentions))
  by_hand = optax.partition(
    {"a": optax.sgd(0.1), "b": optax.sgd(0.5)}, {"a": "a", "b": "b"}
  )
  tokens, weight = text()
  fast, *_ = unrolled(learner, tokens, weight, by_hand, retentions)
  state, _ = read(learner, tokens, weight)
  for k, x in fast_of(state).items():
    np.testing.assert_allclose(x, fast[k], **CLOSE)

  # Both learn, each entry: the meta loss depends on all of them.
  grads = meta_gradient(learner, tokens, weight)
  assert (np.abs(grads["inner/log_rate_T"]) > 1e-6).all()
  assert (np.abs(grads["inner/retention_logit_T"]) > 1e-6).all()


@pytest.mark.parametrize("max_drift", [0.4, 1.0, 1e3])
def test_max_drift_caps_the_norm_of_what_was_learned(max_drift):
  """One norm over all tensors, after each step; less is left alone."""
  tokens, weight = text()
  learner = quadratic.learner(max_drift=max_drift)
  fast_0 = fast = start(learner)
  drifts = []
  for i in range(0, LENGTH, CHUNK):
    part = slice(i, i + CHUNK)
    grads = quadratic.gradients(learner.model, fast, tokens[part], weight[part])
    moved = {k: fast[k] - 0.3 * grads[k] - fast_0[k] for k in fast}
    drifts.append(np.sqrt(sum((x**2).sum() for x in moved.values())))
    scale = min(1.0, max_drift / drifts[-1])
    fast = {k: fast_0[k] + scale * moved[k] for k in fast}
  state, _ = read(learner, tokens, weight)
  for k, x in fast_of(state).items():
    np.testing.assert_allclose(x, fast[k], **CLOSE)
  got = {k: x - fast_0[k] for k, x in fast_of(state).items()}
  norm = np.sqrt(sum((x**2).sum() for x in got.values()))
  assert norm <= max_drift * (1 + 1e-12)
  capped = np.array(drifts) > max_drift
  assert capped.any() == (max_drift < 1e3)
  if max_drift == 1.0:  # in some chunks, and not in others
    assert not capped.all()


@pytest.mark.parametrize("settings", [{}, dict(learning_rate=0.0)])
def test_max_drift_at_no_drift_has_finite_gradients(settings):
  learner = quadratic.learner(max_drift=0.5, **settings)
  tokens, weight = text()
  weight[: 2 * CHUNK] = 0  # two chunks without a step
  for name, g in meta_gradient(learner, tokens, weight).items():
    assert np.isfinite(g).all(), name


def test_rate_scale_multiplies_the_rate():
  tokens, weight = text()
  scaled, _ = read(quadratic.learner(), tokens, weight, rate_scale=0.25)
  smaller, _ = read(quadratic.learner(learning_rate=0.075), tokens, weight)
  for k, x in fast_of(scaled).items():
    np.testing.assert_allclose(x, fast_of(smaller)[k], **CLOSE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rate_zero_is_inner_off_is_the_static_model(optimizer):
  tokens, weight = text()
  zero = quadratic.learner(optimizer=optimizer, learning_rate=0.0)
  state, out = read(zero, tokens, weight)
  off, out_off = read(
    quadratic.learner(optimizer=optimizer),
    tokens,
    weight,
    parts=Parts(inner=False),
  )
  static = quadratic.token_losses(zero.model, start(zero), tokens)
  for s, o in ((state, out), (off, out_off)):
    np.testing.assert_allclose(o.loss_C.reshape(-1), static, **CLOSE)
    for k, x in fast_of(s).items():
      np.testing.assert_array_equal(x, start(zero)[k])
  assert not np.any(out_off.inner_grad_norm) and np.all(out.inner_grad_norm)


def batch_of(tokens, weight):
  tokens = jnp.asarray(tokens)[None]
  return {
    "tokens": tokens,
    "targets": tokens,
    "inner_weight": jnp.asarray(weight)[None],
    "outer_weight": jnp.ones(tokens.shape),
  }


def meta_gradient(learner, tokens, weight):
  """d (mean loss while reading) / d parameter, by path."""
  graphdef, state = nnx.split(learner)
  grads = jax.grad(
    lambda s: meta_loss(nnx.merge(graphdef, s), batch_of(tokens, weight))[0]
  )(state)
  return {
    "/".join(map(str, path)): np.asarray(g[...])
    for path, g in nnx.to_flat_state(grads)
  }


def matrix_meta_gradient(learner, tokens, weight, order, unroll=0):
  """d / d a_0 by the chain rule: each step's Jacobian is I - eta A, and I where
  the unrolling is cut."""
  eta, fast = 0.3, start(learner)["a"]
  curvature = np.asarray(learner.model.curvature[...])
  jacobian = np.eye(3) - (eta * curvature if order == 2 else 0.0)
  chain, total = np.eye(3), np.zeros(3)
  for i in range(0, len(tokens), CHUNK):
    if unroll and i // CHUNK % unroll == 0:
      chain = np.eye(3)
    state = {"a": fast, "b": np.zeros(3)}
    part = slice(i, i + CHUNK)
    outer = quadratic.gradients(
      learner.model, state, tokens[part], np.ones(CHUNK)
    )["a"]
    total += chain @ outer * CHUNK / len(tokens)
    inner = quadratic.gradients(
      learner.model, state, tokens[part], weight[part]
    )["a"]
    fast = fast - eta * inner
    chain = chain @ jacobian
  return total


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("remat_levels", [0, 1, 2])
def test_meta_gradient_by_the_chain_rule(order, remat_levels):
  tokens, weight = text()
  learner = quadratic.learner(
    second_order=order == 2, remat_levels=remat_levels
  )
  np.testing.assert_allclose(
    meta_gradient(learner, tokens, weight)["model/a"],
    matrix_meta_gradient(learner, tokens, weight, order),
    **CLOSE,
  )


@pytest.mark.parametrize("unroll", [1, 2, 3, CHUNKS])
@pytest.mark.parametrize("remat_levels", [0, 2])
def test_truncated_meta_gradient_by_the_chain_rule(unroll, remat_levels):
  tokens, weight = text()
  learner = quadratic.learner(unroll=unroll, remat_levels=remat_levels)
  found = meta_gradient(learner, tokens, weight)["model/a"]
  np.testing.assert_allclose(
    found, matrix_meta_gradient(learner, tokens, weight, 2, unroll), **CLOSE
  )
  whole = matrix_meta_gradient(learner, tokens, weight, 2)
  assert np.allclose(found, whole, rtol=1e-10) == (unroll == CHUNKS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_truncation_changes_no_forward_number(optimizer):
  tokens, weight = text()
  (state, out), (cut_state, cut_out) = (
    read(quadratic.learner(optimizer=optimizer, unroll=n), tokens, weight)
    for n in (0, 1)
  )
  for a, b in zip(
    jax.tree.leaves((state, out)),
    jax.tree.leaves((cut_state, cut_out)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("remat_levels", [1, 2])
def test_offloaded_states_give_the_same_meta_gradient(remat_levels):
  """What lies in the host's memory, the program says itself."""
  tokens, weight = text()

  def gradient(offload):
    graphdef, state = nnx.split(
      quadratic.learner(offload=offload, remat_levels=remat_levels)
    )

    def loss(state):
      return meta_loss(nnx.merge(graphdef, state), batch_of(tokens, weight))[0]

    grad = jax.grad(loss)
    return jax.device_get(jax.jit(grad)(state)), str(
      jax.make_jaxpr(grad)(state)
    )

  (kept, program), (offloaded, its_program) = map(gradient, (False, True))
  for a, b in zip(
    jax.tree.leaves(kept), jax.tree.leaves(offloaded), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert "f64<host>" in its_program
  assert "<host>" not in program


@pytest.mark.parametrize(
  "same, chunks, settings",
  [
    (False, CHUNKS, {}),
    (True, 1, {}),  # nothing is read after the only update
    (True, CHUNKS, dict(curved=False, slope=1.0)),
  ],
)
def test_first_order_leaves_out_the_curvature(same, chunks, settings):
  tokens, weight = text(length=chunks * CHUNK)
  second, first = (
    meta_gradient(
      quadratic.learner(second_order=on, **settings), tokens, weight
    )["model/a"]
    for on in (True, False)
  )
  assert np.allclose(first, second, rtol=1e-10) == same
  assert np.abs(second).max() > 0.1


@pytest.mark.parametrize("settings", [
  *(dict(optimizer=name, clip_norm=1.0) for name in OPTIMIZERS),
  dict(optimizer="momentum", retention=0.5, weight_decay=0.3),
])  # fmt: skip
def test_a_chunk_without_a_valid_target_changes_nothing(settings):
  learner = quadratic.learner(**settings)
  tokens, weight = text()
  weight[CHUNK : 2 * CHUNK] = 0
  state, out = read(learner, tokens, weight)
  others = np.r_[:CHUNK, 2 * CHUNK : LENGTH]
  without, out_without = read(learner, tokens[others], weight[others])
  for a, b in zip(
    jax.tree.leaves((state.fast, state.inner_opt)),
    jax.tree.leaves((without.fast, without.inner_opt)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, **CLOSE)
  np.testing.assert_allclose(
    np.delete(out.loss_C, 1, 0), out_without.loss_C, **CLOSE
  )
  assert out.inner_loss[1] == out.inner_grad_norm[1] == 0


@pytest.mark.parametrize("masked", [slice(CHUNK), slice(LENGTH)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_chunks_have_finite_gradients(optimizer, masked):
  learner = quadratic.learner(
    optimizer=optimizer, clip_norm=1.0, learn_rate=True
  )
  tokens, weight = text()
  weight[masked] = 0
  grads = meta_gradient(learner, tokens, weight)
  for name, g in grads.items():
    assert np.isfinite(g).all(), name
  if masked == slice(LENGTH):  # what is not learned from is static
    assert not grads["inner/log_rate_T"].any()
    for k, g in quadratic.gradients(
      learner.model, start(learner), tokens, np.ones(LENGTH)
    ).items():
      np.testing.assert_allclose(grads[f"model/{k}"], g, **CLOSE)


def test_tokens_of_weight_zero_may_have_any_loss():
  loss, weight = jnp.array([np.inf, np.nan, 1.0, 4.0]), jnp.array([0, 0, 2, 1])
  value, grad = jax.value_and_grad(weighted_mean)(loss, weight)
  np.testing.assert_allclose(value, 2.0)
  np.testing.assert_allclose(grad, [0, 0, 2 / 3, 1 / 3])
  assert weighted_mean(loss, 0 * weight) == 0


def test_reduction_over_tokens_or_chunks():
  learner = quadratic.learner()
  tokens, weight = text()
  batch = batch_of(tokens, weight) | {"outer_weight": jnp.asarray(weight)[None]}
  _, out = read(learner, tokens, weight)
  loss, weight = out.loss_C, weight.reshape(CHUNKS, CHUNK)
  expected = {
    "tokens": (loss * weight).sum() / weight.sum(),
    "chunks": ((loss * weight).sum(1) / weight.sum(1)).mean(),
  }
  for reduction, value in expected.items():
    got, _ = meta_loss(learner, batch, reduction=reduction)
    np.testing.assert_allclose(got, value, **CLOSE)
  with pytest.raises(ValueError, match="outer.reduction='mean' is not known"):
    meta_loss(learner, batch, reduction="mean")


def test_length_must_be_whole_chunks():
  tokens, weight = text()
  with pytest.raises(ValueError, match="chunk=4 must divide length=15"):
    read(quadratic.learner(), tokens[:-1], weight[:-1])


def test_the_learner_is_not_changed_by_reading():
  learner = quadratic.learner()
  before = jax.tree.map(np.array, nnx.state(learner))
  read(learner, *text())
  jax.tree.map(np.testing.assert_array_equal, before, nnx.state(learner))
