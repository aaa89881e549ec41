"""TTT-NN against an explicit loop, and what it retrieves and forgets."""

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
from mattt_jax.ttt.meta_loss import meta_loss
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens

VOCAB, CHUNK, CHUNKS = 40, 4, 6
LENGTH = CHUNK * CHUNKS


def experiment(**changes):
  """One block in the prefix, one in the suffix: what the window holds of the
  suffix depends on no fast weight."""
  tree = config.template("associative_recall", "none", "ttt_nn")
  tree.update({"length": LENGTH, "chunk": CHUNK, "batch_size": 1})
  tree.model.update(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=10,
    fast_mlp_dim=6, window=3, init_std=0.3,
  )  # fmt: skip
  tree.task.update(num_keys=4, num_values=4, num_fillers=4)
  tree.task.update(num_pairs=1, num_queries=1)
  tree.learner.neighbours = 2
  tree.inner.learning_rate = 0.5
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def make(**changes):
  return build_learner(experiment(**changes), VOCAB)


def text(seed=0, length=LENGTH):
  rng = np.random.default_rng(seed)
  seq = rng.integers(0, VOCAB, length + 1).astype(np.int32)
  return seq[:-1], seq[1:], np.ones(length, np.float32)


def losses(learner, tokens, targets, weight, **kwargs):
  """[n, C]"""
  graphdef, state = nnx.split(learner)

  @jax.jit
  def read(state, tokens):
    return nnx.merge(graphdef, state).read_whole(tokens, **kwargs)

  out = read(state, make_tokens(tokens, targets, weight))
  return np.asarray(out.loss_C), out


def by_hand(learner, tokens, targets, weight, optimizer, reset, kept=CHUNKS):
  """The same, chunk by chunk; every chunk is read together with its past."""
  graphdef, fast_0, slow = fast_weights.split(learner.model)
  model = learner.model
  x, _ = model.read_prefix(tokens, model.init_cache(LENGTH, False), 0)
  x = np.asarray(x)

  @jax.jit
  def all_losses(fast, x, targets):
    cache = dataclasses.replace(model.init_cache(LENGTH, False), suffix=None)
    made = nnx.merge(graphdef, fast, slow)
    return made.score(made.forward(x, cache, None, 0), targets)[0]

  def mean_loss(fast, x, targets, weight):
    loss = all_losses(fast, x, targets)
    return jnp.sum(weight * loss) / jnp.sum(weight)

  gradient = jax.jit(jax.grad(mean_loss))
  parts = [slice(i * CHUNK, (i + 1) * CHUNK) for i in range(CHUNKS)]

  def key(part):
    mean = weight[part] @ x[part]
    return mean / np.linalg.norm(mean)

  expected = []
  for i, part in enumerate(parts):
    past = parts[max(0, i - kept) : max(0, i - 1)]
    past.sort(key=lambda p: -float(key(p) @ key(parts[i - 1])))
    fast, state = fast_0, optimizer.init(fast_0)
    for p in past[:2]:
      if reset:
        state = optimizer.init(fast)
      grads = gradient(fast, x[p], targets[p], weight[p])
      updates, state = optimizer.update(grads, state, fast)
      fast = optax.apply_updates(fast, updates)
    expected.append(np.asarray(all_losses(fast, x, targets))[part])
  return np.stack(expected)


@pytest.mark.parametrize("reset, capacity", [(False, 0), (True, 0), (False, 3)])
def test_a_loop_by_hand(reset, capacity):
  learner = make(
    inner__optimizer="momentum", inner__clip_norm=0.0,
    learner__reset_optimizer=reset, learner__capacity=capacity,
  )  # fmt: skip
  tokens, targets, weight = text()
  weight[[1, 6, 10]] = 0.0, 0.5, 0.0
  expected = by_hand(
    learner, tokens, targets, weight, optax.sgd(0.5, momentum=0.9), reset,
    capacity or CHUNKS,
  )  # fmt: skip
  loss, _ = losses(learner, tokens, targets, weight)
  np.testing.assert_allclose(loss, expected, rtol=2e-4)
  off, out = losses(learner, tokens, targets, weight, parts=Parts(inner=False))
  np.testing.assert_allclose(off[:2], expected[:2], rtol=2e-4)  # none to find
  assert np.abs(off[2:] - expected[2:]).max(1).min() > 1e-3
  assert not np.any(out.diagnostics["drift"])


def test_a_chunk_depends_on_its_window_and_neighbours_only():
  """Two fast blocks, so that the window would carry what W learned."""
  tree = dict(
    model__num_layers=3, model__num_suffix=2, learner__neighbours=1,
    model__window=2,
  )  # fmt: skip
  learner = make(**tree)
  near = np.array([1, 2, 1, 2], np.int32)
  tokens, targets, weight = text(seed=1)
  # Chunk 5 asks by chunk 4, which is like chunk 0; and chunks 2 .. 3 change.
  tokens[:4], tokens[16:20] = near, near
  other = tokens.copy()
  other[8:12] = (other[8:12] + 7) % VOCAB
  targets, others = np.roll(tokens, -1), np.roll(other, -1)
  loss, _ = losses(learner, tokens, targets, weight)
  changed, _ = losses(learner, other, others, weight)
  assert np.abs(loss[2] - changed[2]).max() > 1e-3
  np.testing.assert_array_equal(loss[5], changed[5])
  # The neighbour itself matters.
  other = targets.copy()
  other[1] += 1
  changed, _ = losses(learner, tokens, other, weight)
  assert np.abs(loss[5] - changed[5]).max() > 1e-4


def document(rng, topics=4, chunks=12, chunk=8):
  """Each topic is a chunk of its own: chunks are near-copies (one token in
  eight differs) of topics. Topics come in runs of two or more."""
  topic = rng.integers(0, VOCAB, (topics, chunk))
  order, last = [], -1
  while len(order) < chunks:
    last = rng.choice([t for t in range(topics) if t != last])
    order += [last] * 2
  out = topic[order[:chunks]]
  at = rng.integers(0, chunk, chunks)
  out[np.arange(chunks), at] = rng.integers(0, VOCAB, chunks)
  return out.reshape(-1).astype(np.int32), np.array(order[:chunks])


def test_near_copies_lower_the_loss():
  """Without any training: a chunk whose near-copies were stored loses much less
  with the steps on them; one of a topic not met before does not."""
  length, chunk = 96, 8
  learner = make(
    length=length, chunk=chunk, model__dim=16, model__fast_mlp_dim=16,
    model__tie_embeddings=False, model__embedding_std=1.0,
    model__fast=("suffix/*", "head"), inner__optimizer="adamw",
    inner__learning_rate=0.05,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  rows = [document(rng) for _ in range(16)]
  tokens = np.stack([row for row, _ in rows])
  order = np.stack([order for _, order in rows])
  weight = np.ones(tokens.shape, np.float32)
  batch = {"tokens": tokens, "targets": np.roll(tokens, -1, 1)}
  batch["inner_weight"] = batch["outer_weight"] = weight
  # Chunk i asks by chunk i - 1: of the same topic, and met before that?
  same = order[:, 1:] == order[:, :-1]
  met = np.array(
    [[row[i] in row[: i - 1] for i in range(1, len(row))] for row in order]
  )

  @functools.partial(jax.jit, static_argnames="inner")
  def read(inner):
    return meta_loss(learner, batch, Parts(inner=inner))[1].loss_BxL

  def means(inner):
    """(near-copies stored, first sight); a chunk's last target is another's."""
    loss = np.asarray(read(inner)).reshape(len(order), -1, chunk)[:, 1:, :-1]
    return loss.mean(-1)[same & met].mean(), loss.mean(-1)[same & ~met].mean()

  (on, on_first), (off, off_first) = means(True), means(False)
  print(
    f"near-copy stored: {on:.2f} (without {off:.2f}); first sight: "
    f"{on_first:.2f} (without {off_first:.2f})"
  )
  assert on < 0.8 * off
  assert on_first > 0.95 * off_first


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(learner__neighbours=0), "learner.neighbours=0"),
    (dict(learner__capacity=2), "learner.capacity=2 must be > "),
    (dict(inner__enabled=False), "inner.enabled=False"),
    (dict(coordination__replay=1), "coordination.replay=1"),
    (dict(coordination__surprise_power=1.0), "coordination.surprise_power=1.0"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    experiment(**changes)


def test_no_memory_and_no_stream():
  tree = config.template("associative_recall", "episodic", "ttt_nn")
  with pytest.raises(ValueError, match="use memory=none"):
    config.from_config_dict(tree)
  learner = make()
  with pytest.raises(ValueError, match="whole sequences only"):
    learner.init_state(LENGTH)
  with pytest.raises(ValueError, match=f"chunk={CHUNK} must divide length=7"):
    learner.read_whole(make_tokens(*text(length=7)))


def test_state_bytes():
  found = make().state_bytes(LENGTH)
  dim, window, vocab_free = 8, 3, 4 * CHUNKS * CHUNK
  keys = 4 * (CHUNKS * dim + dim + 1)
  assert found == {
    "fast_weights": 4 * 3 * 8 * 6,
    "inner_optimizer": 0,
    "memory": 0,
    "replay": keys + vocab_free * dim + 2 * vocab_free,
    "cache": 2 * 4 * 2 * window * dim,
  }
