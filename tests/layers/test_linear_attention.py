"""Linear recurrences, against their equations and each other; the mixer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax.config import InnerConfig, ModelConfig
from mattt_jax.inference.session import Session
from mattt_jax.layers import linear_attention
from mattt_jax.layers.attention import KVCache
from mattt_jax.layers.linear_attention import (
  DeltaCache,
  GatedDeltaNet,
  chunk_parallel,
  token_scan,
)
from mattt_jax.memory import none
from mattt_jax.model.transformer import Transformer
from mattt_jax.planning.cost_model import matmul_flops
from mattt_jax.ttt.inner_loop import make_learner, read_sequence
from mattt_jax.ttt.tokens import make_tokens

TOKENS, KEY, VALUE = 9, 3, 4
FORMS = (token_scan, chunk_parallel)


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def draw(seed=0, dtype=np.float64):
  """S_0, unit keys, values, log decays, strengths, queries."""
  rng = np.random.default_rng(seed)
  k, q = rng.normal(size=(2, TOKENS, KEY))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  out = (
    rng.normal(size=(KEY, VALUE)),
    k,
    rng.normal(size=(TOKENS, VALUE)),
    np.log(rng.uniform(0.3, 1, TOKENS)),
    rng.uniform(0.1, 1, (TOKENS, 1)),
    q,
  )
  return tuple(np.asarray(x, dtype) for x in out)


def assert_close(a, b, **kwargs):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


@pytest.mark.parametrize("form", FORMS)
def test_two_tokens_of_the_gated_delta_rule(form, float64):
  """Worked out by hand."""
  state, read = form(
    jnp.asarray([[1.0, 0.0], [0.0, 2.0]]),
    jnp.asarray([[1.0, 0.0], [0.6, 0.8]]),
    # Strengths 1/2 and 1, of (4, 6) and (1, 0).
    jnp.asarray([[2.0, 3.0], [1.0, 0.0]]),
    jnp.log(jnp.asarray([0.5, 1.0])),
    jnp.asarray([[0.5, 0.0], [0.6, 0.8]]),
    jnp.asarray([[1.0, 1.0], [0.6, 0.8]]),
  )
  # After the first: half of S_0, its first row half way to (4, 6), which is
  # [[2.25, 3], [0, 1]]. After the second, its key reads (1, 0).
  np.testing.assert_allclose(state, [[2.04, 1.44], [-0.28, -1.08]], atol=1e-12)
  np.testing.assert_allclose(read, [[2.25, 4.0], [1.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gated_delta_rule(form, float64):
  """S_t = a_t (I - b_t k_t' k_t) S_{t-1} + b_t k_t' v_t (2412.06464, eq. 10,
  transposed); o_t = q_t S_t."""
  start, k, v, log_decay, strength, q = draw()
  state, expected = start, []
  for t in range(TOKENS):
    erase = np.eye(KEY) - strength[t] * np.outer(k[t], k[t])
    state = np.exp(log_decay[t]) * erase @ state
    state = state + strength[t] * np.outer(k[t], v[t])
    expected.append(q[t] @ state)
  found = form(start, k, strength * v, log_decay, strength * k, q)
  assert_close(found, (state, np.stack(expected)), rtol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_linear_attention(form, float64):
  """Nothing erased, nothing forgotten: sums over what came before."""
  start, k, v, _, _, q = draw()
  state, read = form(start, k, v, np.zeros(TOKENS), None, q)
  np.testing.assert_allclose(state, start + k.T @ v, rtol=1e-10)
  causal = np.tril(q @ k.T)
  np.testing.assert_allclose(read, q @ start + causal @ v, rtol=1e-10)


def cases(dtype):
  """(arguments of both forms): erase keys that are no multiples of the keys,
  tokens that change nothing, hard forgetting."""
  start, k, v, log_decay, strength, q = draw(1, dtype)
  other = np.asarray(np.random.default_rng(2).normal(size=k.shape), dtype)
  some = np.arange(TOKENS) % 3 != 1
  return {
    "delta": (start, k, strength * v, log_decay, strength * k, q),
    "other erase": (start, k, v, 0 * log_decay, 0.5 * other, q),
    "linear": (start, k, v, log_decay, None, q),
    "gaps": (start, some[:, None] * k, v, some * log_decay,
             some[:, None] * strength * k, q),
    "hard": (start, k, v, 1000 * log_decay, k, q),
    "no queries": (start, k, v, log_decay, k, None),
  }  # fmt: skip


@pytest.mark.parametrize("name", cases(float))
def test_chunk_parallel_is_the_token_scan(name):
  found, expected = (form(*cases(np.float32)[name]) for form in FORMS)
  assert_close(found, expected, rtol=1e-5, atol=1e-5)
  with jax.enable_x64(True):
    found, expected = (form(*cases(np.float64)[name]) for form in FORMS)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_tokens_that_change_nothing():
  start, k, v, _, _, _ = draw(dtype=np.float32)
  nothing = np.zeros_like(k)
  for form in FORMS:
    state, _ = form(start, nothing, v, np.zeros(TOKENS, np.float32), nothing)
    np.testing.assert_array_equal(state, start)


@pytest.mark.parametrize("name", ["delta", "hard"])
def test_first_and_second_derivatives(name, float64):
  """Equal in both forms, so finite also where a decay underflows."""
  args = cases(np.float64)[name]

  def derivatives(form):
    def loss(args):
      return sum(jnp.sum(jnp.sin(x)) for x in form(*args))

    grad = jax.grad(loss)
    return jax.jit(lambda x: (grad(x), jax.jvp(grad, (x,), (x,))[1]))(args)

  found, expected = map(derivatives, FORMS)
  assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("erase", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_flops_per_token(form, erase):
  start, k, v, log_decay, *_ = draw()
  flops = matmul_flops(form, start, k, v, log_decay, k if erase else None)
  assert flops / TOKENS == linear_attention.flops_per_token(
    KEY, VALUE, TOKENS, erase=erase, chunkwise=form is chunk_parallel
  )


# The mixer.

DIM, HEADS, LENGTH = 12, 2, 8


@pytest.fixture
def mixer(float64):
  """No parameter is at its initial zero or one."""
  config = ModelConfig(dim=DIM, num_heads=HEADS)
  graphdef, state = nnx.split(GatedDeltaNet(config, nnx.Rngs(0)))
  rng = np.random.default_rng(1)
  state = jax.tree.map(
    lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape)), state
  )
  return nnx.merge(graphdef, state)


def empty(dtype=jnp.float64):
  return linear_attention.init_cache(HEADS, DIM // HEADS, dtype)


def text(seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(LENGTH, DIM)))


@jax.jit
def run(mixer, x_CxD, cache):
  return mixer(x_CxD, cache, 0)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_mixer_by_hand(mixer):
  x = np.asarray(text())
  p = {name: np.asarray(w) for name, w in _named(mixer)}
  k_dim, out = DIM // HEADS, np.zeros((LENGTH, DIM))
  for h in range(HEADS):
    mine = slice(h * k_dim, (h + 1) * k_dim)
    q, k, v, g = (x @ p[w][:, mine] for w in "wq wk wv wg".split())
    q, k, v = (
      [sum(c[3 - i, mine] * y[t - i] for i in range(min(4, t + 1)))
       for t in range(LENGTH)]
      for c, y in zip(p["convolution"], (q, k, v), strict=True)
    )  # fmt: skip
    q, k, v, g = (y * sigmoid(y) for y in map(np.array, (q, k, v, g)))
    q, k = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
    strength = sigmoid(x @ p["strength_weight"][:, h])
    rate = np.log1p(np.exp(x @ p["decay_weight"][:, h] + p["decay_bias"][h]))
    decay = np.exp(-np.exp(p["decay_log_scale"][h]) * rate)
    state = np.zeros((k_dim, k_dim))
    for t in range(LENGTH):
      state = decay[t] * state
      error = v[t] - k[t] @ state
      state = state + strength[t] * np.outer(k[t], error)
      o = q[t] @ state
      o = o / np.sqrt((o**2).mean() + 1e-6) * p["out_norm/scale"]
      out[t, mine] = g[t] * o
  found, _ = run(mixer, text(), empty())
  np.testing.assert_allclose(found, out @ p["wo"], rtol=1e-7, atol=1e-9)


def _named(module):
  flat = nnx.to_flat_state(nnx.state(module))
  return [("/".join(map(str, path)), x[...]) for path, x in flat]


def test_mixer_streams(mixer):
  """Tokens one by one, or in parts, are the whole."""
  whole, state = run(mixer, text(), empty())
  for size in (1, 4):
    cache, parts = empty(), []
    for i in range(0, LENGTH, size):
      part, cache = run(mixer, text()[i : i + size], cache)
      parts.append(part)
    assert_close(jnp.concatenate(parts), whole, rtol=1e-9, atol=1e-12)
    assert_close(cache, state, rtol=1e-9, atol=1e-12)
  alone, no_cache = run(mixer, text(), None)
  assert no_cache is None
  assert_close(alone, whole, rtol=1e-12)


def test_mixer_is_causal(mixer):
  """Each token depends on all before it and on none after it."""
  by = jax.jacobian(lambda x: run(mixer, x, empty())[0])(text())
  size_LxL = np.abs(by).max(axis=(1, 3))
  assert not np.triu(size_LxL, 1).any()
  assert (size_LxL[np.tril_indices(LENGTH)] > 1e-6).all()


def test_mixer_at_the_start():
  """Heads forget within 10 to 1000 tokens; the state stays in float32."""
  mixer = GatedDeltaNet(ModelConfig(dim=DIM, num_heads=3), nnx.Rngs(0))
  decay = 1 - sigmoid(np.asarray(mixer.decay_bias[...]))
  np.testing.assert_allclose(1 / (1 - decay), [10, 100, 1000], rtol=1e-3)
  cache = linear_attention.init_cache(3, DIM // 3, jnp.bfloat16)
  out, cache = run(mixer, jnp.zeros((4, DIM), jnp.bfloat16), cache)
  assert out.dtype == jnp.bfloat16
  assert cache.matrix_HxKxK.dtype == jnp.float32


def test_mixer_of_the_suffix_token_by_token():
  """In the transformer, with an inner loop: a session reads the same."""
  config = ModelConfig(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=6, fast_mlp_dim=0,
    window=3, init_std=0.3, suffix_mixer="gated_delta",
    fast=("suffix/attention/w[qk]",),
  )  # fmt: skip
  model = Transformer(config, 11, none.Config(), 4, nnx.Rngs(0))
  learner = make_learner(model, InnerConfig(learning_rate=0.5), 4)
  assert isinstance(model.suffix.attention, GatedDeltaNet)
  cache = model.init_cache(16)
  assert isinstance(cache.prefix, KVCache)
  assert isinstance(cache.suffix, DeltaCache)

  tokens = np.random.default_rng(0).integers(0, 11, LENGTH + 1)
  state = learner.init_state(LENGTH, streaming=False)
  after, out = jax.jit(read_sequence)(
    learner, state, make_tokens(tokens[:-1], tokens[1:])
  )
  session = Session(learner, LENGTH)
  found = [
    -np.log(session.read([a])[b])
    for a, b in zip(tokens[:-1], tokens[1:], strict=True)
  ]
  np.testing.assert_allclose(found, out.loss_C.reshape(-1), atol=1e-4)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.fast, after.fast)
  assert min(jax.tree.leaves(moved)) > 1e-4


def test_unknown_mixer():
  with pytest.raises(ValueError, match="model.suffix_mixer='lstm' is not kno"):
    ModelConfig(suffix_mixer="lstm")
