"""How weights and memory share the work: each setting on its own."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quadratic
import small
from flax import nnx

from mattt_jax.config import CoordinationConfig, InnerConfig
from mattt_jax.memory import episodic
from mattt_jax.memory.base import PointerRead
from mattt_jax.model import sites
from mattt_jax.ttt.coordination import Coordination, parts_on, rate_scale
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.meta_loss import meta_loss
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.read_batch import read_batch
from mattt_jax.ttt.tokens import make_tokens, tokens_of

C = small.CHUNK
CLOSE = dict(rtol=1e-5, atol=1e-6)


# When each part learns.


def parts(steps, enabled=True, **changes):
  """(inner, memory) of the first steps, as two lists."""
  experiment = types.SimpleNamespace(
    inner=InnerConfig(enabled=enabled),
    coordination=CoordinationConfig(**changes),
  )
  on = [parts_on(experiment, step) for step in range(steps)]
  return [inner for inner, _ in on], [memory for _, memory in on]


SHARES = [0.0, 0.25, 0.5, 0.7, 0.99]


def assert_share_is_off(on, share):
  for steps in (100, 500, 1000):  # evenly spread, not only in the end
    off = steps - sum(on[:steps])
    assert abs(off - share * steps) <= 1, steps


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("start", [0, 7])
def test_inner_off_share_is_exact_after_the_start(share, start):
  inner, memory = parts(start + 1000, inner_start=start, inner_off_share=share)
  assert not any(inner[:start]) and all(memory)
  assert_share_is_off(inner[start:], share)
  if share == 0.5:
    assert inner[start : start + 4] == [True, False, True, False]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("start", [0, 7])
def test_memory_off_share_without_an_inner_loop(share, start):
  inner, memory = parts(
    start + 1000, False, memory_start=start, memory_off_share=share
  )
  assert not any(inner) and not any(memory[:start])
  assert_share_is_off(memory[start:], share)


@pytest.mark.parametrize("inner_share", SHARES[:4])
@pytest.mark.parametrize("memory_share", [0.25, 0.5, 0.7])
@pytest.mark.parametrize(
  "inner_start, memory_start", [(0, 0), (30, 7), (7, 30)]
)
def test_memory_is_off_in_a_share_of_the_steps_with_the_inner_loop(
  inner_share, memory_share, inner_start, memory_start
):
  inner, memory = parts(
    5000, inner_start=inner_start, inner_off_share=inner_share,
    memory_start=memory_start, memory_off_share=memory_share,
  )  # fmt: skip
  assert not any(memory[:memory_start])
  later = [*zip(inner, memory, strict=True)][max(inner_start, memory_start) :]
  assert all(m for i, m in later if not i)  # never are both off
  assert_share_is_off([m for i, m in later if i], memory_share)
  assert_share_is_off([i for i, _ in later], inner_share)


def test_rate_warms_up_linearly_over_outer_steps():
  config = InnerConfig(learning_rate=0.5, warmup_init=0.1, warmup_steps=10)
  rates = [0.5 * float(rate_scale(config, step)) for step in range(12)]
  expected = [0.1 + 0.4 * min(1, (step + 1) / 10) for step in range(12)]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert np.isclose(rates[3], 0.26)  # what the published code uses there


@pytest.mark.parametrize(
  "settings", [dict(warmup_steps=0), dict(warmup_steps=5, learning_rate=0.0)]
)
def test_no_warm_up(settings):
  assert rate_scale(InnerConfig(**settings), 0) == 1.0


# Without the memory.

POINTER, RESIDUAL = ("episodic", "pointer"), ("associative", "residual")


def memoryless(learner, **changes):
  """The model without a memory that has the learner's other parameters."""
  graphdef, bare = nnx.split(small.learner(**changes))
  mine = dict(nnx.to_flat_state(nnx.state(learner)))
  shared = [(path, mine[path]) for path, _ in nnx.to_flat_state(bare)]
  return nnx.merge(graphdef, nnx.from_flat_state(shared))


def read(learner, chunks, **kwargs):
  tokens, targets = small.text(chunks * C)
  weight = jnp.ones(chunks * C).at[1].set(0.0)
  read = jax.jit(lambda: small.read(learner, tokens, targets, weight, **kwargs))
  return jax.device_get(read())


def assert_close(a, b, **close):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **CLOSE | close), a, b
  )


@pytest.mark.parametrize("memory, how", [POINTER, RESIDUAL])
def test_memory_off_is_the_model_without_memory(memory, how):
  learner = small.learner(memory, how)
  state, out = read(learner, 4, parts=Parts(memory=False))
  bare_state, bare = read(memoryless(learner), 4)
  assert_close((out, state.fast, state.inner_opt, state.cache),
               (bare, bare_state.fast, bare_state.inner_opt,
                bare_state.cache))  # fmt: skip
  # Nothing was written, and with the memory it is another model.
  empty = jax.device_get(learner.init_state(4 * C, False).memory)
  jax.tree.map(np.testing.assert_array_equal, state.memory, empty)
  assert np.abs(read(learner, 4)[1].loss_C - out.loss_C)[1:].max() > 1e-3


@pytest.mark.parametrize("memory, how", [POINTER, RESIDUAL])
def test_an_inner_loss_without_memory_has_the_gradient_of_no_memory(
  memory, how
):
  """In the first chunk that reads something: later ones also see what the
  memory put into the caches."""
  learner = small.learner(
    memory, how, coordination__inner_loss="without_memory"
  )
  state, out = read(learner, 2)
  bare_state, bare = read(memoryless(learner), 2)
  assert_close((state.fast, state.inner_opt, out.inner_loss),
               (bare_state.fast, bare_state.inner_opt,
                bare.inner_loss))  # fmt: skip
  # What is scored does use the memory, and so would the default gradient.
  after_read, whole = read(small.learner(memory, how), 2)
  assert_close(out.loss_C, whole.loss_C)
  assert np.abs(out.loss_C - bare.loss_C)[1].max() > 1e-3
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), state.fast, after_read.fast
  )
  assert min(jax.tree.leaves(moved)) > 1e-5


# What the weights learn from: on the quadratic, where steps are known.


def unrolled(learner, tokens, weight, power=0.0, bias=0.0, slope=0.0):
  """Plain SGD by hand: weights w loss^power, rate exp(bias + slope use)."""
  model = learner.model
  fast = {name: np.asarray(getattr(model, name)[...]) for name in "ab"}
  losses = []
  for i in range(0, len(tokens), quadratic.CHUNK):
    part = slice(i, i + quadratic.CHUNK)
    loss = quadratic.token_losses(model, fast, tokens[part])
    w = np.array([
      0.0 if a == 0 else a * x**power
      for a, x in zip(weight[part], loss, strict=True)
    ])  # fmt: skip
    losses.append((w * loss).sum() / w.sum())
    first = np.asarray(model.places[...])[tokens[part], 0]
    rate = 0.3 * np.exp(bias + slope * np.mean(1 / (1 + np.exp(-first))))
    grads = quadratic.gradients(model, fast, tokens[part], w)
    fast = {k: fast[k] - rate * grads[k] for k in fast}
  return fast, losses


def quadratic_text(chunks=3):
  rng = np.random.default_rng(3)
  length = chunks * quadratic.CHUNK
  weight = np.where(rng.random(length) < 0.8, rng.random(length), 0.0)
  return rng.integers(0, quadratic.VOCAB, length), weight


def quadratic_read(learner, tokens, weight):
  state = learner.init_state(len(tokens))
  return read_sequence(learner, state, make_tokens(tokens, tokens, weight))


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_surprise_weights_the_inner_loss(power):
  with jax.enable_x64(True):
    learner = quadratic.learner(
      coordination=CoordinationConfig(surprise_power=power)
    )
    tokens, weight = quadratic_text()
    assert (weight == 0).any()
    state, out = quadratic_read(learner, tokens, weight)
    fast, losses = unrolled(learner, tokens, weight, power)
    plain, _ = unrolled(learner, tokens, weight)
    for k, x in fast.items():
      np.testing.assert_allclose(state.fast[k][...], x, rtol=1e-9)
      assert np.abs(x - plain[k]).max() > 1e-2
    np.testing.assert_allclose(out.inner_loss, losses, rtol=1e-9)


def test_surprise_of_padding_may_be_anything():
  coordination = Coordination(CoordinationConfig(surprise_power=2.0))
  loss = jnp.array([jnp.inf, jnp.nan, 3.0, 0.0])
  weight = jnp.array([0.0, 0.0, 0.5, 1.0])
  got = coordination.token_weight(weight, loss)
  np.testing.assert_allclose(got, [0.0, 0.0, 4.5, 1e-12], rtol=1e-6)
  grad = jax.grad(lambda x: coordination.token_weight(weight, x).sum())(loss)
  assert not grad.any()


def test_rate_from_memory():
  """1 at first; then by hand, and its meta-gradient by finite differences."""
  with jax.enable_x64(True):
    tokens, weight = quadratic_text()
    learner = quadratic.learner(
      coordination=CoordinationConfig(rate_from_memory=True)
    )
    start, _ = quadratic_read(learner, tokens, weight)
    for k, x in unrolled(learner, tokens, weight)[0].items():
      np.testing.assert_allclose(start.fast[k][...], x, rtol=1e-9)

    part = learner.coordination
    part.rate_bias[...], part.rate_weight[...] = jnp.array(-0.4), jnp.array(0.9)
    state, _ = quadratic_read(learner, tokens, weight)
    fast, _ = unrolled(learner, tokens, weight, bias=-0.4, slope=0.9)
    for k, x in fast.items():
      np.testing.assert_allclose(state.fast[k][...], x, rtol=1e-9)

    for second_order in (True, False):  # the rate learns in either case
      learner = quadratic.learner(
        coordination=CoordinationConfig(rate_from_memory=True),
        second_order=second_order,
      )
      graphdef, params = nnx.split(learner)

      def loss(bias, slope, graphdef=graphdef, params=params):
        params = jax.tree.map(lambda x: x, params)
        params["coordination"]["rate_bias"][...] = bias
        params["coordination"]["rate_weight"][...] = slope
        learner = nnx.merge(graphdef, params)
        return jnp.mean(quadratic_read(learner, tokens, weight)[1].loss_C[:2])

      # Two chunks: one update, of which the gradient is the same in both.
      grads = jax.grad(loss, argnums=(0, 1))(0.1, -0.2)
      h = 1e-5
      slopes = (
        (loss(0.1 + h, -0.2) - loss(0.1 - h, -0.2)) / (2 * h),
        (loss(0.1, -0.2 + h) - loss(0.1, -0.2 - h)) / (2 * h),
      )
      np.testing.assert_allclose(grads, slopes, rtol=1e-6)
      assert np.abs(grads).min() > 1e-2


def test_learned_rates_are_said():
  """exp(bias + slope use) times the mean of the tensors' rates, as scaled."""
  with jax.enable_x64(True):
    tokens, weight = quadratic_text()
    learner = quadratic.learner(
      coordination=CoordinationConfig(rate_from_memory=True), learn_rate=True
    )
    part = learner.coordination
    part.rate_bias[...], part.rate_weight[...] = jnp.array(-0.4), jnp.array(0.9)
    learner.inner.log_rate_T[...] = jnp.log(jnp.array([0.2, 0.5]))

    def said(**how):
      state = learner.init_state(len(tokens))
      given = make_tokens(tokens, tokens, weight)
      out = read_sequence(learner, state, given, **how)[1]
      return out.diagnostics["inner_rate"]

    first = np.asarray(learner.model.places[...])[tokens, 0]
    use = (1 / (1 + np.exp(-first))).reshape(-1, quadratic.CHUNK).mean(1)
    expected = 0.35 * 0.7 * np.exp(-0.4 + 0.9 * use)
    np.testing.assert_allclose(said(rate_scale=0.7), expected, rtol=1e-9)
    assert not said(parts=Parts(inner=False)).any()
    fixed = quadratic_read(quadratic.learner(), tokens, weight)[1]
    assert "inner_rate" not in fixed.diagnostics


# The memory's own loss.


def test_read_loss_of_a_pointer_by_hand():
  mass = np.array([
    [0.1, 0.2, 0.3],  # 0.6 recalled, of which 0.4 on the target
    [0.1, 0.2, 0.3],  # the target was not recalled
    [0.5, 0.2, 0.0],  # the target is what an empty slot happens to hold
    [0.0, 0.0, 0.0],  # an empty memory
  ])  # fmt: skip
  token = np.array([[7, 3, 7], [7, 3, 7], [7, 3, 0], [0, 0, 0]])
  target = jnp.array([7, 5, 0, 0])
  log = np.where(mass > 0, np.log(np.maximum(mass, 1e-30)), -1e30)
  read = PointerRead(
    token_CxJ=jnp.asarray(token),
    log_prob_CxJ=jnp.asarray(log, jnp.float32),
    log_null_C=jnp.log(jnp.asarray(1 - mass.sum(-1), jnp.float32)),
  )

  site = sites.HeadSite(episodic.Config())

  def loss(log_prob_CxJ):
    found = read.replace(log_prob_CxJ=log_prob_CxJ)
    loss_C, has_C = site.read_loss(None, found, target)
    return jnp.sum(loss_C), (loss_C, has_C)

  grad, (loss_C, has_C) = jax.grad(loss, has_aux=True)(read.log_prob_CxJ)
  np.testing.assert_array_equal(has_C, [True, False, False, False])
  np.testing.assert_allclose(loss_C, [-np.log(0.4 / 0.6), 0, 0, 0], rtol=1e-6)
  # d/d log p_j of log(sum p) - log(sum of the target's).
  expected = mass[0] / 0.6 - np.array([0.1, 0.0, 0.3]) / 0.4
  np.testing.assert_allclose(grad[0], expected, rtol=1e-5)
  assert not grad[1:].any()


def test_read_loss_of_a_residual_read_by_hand():
  """The head's cross-entropy on what all blocks added, and nothing else."""
  model = small.learner("associative", "residual").model
  rng = np.random.default_rng(0)
  added_SxCxD = rng.normal(size=(2, 3, model.config.dim)).astype(np.float32)
  added_SxCxD[:, 1] = 0
  target = np.array([4, 5, 6])
  forward = types.SimpleNamespace(
    read=types.SimpleNamespace(
      answer=types.SimpleNamespace(output_CxD=jnp.asarray(added_SxCxD))
    )
  )
  loss_C, has_C = model.read_loss(forward, jnp.asarray(target))
  x = added_SxCxD.sum(0)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.norm_eps)
  logits = x * model.final_norm.scale[...] @ np.asarray(model.embedding[...]).T
  expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), target]
  np.testing.assert_array_equal(has_C, [True, False, True])
  np.testing.assert_allclose(loss_C[has_C], expected[has_C], rtol=1e-5)
  assert loss_C[1] == 0


@pytest.mark.parametrize("memory, how", [POINTER, RESIDUAL])
def test_the_meta_loss_has_a_share_of_the_read_loss(memory, how):
  length = 4 * C
  tokens, targets = (jnp.stack(x) for x in zip(
    small.text(length), small.text(length, seed=1), strict=True
  ))  # fmt: skip
  batch = {
    "tokens": tokens,
    "targets": targets,
    "inner_weight": jnp.ones((2, length)),
    "outer_weight": jnp.asarray(
      np.random.default_rng(0).choice([0.0, 0.5, 2.0], (2, length))
    ),
  }
  with_share = small.learner(
    memory, how, length=length, coordination__read_loss=0.7
  )
  graphdef, params = nnx.split(with_share)

  @jax.jit
  @jax.value_and_grad
  def loss_of(params):
    return meta_loss(nnx.merge(graphdef, params), batch)[0]

  without = small.learner(memory, how, length=length)
  plain, _ = jax.jit(lambda: meta_loss(without, batch))()
  out = jax.jit(lambda: read_batch(with_share, tokens_of(batch)))()
  has = np.asarray(out.has_read_loss_BxL)
  assert has.any() and not has[:, :C].any()  # chunk 1 has nothing to recall
  weight = np.asarray(batch["outer_weight"])[has]
  own = (np.asarray(out.read_loss_BxL)[has] * weight).sum() / weight.sum()
  assert own > 0.1
  loss, grads = loss_of(params)
  np.testing.assert_allclose(loss, plain + 0.7 * own, rtol=1e-5)
  for path, g in nnx.to_flat_state(grads):
    assert np.isfinite(g[...]).all(), path
