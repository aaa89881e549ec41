"""No loss depends on a later token; how far back losses reach.

The tokens of a text are all different, and its targets are tokens of their
own, so that a row of the embedding belongs to one position: as the input there,
or as what the memory is told to have followed there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from mattt_jax.ttt.parts import Parts

CHUNK = small.CHUNK
LENGTH = 4 * CHUNK
INPUTS = jnp.arange(LENGTH)
TARGETS = LENGTH + jnp.arange(LENGTH)
CHUNK_OF = np.arange(LENGTH) // CHUNK
T, S = np.meshgrid(np.arange(LENGTH), np.arange(LENGTH), indexing="ij")

CASES = [(*system, "window", {}) for system in small.SYSTEMS] + [
  # A memory does not see what attention sees: full attention once with each
  # site of reading and once without.
  ("none", None, "full", {}),
  ("episodic", "pointer", "full", {}),
  ("associative", "residual", "full", {}),
  ("episodic", "residual", "window", dict(memory__address="hidden")),
]


def make(memory="none", read=None, attention="window", **changes):
  return small.learner(
    memory, read, length=LENGTH, model__attention=attention,
    model__tie_embeddings=False, model__remat_prefix=False,
    inner__learning_rate=0.1, inner__learn_rate=True, inner__remat_levels=0,
    **changes,
  )  # fmt: skip


def losses_of(learner, inner=True):
  """(parameters -> loss_L, the parameters)."""
  graphdef, state = nnx.split(learner)

  def losses(state, tokens=INPUTS, targets=TARGETS):
    model = nnx.merge(graphdef, state)
    weight = jnp.ones(LENGTH)
    _, out = small.read(
      model, tokens, targets, weight, parts=Parts(inner=inner)
    )
    return out.loss_C.reshape(-1)

  return losses, state


def dependence(learner, inner=True):
  """Size of the derivatives of loss_t: by the input at s, by the embedding of
  the target at s (both [L, L]), and by the learned inner rates [L]."""
  losses, state = losses_of(learner, inner)

  @jax.jit
  @functools.partial(jax.jacrev, argnums=(0, 1))
  def jacobian(embedding, rate):
    changed = jax.tree.map(lambda x: x, state)
    changed["model"]["embedding"][...] = embedding
    changed["inner"]["log_rate_T"][...] = rate
    return losses(changed)

  parts = state["model"]["embedding"][...], state["inner"]["log_rate_T"][...]
  by_embedding, by_rate = (np.abs(x).max(-1) for x in jacobian(*parts))
  return (
    by_embedding[:, :LENGTH],
    by_embedding[:, LENGTH : 2 * LENGTH],
    by_rate,
  )


@pytest.mark.parametrize("memory, read, attention, changes", CASES)
def test_no_loss_depends_on_what_comes_later(memory, read, attention, changes):
  learner = make(memory, read, attention, **changes)
  inputs, targets, rates = dependence(learner)
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
  # The first chunk is read before anything is learned.
  np.testing.assert_array_equal(rates > 0, CHUNK_OF > 0)


REPLAY = dict(coordination__replay=2)


@pytest.mark.parametrize(
  "memory, read, changes",
  [(*system, {}) for system in small.SYSTEMS]
  + [
    ("none", None, REPLAY),
    ("episodic", "pointer", REPLAY | dict(coordination__replay_keep=False)),
  ],
)
def test_changed_tokens_leave_earlier_losses_alone(memory, read, changes):
  """Bit for bit; ids act through the pointer, and texts through replay, which
  no gradient sees."""
  losses, state = losses_of(make(memory, read, **changes))
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

  # The first chunk has nothing to recall, and nothing was learned before it.
  bare, shared = losses_of(make(), inner=False)
  mine = dict(nnx.to_flat_state(state))
  shared = [(path, mine[path]) for path, _ in nnx.to_flat_state(shared)]
  without = jax.jit(bare)(nnx.from_flat_state(shared))
  np.testing.assert_allclose(before[:CHUNK], without[:CHUNK], rtol=1e-5)
  # A loss or two may be the same by chance.
  assert (np.abs(before - without)[CHUNK:] > 1e-5).mean() > 0.8


@pytest.mark.parametrize("window, layers", [(3, 2), (4, 3)])
def test_attention_reaches_layers_times_window(window, layers):
  """Without memory and inner loop: so far, and not one token further."""
  learner = make(model__window=window, model__num_layers=layers)
  inputs, *_ = dependence(learner, inner=False)
  reach = layers * (window - 1)
  np.testing.assert_array_equal(inputs > 0, (S <= T) & (T - S <= reach))


def test_full_attention_reaches_everything():
  inputs, *_ = dependence(make(attention="full"), inner=False)
  np.testing.assert_array_equal(inputs > 0, S <= T)
