"""Token by token = one pass, for every memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax.config import CoordinationConfig, InnerConfig, ModelConfig
from mattt_jax.inference.generate import generate
from mattt_jax.inference.session import Session
from mattt_jax.memory import associative, episodic, none
from mattt_jax.model.transformer import Transformer
from mattt_jax.ttt.inner_loop import make_learner as ttt_learner
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import make_tokens

VOCAB, CHUNK, LENGTH = 11, 4, 12

MEMORIES = {
  "none": none.Config(),
  "pointer": episodic.Config(num_heads=2, head_dim=4, top_k=5),
  "residual": episodic.Config(
    read="residual", num_heads=2, head_dim=4, capacity=8
  ),
  "associative": associative.Config(num_heads=2, key_dim=4, value_dim=4),
}


def make_learner(memory, attention="window", **coordination) -> Learner:
  config = ModelConfig(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=12,
    fast_mlp_dim=12, window=3, init_std=0.3, attention=attention,
  )  # fmt: skip
  model = Transformer(config, VOCAB, memory, CHUNK, nnx.Rngs(0))
  return ttt_learner(
    model,
    InnerConfig(learning_rate=0.5),
    CHUNK,
    CoordinationConfig(**coordination),
  )


def token_losses(learner, tokens) -> np.ndarray:
  """Loss of each of LENGTH targets, in one pass."""
  state = learner.init_state(LENGTH, streaming=False)
  given = make_tokens(tokens[:-1], tokens[1:])
  _, out = jax.jit(lambda: read_sequence(learner, state, given))()
  return np.asarray(out.loss_C).reshape(-1)


def assert_equals_one_pass(learner, seed) -> Session:
  """Reads random tokens one by one; returns the session that did."""
  tokens = np.random.default_rng(seed).integers(0, VOCAB, LENGTH + 1)
  expected = token_losses(learner, jnp.asarray(tokens))
  session = Session(learner, LENGTH)
  found = [
    -np.log(session.read([a])[b])
    for a, b in zip(tokens[:-1], tokens[1:], strict=True)
  ]
  np.testing.assert_allclose(found, expected, atol=2e-5)
  return session


@pytest.mark.parametrize("memory", MEMORIES)
def test_token_by_token_equals_one_pass(memory):
  learner = make_learner(MEMORIES[memory])
  session = assert_equals_one_pass(learner, seed=0)
  # The fast weights did move, or the test would show nothing.
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()),
    session.state.fast,
    learner.init_state(LENGTH).fast,
  )
  assert min(jax.tree.leaves(moved)) > 1e-3


def test_full_attention_token_by_token():
  learner = make_learner(none.Config(), attention="full")
  assert_equals_one_pass(learner, seed=1)


def test_replay_token_by_token():
  assert_equals_one_pass(make_learner(none.Config(), replay=1), seed=1)


@pytest.mark.parametrize(
  "coordination, how",
  [
    ({}, dict(parts=Parts(inner=False, memory=False))),
    ({"replay": 1}, dict(rate_scale=0.3)),
  ],
)
def test_reading_on_from_a_state(coordination, how):
  learner = make_learner(MEMORIES["pointer"], **coordination)
  length, middle = 16, 8  # a replay needs two chunks to choose from
  tokens = np.random.default_rng(3).integers(0, VOCAB, length + 1)
  inputs, targets = jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:])

  @jax.jit
  def read():
    start = learner.init_state(length)
    a, b = (
      make_tokens(inputs[part], targets[part])
      for part in (slice(middle), slice(middle, None))
    )
    state, _ = read_sequence(learner, start, a)
    _, out = read_sequence(learner, state, b, **how)
    return state, out.loss_C.reshape(-1)

  state, expected = read()
  session = Session(learner, length, state=state, **how)
  found = [
    -np.log(session.read([a])[b])
    for a, b in zip(tokens[middle:-1], tokens[middle + 1 :], strict=True)
  ]
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert session.position == length
  if not how.get("parts", ALL).memory:
    jax.tree.map(
      np.testing.assert_array_equal, session.state.memory, state.memory
    )


def test_prefill_equals_reading_and_generation_goes_on():
  learner = make_learner(MEMORIES["pointer"])
  tokens = np.random.default_rng(2).integers(0, VOCAB, 10)
  slow, fast = Session(learner, 20), Session(learner, 20)
  np.testing.assert_allclose(slow.read(tokens), fast.prefill(tokens), atol=1e-5)
  assert slow.position == fast.position == 10
  key = jax.random.key(0)
  greedy = [generate(s, 5, key, temperature=0) for s in (slow, fast)]
  assert greedy[0] == greedy[1]
  assert slow.position == 15
  assert generate(slow, 2, key) == generate(fast, 2, key)


def test_bad_input_is_refused_and_nothing_read():
  session = Session(make_learner(none.Config()), 8)
  with pytest.raises(ValueError, match="read a prompt first"):
    generate(session, 1, jax.random.key(0))
  with pytest.raises(ValueError, match="empty"):
    session.read([])
  with pytest.raises(ValueError, match=r"outside of the vocabulary 0 \.\. 10"):
    session.read([1, VOCAB])
  with pytest.raises(ValueError, match="context_length=8 is too short for 9"):
    session.read([0] * 9)
  assert session.position == 0
