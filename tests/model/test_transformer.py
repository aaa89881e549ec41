"""Fast weights, the parts of the decoder, what its outputs mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config, registry
from mattt_jax.config import ModelConfig
from mattt_jax.layers import norms
from mattt_jax.memory import none
from mattt_jax.memory.base import PointerRead
from mattt_jax.model import fast_weights
from mattt_jax.model.transformer import Forward, Transformer

VOCAB = 11
SMALL = dict(
  dim=8, num_layers=3, num_suffix=2, num_heads=2, mlp_dim=10, fast_mlp_dim=6,
  window=4,
)  # fmt: skip


def make(memory=None, **changes):
  return Transformer(
    ModelConfig(**SMALL | changes), VOCAB, memory or none.Config(), 4,
    nnx.Rngs(0),
  )  # fmt: skip


def paths(state):
  return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}


FAST_MLP = {f"suffix/fast_mlp/w{i}" for i in (1, 2, 3)}


@pytest.mark.parametrize(
  "patterns, expected",
  [
    (("suffix/fast_mlp/*",), FAST_MLP),
    (("suffix/attention/w[qk]", "final_norm/scale", "head"),
     {"suffix/attention/wq", "suffix/attention/wk", "final_norm/scale",
      "head"}),
    (("nothing",), set()),
  ],
)  # fmt: skip
def test_patterns_choose_the_fast_weights(patterns, expected):
  everything = paths(nnx.state(make(tie_embeddings=False)))
  model = make(tie_embeddings=False, fast=patterns)
  graphdef, fast, slow = fast_weights.split(model)
  assert paths(fast) == expected
  assert paths(slow) == everything - expected
  merged = nnx.merge(graphdef, fast, slow)
  jax.tree.map(np.testing.assert_array_equal, *map(nnx.state, (model, merged)))


@pytest.mark.parametrize(
  "pattern, path",
  [("prefix/mlp/w1", "prefix/mlp/w1"), ("embed*", "embedding"), ("*", ".*")],
)
def test_what_is_read_before_the_inner_loop_cannot_be_fast(pattern, path):
  with pytest.raises(
    ValueError, match=rf"model.fast=.* matches {path}, .*raise model.num_suffix"
  ):
    make(fast=(pattern,))


def test_a_mark_keeps_the_value():
  slow, fast = make(fast=()), make()
  for model in (slow, fast):
    assert isinstance(model.suffix.fast_mlp.w1, nnx.Param)
  assert not isinstance(slow.suffix.fast_mlp.w1, fast_weights.FastWeight)
  assert isinstance(fast.suffix.fast_mlp.w1, fast_weights.FastWeight)
  np.testing.assert_array_equal(
    slow.suffix.fast_mlp.w1[...], fast.suffix.fast_mlp.w1[...]
  )


def test_initial_values():
  model = make(dim=64, mlp_dim=128, init_std=0.05, embedding_std=0.5)
  w1 = model.suffix.mlp.w1[...]
  assert w1.shape == (2, 64, 128)
  np.testing.assert_allclose(w1.std(axis=(1, 2)), 0.05, rtol=0.05)
  np.testing.assert_allclose(model.embedding[...].std(), 0.5, rtol=0.1)
  assert not np.allclose(w1[0], w1[1])  # blocks of a stack differ
  assert (model.suffix.mlp_norm.scale[...] == 1).all()


def test_norms_can_be_switched_off():
  on = paths(nnx.state(make()))
  norms = {p for p in on if "norm" in p and p != "final_norm/scale"}
  off = make(qk_norm=False, pre_norm=False, post_norm=False)
  assert norms and paths(nnx.state(off)) == on - norms


def test_rms_norm():
  x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
  norm = norms.RMSNorm(8, 1e-6)
  norm.scale[...] = jnp.arange(8.0)
  expected = np.arange(8) * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)
  np.testing.assert_allclose(  # unit() is finite at 0, twice
    jax.hessian(lambda x: norms.unit(x).sum())(jnp.zeros(2)), 0, atol=1e-3
  )


@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize("candidates", [2, 7])
def test_pointer_is_mixed_with_the_models_own_distribution(block, candidates):
  """p = null p_model + stored mass: loss, likeliest token, probabilities."""
  memory = registry.load(config.MEMORIES, "episodic").Config()
  model = make(memory, vocab_block=block)
  rng = np.random.default_rng(candidates)
  rows = 40
  mass = rng.dirichlet([2.0] + [0.3] * candidates, size=rows)
  tokens = rng.integers(0, 6, (rows, candidates))  # often one twice
  forward = Forward(
    final_CxD=jnp.asarray(
      30 * rng.normal(size=(rows, SMALL["dim"])), jnp.float32
    ),
    read=PointerRead(
      token_CxJ=jnp.asarray(tokens),
      log_prob_CxJ=jnp.log(mass[:, 1:]),
      log_null_C=jnp.log(mass[:, 0]),
    ),
    cache=None,
    address_CxD=jnp.zeros((rows, 8)),
  )
  logits = np.asarray(forward.final_CxD @ model.embedding[...].T)
  expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected *= mass[:, :1]
  for row in range(rows):
    for token, share in zip(tokens[row], mass[row, 1:], strict=True):
      expected[row, token] += share
  probs = model.next_token_probs(forward)
  np.testing.assert_allclose(probs, expected, rtol=1e-4, atol=1e-7)
  likely = expected.argmax(-1)
  recalled = (likely[:, None] == tokens).any(-1)
  assert 0.1 < recalled.mean() < 0.95  # both kinds of likeliest token
  for targets in (likely, rng.integers(0, VOCAB, rows)):
    loss, correct = model.score(forward, jnp.asarray(targets))
    np.testing.assert_allclose(
      loss, -np.log(expected[np.arange(rows), targets]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(correct, targets == likely)


def test_half_precision_keeps_logits_in_float32():
  model = make(dtype="bfloat16")
  cache = model.init_cache(8)
  assert cache.suffix.k_HxPxK.dtype == jnp.bfloat16
  x, cache = model.read_prefix(jnp.arange(4), cache, 0)
  assert x.dtype == jnp.bfloat16
  forward = model.forward(x, cache, model.init_memory(8), 0)
  assert forward.final_CxD.dtype == jnp.bfloat16
  logits = model.logits(forward)
  assert logits.dtype == jnp.float32
  exact = make()
  cache = exact.init_cache(8)
  x, cache = exact.read_prefix(jnp.arange(4), cache, 0)
  wanted = exact.logits(exact.forward(x, cache, exact.init_memory(8), 0))
  np.testing.assert_allclose(logits, wanted, atol=0.05)
  assert np.abs(wanted).max() > 0.1
  # Not rounded to bfloat16 on the way.
  assert (logits != logits.astype(jnp.bfloat16)).any()
