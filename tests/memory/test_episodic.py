"""Episodic memory against a softmax over a list of all pairs, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax.memory import episodic
from mattt_jax.memory.base import Pairs

DIM, CHUNK, VOCAB, HEADS, HEAD_DIM = 6, 4, 20, 2, 3


def make(**changes):
  settings = dict(
    num_heads=HEADS, head_dim=HEAD_DIM, top_k=0, null_bias=0.5, temperature=2.0
  )
  memory = episodic.Config(**settings | changes).make(DIM, CHUNK, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  # Or they would be zero, or those of queries.
  changed = [memory.wk, memory.null_weight]
  if memory.config.read == "residual":
    changed.append(memory.gate.weight)
  for parameter in changed:
    parameter[...] = jnp.asarray(rng.normal(size=parameter[...].shape))
  return memory


def text(length=3 * CHUNK, seed=0):
  """All pairs of a text, as one `Pairs`."""
  rng = np.random.default_rng(seed)
  return Pairs(
    hidden_CxD=rng.normal(size=(length, DIM)).astype(np.float32),
    value_CxD=rng.normal(size=(length, DIM)).astype(np.float32),
    next_token_C=rng.integers(0, VOCAB, length).astype(np.int32),
    surprise_C=np.ones(length, np.float32),
    gradient_C=np.ones(length, np.float32),
    relevant_C=np.ones(length, bool),
    valid_C=rng.random(length) < 0.8,
  )


def rows(pairs, which):
  return jax.tree.map(lambda x: x[which], pairs)


def write_all(memory, pairs, context=None):
  length = len(pairs.valid_C)
  state = memory.init_state(context or length)
  write = nnx.jit(lambda memory, state, chunk: memory.write(state, chunk))
  for start in range(0, length, CHUNK):
    state = write(memory, state, rows(pairs, slice(start, start + CHUNK)))
  return state


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def normed(memory, x):
  mean_square = (x**2).mean(-1, keepdims=True)
  return x / np.sqrt(mean_square + 1e-6) * np.asarray(memory.norm.scale[...])


def projected(x, w):
  return (x @ np.asarray(w[...])).reshape(len(x), HEADS, HEAD_DIM)


def scores(memory, pairs, asked):
  """[H, C, M] of the pairs, and the null score [C]."""
  q = unit(projected(normed(memory, asked), memory.wq))
  k = unit(projected(normed(memory, pairs.hidden_CxD), memory.wk))
  temperature = np.exp(memory.log_temperature[...])
  null = memory.null_bias[...] + normed(memory, asked) @ memory.null_weight[...]
  return temperature * np.einsum("chk,mhk->hcm", q, k), np.asarray(null)


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def best(score, top_k):
  """Scores outside of the top k of each row at -inf."""
  if not top_k:
    return score
  least = np.sort(score, axis=-1)[..., -top_k, None]
  return np.where(score >= least, score, -np.inf)


ASKED = np.random.default_rng(8).normal(size=(5, DIM)).astype(np.float32)


def expected_pointer(memory, pairs, top_k=0):
  """(null mass [C], distribution over tokens [C, V])."""
  score, null = scores(memory, pairs, ASKED)
  score = best(score.sum(0), top_k)
  mass = softmax(np.concatenate([null[:, None], score], axis=-1))
  probs = np.zeros((len(ASKED), VOCAB))
  for slot, token in enumerate(pairs.next_token_C):
    probs[:, token] += mass[:, 1 + slot]
  return mass[:, 0], probs


def expected_residual(memory, pairs, top_k=0):
  """[C, D]."""
  score, null = scores(memory, pairs, ASKED)
  null = np.broadcast_to(null[None, :, None], (*score.shape[:2], 1))
  mass = softmax(np.concatenate([null, best(score, top_k)], axis=-1))
  value = projected(pairs.value_CxD, memory.wv)
  out = np.einsum("hcm,mhk->chk", mass[..., 1:], value)
  gate = normed(memory, ASKED) @ memory.gate.weight[...]
  gate += memory.gate.bias[...]
  out = out.reshape(len(ASKED), -1) @ np.asarray(memory.wo[...])
  return out / (1 + np.exp(-np.asarray(gate)))[:, None]


def check(memory, state, pairs, top_k=0):
  """The memory answers as if it held exactly `pairs`."""
  read = memory.read(state, jnp.asarray(ASKED))
  if memory.config.read == "residual":
    expected = expected_residual(memory, pairs, top_k)
    np.testing.assert_allclose(read.output_CxD, expected, rtol=2e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1
    return
  null, probs = expected_pointer(memory, pairs, top_k)
  np.testing.assert_allclose(np.exp(read.log_null_C), null, rtol=1e-4)
  got = np.zeros_like(probs)
  at = (np.arange(len(ASKED))[:, None], read.token_CxJ)
  np.add.at(got, at, np.exp(read.log_prob_CxJ))
  np.testing.assert_allclose(got, probs, rtol=1e-4, atol=1e-6)
  assert 0.01 < null.max() < 0.99


@pytest.mark.parametrize("top_k", [0, 1, 3, 100])
@pytest.mark.parametrize("read", episodic.Config.reads)
def test_a_softmax_over_all_pairs_or_the_best(read, top_k):
  memory = make(read=read, top_k=top_k)
  pairs = text()
  valid = rows(pairs, pairs.valid_C)
  assert 3 < len(valid.valid_C) < len(pairs.valid_C)
  check(memory, write_all(memory, pairs), valid, top_k if top_k < 100 else 0)


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_a_ring_forgets_the_oldest_chunks(read):
  memory = make(read=read, capacity=2 * CHUNK)
  pairs = text(5 * CHUNK).replace(valid_C=np.ones(5 * CHUNK, bool))
  state = write_all(memory, pairs)
  assert state.valid_M.shape == (2 * CHUNK,)
  check(memory, state, rows(pairs, slice(-2 * CHUNK, None)))


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_padding_does_not_make_a_ring_forget(read):
  memory = make(read=read, capacity=2 * CHUNK)
  pairs = text(4 * CHUNK)
  # The ring is full; then a chunk of padding, and one that is half padding.
  valid = np.ones(4 * CHUNK, bool)
  valid[2 * CHUNK : 3 * CHUNK] = False
  valid[3 * CHUNK + 1 : 3 * CHUNK + 3] = False
  pairs = pairs.replace(valid_C=valid)
  kept = np.r_[:CHUNK, CHUNK + 1, CHUNK + 2, 3 * CHUNK, 4 * CHUNK - 1]
  check(memory, write_all(memory, pairs), rows(pairs, kept))


def test_without_a_capacity_it_holds_the_whole_context():
  memory = make()
  assert memory.init_state(3 * CHUNK).valid_M.shape == (3 * CHUNK,)
  assert memory.init_state(2 * CHUNK + 1).valid_M.shape == (3 * CHUNK,)
  assert memory.state_bytes(200) > 1.9 * memory.state_bytes(100)
  ring = make(capacity=2 * CHUNK)
  assert ring.state_bytes(1000) == ring.state_bytes(10)
  # A key of 2 heads x 3 float32, a token id, a flag; and one counter.
  assert ring.state_bytes(10) == 2 * CHUNK * (24 + 4 + 1) + 4


def test_a_planted_pair_is_found():
  """As initialised: the nearest context's token, far back and unambiguous."""
  memory = episodic.Config(head_dim=16).make(DIM, CHUNK, nnx.Rngs(0))
  pairs = text(64 * CHUNK)
  planted = 17
  pairs.next_token_C[planted], pairs.valid_C[planted] = 19, True
  state = write_all(memory, pairs)
  read = memory.read(
    state, jnp.asarray(pairs.hidden_CxD[planted : planted + 1])
  )
  first = np.argmax(read.log_prob_CxJ[0])
  assert read.token_CxJ[0, first] == 19
  assert read.log_prob_CxJ[0, first] > read.log_null_C[0]
  assert read.token_CxJ.shape == (1, memory.config.top_k)
