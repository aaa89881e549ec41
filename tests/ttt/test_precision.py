"""bfloat16 products, with fast weights and states in float32, do not drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mattt_jax.learners.build import build_learner
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.tokens import make_tokens

CHUNKS, CHUNK, VOCAB = 64, 16, 64
SIZES = dict(dim=32, num_layers=2, num_suffix=1, num_heads=4, mlp_dim=64,
             fast_mlp_dim=64, window=CHUNK, init_std=0.05)  # fmt: skip


def text():
  """An eighth of the vocabulary, one after the other in seven of ten places."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 8, CHUNKS * CHUNK + 1)
  for i in np.flatnonzero(rng.random(len(tokens) - 1) < 0.7):
    tokens[i + 1] = (tokens[i] + 1) % 8
  return jnp.asarray(8 * tokens, jnp.int32)


def read(memory, dtype):
  """Losses of each chunk, the change of the fast weights, the last state."""
  changes = {f"model__{key}": value for key, value in SIZES.items()}
  experiment = tiny.experiment(
    memory,
    chunk=CHUNK,
    length=CHUNKS * CHUNK,
    model__dtype=dtype,
    inner__learning_rate=0.1,
    **changes,
  )
  learner = build_learner(experiment, VOCAB)
  tokens, ones = text(), jnp.ones(CHUNKS * CHUNK)

  @jax.jit
  def run():
    first = learner.init_state(len(ones))
    last, out = read_sequence(
      learner, first, make_tokens(tokens[:-1], tokens[1:], ones, ones)
    )
    return out.loss_C, jax.tree.map(jnp.subtract, last.fast, first.fast), last

  loss_NxC, change, state = run()
  change = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(change)])
  return np.asarray(loss_NxC), change, state


# By how many nats losses differ, on average over a quarter of the chunks, and
# the change of the fast weights, as a share of it. Of a memory that takes the
# best of its items, rounding changes which ones these are.
@pytest.mark.parametrize(
  "memory, nats, share",
  [
    ("none", 0.005, 0.025),
    ("associative", 0.005, 0.025),
    ("episodic", 0.1, 0.2),
  ],
)
def test_64_chunks(memory, nats, share):
  exact, change, _ = read(memory, "float32")
  loss, change_16, state = read(memory, "bfloat16")
  assert exact[-16:].mean() < exact[0].mean() - 0.4  # they did learn
  off_4 = np.abs(loss - exact).mean(axis=1).reshape(4, -1).mean(axis=1)
  assert 0 < off_4.max() < nats
  if memory != "episodic":
    assert off_4[-1] < 1.5 * off_4[0]
  assert abs((loss - exact).mean()) < nats / 4
  error = jnp.linalg.norm(change_16 - change) / jnp.linalg.norm(change)
  assert error < share
  for part in (state.fast, state.inner_opt, state.memory):
    for x in jax.tree.leaves(part):
      assert x.dtype in (jnp.float32, jnp.int32, bool), x.dtype
