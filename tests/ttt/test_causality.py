"""No loss depends on a later token; how far back losses reach.

The tokens of a text are all different, and its targets are tokens of their
own, so that a row of the embedding belongs to one position: as the input there,
or as what the memory is told to have followed there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

CHUNK = small.CHUNK
LENGTH = 4 * CHUNK
INPUTS = jnp.arange(LENGTH)
TARGETS = LENGTH + jnp.arange(LENGTH)
CHUNK_OF = np.arange(LENGTH) // CHUNK
T, S = np.meshgrid(np.arange(LENGTH), np.arange(LENGTH), indexing="ij")

CASES = [
  (memory, read, attention, {})
  for memory, read in small.SYSTEMS
  for attention in ("window", "full")
] + [
  ("episodic", "residual", "window", dict(memory__address="hidden")),
]


def make(memory="none", read=None, attention="window", **changes):
  return small.learner(
    memory, read, length=LENGTH, model__attention=attention,
    model__tie_embeddings=False,
    **{"inner__learning_rate": 0.1} | changes,
  )  # fmt: skip


def losses_of(learner, inner=True):
  """(parameters -> loss_L, the parameters)."""
  graphdef, state = nnx.split(learner)

  def losses(state, tokens=INPUTS, targets=TARGETS):
    model = nnx.merge(graphdef, state)
    weight = jnp.ones(LENGTH)
    _, out = small.read(model, tokens, targets, weight, inner=inner)
    return out.loss_C.reshape(-1)

  return losses, state


def dependence(learner, inner=True):
  """|d loss_t / d input_s| and |d loss_t / d target embedding_s|, [L, L]."""
  losses, state = losses_of(learner, inner)
  embedding = state["model"]["embedding"][...]

  @jax.jit
  def jacobian(embedding):
    def with_embedding(embedding):
      changed = jax.tree.map(lambda x: x, state)
      changed["model"]["embedding"][...] = embedding
      return losses(changed)

    return jax.jacrev(with_embedding)(embedding)

  size = np.abs(np.asarray(jacobian(embedding))).max(-1)
  return size[:, :LENGTH], size[:, LENGTH : 2 * LENGTH]


@pytest.mark.parametrize("memory, read, attention, changes", CASES)
def test_no_loss_depends_on_what_comes_later(memory, read, attention, changes):
  learner = make(memory, read, attention, **changes)
  inputs, targets = dependence(learner)
  assert not inputs[S > T].any()
  # In its own chunk a loss sees the inputs that the window shows it ...
  near = (S <= T) & (T - S < learner.model.config.window)
  assert (inputs[near & (CHUNK_OF[S] == CHUNK_OF[T])] > 0).all()
  # ... of earlier chunks everything, through fast weights (and memory).
  assert (inputs[CHUNK_OF[S] < CHUNK_OF[T]] > 0).all()
  # The memory is told of targets when their chunk is over, and not before.
  assert not targets[CHUNK_OF[S] >= CHUNK_OF[T]].any()
  written = targets[CHUNK_OF[S] < CHUNK_OF[T]]
  if read == "residual":
    assert (written > 0).mean() > 0.5  # the top k only
  else:  # ids, not vectors
    assert not written.any()


@pytest.mark.parametrize("memory, read", small.SYSTEMS)
def test_changed_tokens_leave_earlier_losses_alone(memory, read):
  """Bit for bit; ids act through the pointer, which no gradient sees."""
  losses, state = losses_of(make(memory, read))
  losses = jax.jit(losses)
  before = losses(state, INPUTS, TARGETS)
  for s in (5, CHUNK * 2, LENGTH - 1):
    tokens, targets = INPUTS.at[s].set(33), TARGETS.at[s].set(34)
    # An input acts on its own loss at once, a target on its own loss only,
    # until the chunk is over.
    changed = losses(state, tokens, TARGETS)
    np.testing.assert_array_equal(changed[:s], before[:s])
    assert changed[s] != before[s]
    changed = losses(state, INPUTS, targets)
    same = (np.arange(LENGTH) != s) & (CHUNK_OF <= s // CHUNK)
    np.testing.assert_array_equal(changed[same], before[same])
    assert changed[s] != before[s]
    later = CHUNK_OF > s // CHUNK
    assert (changed[later] != before[later]).all()


@pytest.mark.parametrize("memory, read", small.SYSTEMS)
def test_first_chunk_is_read_before_anything_is_learned(memory, read):
  learner = make(memory, read, inner__learn_rate=True)
  losses, state = losses_of(learner)

  @jax.jit
  def slopes(rate):
    def with_rate(rate):
      changed = jax.tree.map(lambda x: x, state)
      changed["inner"]["log_rate_T"][...] = rate
      return losses(changed)

    return jax.jacfwd(with_rate)(rate), with_rate(rate)

  slope_LxT, loss_L = slopes(state["inner"]["log_rate_T"][...])
  assert not slope_LxT[:CHUNK].any()
  assert (np.abs(slope_LxT[CHUNK:]).max(-1) > 0).all()
  # Nothing to recall either: as without the memory and the inner loop.
  bare, _ = losses_of(make("none"), inner=False)
  shared = nnx.state(make("none"))
  copied = {
    path: dict(nnx.to_flat_state(state))[path]
    for path, _ in nnx.to_flat_state(shared)
  }
  without = jax.jit(bare)(nnx.from_flat_state(copied))
  np.testing.assert_allclose(loss_L[:CHUNK], without[:CHUNK], rtol=1e-5)


@pytest.mark.parametrize("window, layers", [(3, 2), (4, 3)])
def test_attention_reaches_layers_times_window(window, layers):
  """Without memory and inner loop: so far, and not one token further."""
  learner = make(model__window=window, model__num_layers=layers)
  inputs, _ = dependence(learner, inner=False)
  reach = layers * (window - 1)
  np.testing.assert_array_equal(inputs > 0, (S <= T) & (T - S <= reach))


def test_full_attention_reaches_everything():
  inputs, _ = dependence(make(attention="full"), inner=False)
  np.testing.assert_array_equal(inputs > 0, S <= T)
