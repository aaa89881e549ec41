"""One pass over a text gives the same as several calls; padding is inert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from mattt_jax.model import sites
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens

LENGTH = 6 * small.CHUNK
CASES = [(*system, {}) for system in small.SYSTEMS] + [
  ("episodic", "residual", dict(model__attention="full")),
  # Less than a chunk in the window; a ring that goes round.
  ("episodic", "pointer", dict(model__window=3, memory__capacity=8)),
  ("none", None, dict(coordination__replay=1, coordination__replay_capacity=3)),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def learner(request):
  memory, read, changes = request.param
  with jax.enable_x64(True):  # so that only rounding may differ
    yield small.learner(
      memory, read, length=LENGTH, model__num_layers=3, model__num_suffix=2,
      inner__optimizer="momentum", inner__retention=0.9,
      **{"inner__learning_rate": 0.1} | changes, float64=True,
    )  # fmt: skip


def empty(learner, streaming=True):
  return small.as_float64(learner.init_state(LENGTH, streaming))


@pytest.fixture(scope="module")
def read(learner):
  def part(state, tokens, targets, weight):
    given = make_tokens(tokens, targets, weight)
    return read_sequence(learner, state, given)

  return jax.jit(part)


def assert_close(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9), a, b
  )


def test_one_pass_is_chained_calls(learner, read):
  tokens, targets = small.text(LENGTH)
  weight = jnp.ones(LENGTH).at[5].set(0)
  whole_state, whole = read(empty(learner, False), tokens, targets, weight)
  state, parts = empty(learner), []
  for part in np.split(np.arange(LENGTH), 2):
    state, out = read(state, tokens[part], targets[part], weight[part])
    parts.append(out)
  chained = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  assert_close(
    (whole.loss_C, whole.inner_loss, whole.diagnostics),
    (chained.loss_C, chained.inner_loss, chained.diagnostics),
  )
  np.testing.assert_array_equal(whole.correct_C, chained.correct_C)
  for field in ("fast", "inner_opt", "memory", "position", "replay"):
    assert_close(getattr(whole_state, field), getattr(state, field))
  assert_close(whole_state.cache.suffix, state.cache.suffix)
  moved = jax.tree.map(
    lambda x, y: np.abs(x - y).max(), state.fast, empty(learner).fast
  )
  assert min(jax.tree.leaves(moved)) > 1e-3


def test_padding_is_neither_learned_nor_remembered(learner, read):
  """A text of 2.5 chunks; what comes after it is padding."""
  tokens, targets = small.text(LENGTH)
  valid = jnp.arange(LENGTH) < LENGTH // 2 - small.CHUNK // 2
  weight = valid.astype(jnp.float64)

  # Half a chunk of padding, and then whole chunks of it.
  half, _ = read(
    empty(learner), *(x[: LENGTH // 2] for x in (tokens, targets, weight))
  )
  state, _ = read(half, *(x[LENGTH // 2 :] for x in (tokens, targets, weight)))
  for field in ("fast", "inner_opt", "replay"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(half, field), getattr(state, field)
    )
  asked = jax.random.normal(jax.random.key(0), (5, learner.model.config.dim))
  expected = recall(learner.model, half.memory, asked)
  assert_close(expected, recall(learner.model, state.memory, asked))

  # Other padding.
  others = (jnp.where(valid, x, y) for x, y in zip(
    (tokens, targets), small.text(LENGTH, seed=9), strict=True
  ))  # fmt: skip
  other, _ = read(
    empty(learner), *(x[: LENGTH // 2] for x in (*others, weight))
  )
  assert_close(half.fast, other.fast)
  assert_close(expected, recall(learner.model, other.memory, asked))


def recall(model, memory, asked):
  """What the memory answers, as a distribution or as vectors."""
  if model.site == sites.OFF:
    return ()
  if isinstance(model.site, sites.HeadSite):
    read = model.pointer.read(memory, asked)
    probs = jnp.zeros((len(asked), small.VOCAB))
    rows = jnp.arange(len(asked))[:, None]
    # Slots that are not valid have no mass, whatever token they hold.
    return probs.at[rows, read.token_CxJ].add(jnp.exp(read.log_prob_CxJ))
  return jax.vmap(lambda block, state: block.memory.read(state, asked))(
    model.suffix, memory
  )


@pytest.mark.parametrize("attention", ["full", "window"])
def test_of_a_plain_transformer_a_chunk_is_only_what_is_read_at_once(attention):
  """Losses and gradients are the same, whatever its size."""
  tokens, targets = small.text(LENGTH)

  def read(chunk):
    learner = small.learner(
      length=LENGTH, chunk=chunk, inner__enabled=False,
      model__num_layers=3, model__num_suffix=2, model__attention=attention,
      task__out_of_reach=False, float64=True,
    )  # fmt: skip
    graphdef, params = nnx.split(learner)

    def loss(params):
      learner = nnx.merge(graphdef, params)
      _, out = small.read(
        learner, tokens, targets, jnp.ones(LENGTH), parts=Parts(inner=False)
      )
      loss_L = out.loss_C.reshape(-1)
      return jnp.mean(loss_L), loss_L

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, loss_L), grads = step(params)
    return loss_L, grads

  with jax.enable_x64(True):
    assert_close(read(small.CHUNK), read(LENGTH))
