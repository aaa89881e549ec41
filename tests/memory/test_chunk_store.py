"""Chunk store against a loop over tokens, chunks and heads in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config
from mattt_jax.memory import chunk_store
from mattt_jax.memory.base import Pairs
from mattt_jax.planning.cost_model import matmul_flops

DIM, CHUNK, VOCAB, HEADS, HEAD_DIM, EMBED = 6, 4, 20, 2, 3, 5
ASKED = np.random.default_rng(8).normal(size=(5, DIM)).astype(np.float32)


def make(**changes):
  """A memory of which no parameter is at its initial zero, or a copy."""
  settings = dict(
    num_heads=HEADS, head_dim=HEAD_DIM, chunk_dim=EMBED, top_k=2, null_bias=0.5
  )
  memory = chunk_store.Config(**settings | changes).make(
    DIM, CHUNK, nnx.Rngs(0)
  )
  rng = np.random.default_rng(1)
  for parameter in (
    memory.wk, memory.chunk_wk, memory.null_weight, memory.gate.weight,
    memory.norm.scale,
  ):  # fmt: skip
    parameter[...] = jnp.asarray(
      rng.normal(size=parameter[...].shape), jnp.float32
    )
  return memory


def text(chunks, seed=0, share=0.7):
  rng = np.random.default_rng(seed)

  def pairs():
    return Pairs(
      hidden_CxD=rng.normal(size=(CHUNK, DIM)).astype(np.float32),
      value_CxD=rng.normal(size=(CHUNK, DIM)).astype(np.float32),
      next_token_C=rng.integers(0, VOCAB, CHUNK).astype(np.int32),
      surprise_C=np.ones(CHUNK, np.float32),
      gradient_C=np.ones(CHUNK, np.float32),
      relevant_C=np.zeros(CHUNK, bool),
      valid_C=rng.random(CHUNK) < share,
    )

  return [pairs() for _ in range(chunks)]


def write(memory, chunks, context=None):
  state = memory.init_state(context or len(chunks) * CHUNK)
  step = nnx.jit(lambda memory, state, chunk: memory.write(state, chunk))
  for chunk in chunks:
    state = step(memory, state, jax.tree.map(jnp.asarray, chunk))
  return state


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def normed(memory, x):
  rms = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x / rms * np.asarray(memory.norm.scale[...])


def heads(x, w):
  return (x @ np.asarray(w[...])).reshape(len(x), HEADS, HEAD_DIM)


def embedding(memory, chunk):
  x = normed(memory, chunk.hidden_CxD)[chunk.valid_C].mean(0)
  return unit(x @ np.asarray(memory.chunk_wk[...]))


def expected(memory, chunks, top_k):
  """(output [C, D], null [C]) with these chunks, by the formula."""
  x = normed(memory, ASKED)
  q = unit(heads(x, memory.wq))
  asked = unit(x @ np.asarray(memory.chunk_wq[...]))
  a = np.exp(memory.log_chunk_temperature[...])
  b = np.exp(memory.log_temperature[...])
  out, nulls = [], []
  for t in range(len(ASKED)):
    score = [asked[t] @ embedding(memory, chunk) for chunk in chunks]
    best = np.argsort(score)[::-1][:top_k]
    null = memory.null_bias[...] + x[t] @ np.asarray(memory.null_weight[...])
    row, null_row = [], []
    for h in range(HEADS):
      weights, values = [np.exp(null)], [np.zeros(HEAD_DIM)]
      for n in best:
        k = unit(heads(normed(memory, chunks[n].hidden_CxD), memory.wk))
        v = heads(chunks[n].value_CxD, memory.wv)
        for j in np.flatnonzero(chunks[n].valid_C):
          weights.append(np.exp(a * score[n] + b * q[t, h] @ k[j, h]))
          values.append(v[j, h])
      row.append(np.average(values, axis=0, weights=weights))
      null_row.append(weights[0] / sum(weights))
    out.append(np.concatenate(row) @ np.asarray(memory.wo[...]))
    nulls.append(np.mean(null_row))
  gate = memory.gate.bias[...] + x @ np.asarray(memory.gate.weight[...])
  gate = 1 / (1 + np.exp(-np.asarray(gate)))
  return np.array(out) * gate[:, None], np.array(nulls)


def check(memory, state, chunks, top_k):
  read = memory.read(state, jnp.asarray(ASKED))
  output, null = expected(memory, chunks, top_k)
  np.testing.assert_allclose(read.output_CxD, output, rtol=2e-4, atol=1e-5)
  np.testing.assert_allclose(read.null_C, null, rtol=1e-4)
  assert np.abs(output).max() > 0.1


@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_attention_to_the_tokens_of_the_best_chunks(top_k):
  chunks = text(4)
  assert any(not chunk.valid_C.all() for chunk in chunks)
  assert all(chunk.valid_C.any() for chunk in chunks)
  memory = make(top_k=top_k)
  check(memory, write(memory, chunks), chunks, top_k)
  # Tokens differ in what they find, or it would not matter which.
  best = np.argmax(
    unit(normed(memory, ASKED) @ np.asarray(memory.chunk_wq[...]))
    @ np.transpose([embedding(memory, chunk) for chunk in chunks]),
    axis=-1,
  )
  assert len(set(best)) > 1


def test_fewer_chunks_than_places():
  memory, chunks = make(top_k=3), text(2)
  check(memory, write(memory, chunks, 5 * CHUNK), chunks, 3)


def test_a_full_ring_forgets_the_oldest_chunk():
  memory, chunks = make(capacity=3), text(5)
  state = write(memory, chunks)
  assert state.chunks.token_NxT.shape == (3, CHUNK)
  assert int(state.chunks.written) == 5
  check(memory, state, chunks[-3:], 2)


def test_padding_takes_no_place():
  memory, chunks = make(capacity=2), text(5)
  for n in (2, 4):
    chunks[n] = chunks[n].replace(valid_C=np.zeros(CHUNK, bool))
  check(memory, write(memory, chunks), [chunks[1], chunks[3]], 2)


def test_an_empty_store_adds_nothing():
  memory = make()
  read = memory.read(memory.init_state(3 * CHUNK), jnp.asarray(ASKED))
  np.testing.assert_array_equal(read.output_CxD, 0)
  np.testing.assert_array_equal(read.null_C, 1)


@pytest.mark.parametrize("capacity", [0, 3])
def test_chunks_come_back_as_tokens(capacity):
  memory, chunks = make(capacity=capacity), text(5)
  state = write(memory, chunks)
  kept = chunks[-capacity:] if capacity else chunks
  query = memory.embed(jnp.asarray(ASKED[:1]))[0]
  score = np.array([np.asarray(query) @ embedding(memory, c) for c in kept])
  order = np.argsort(score)[::-1][:2]
  token, found_score, found = chunk_store.retrieve(
    state.chunks, state.chunks.embedding_NxE @ query, 2
  )
  np.testing.assert_array_equal(token, [kept[n].next_token_C for n in order])
  np.testing.assert_allclose(found_score, score[order], rtol=1e-4)
  assert found.all()


def test_what_is_not_there_is_not_found():
  memory, chunks = make(), text(1)
  score = jnp.array([-2.0, 1.0, 0.0])
  state = memory.init_state(3 * CHUNK)
  assert not chunk_store.retrieve(state.chunks, score, 3)[2].any()
  state = write(memory, chunks, 3 * CHUNK)
  token, _, found = chunk_store.retrieve(state.chunks, score, 3)
  np.testing.assert_array_equal(found, [True, False, False])
  np.testing.assert_array_equal(token[0], chunks[0].next_token_C)
  for k in (0, 4):
    with pytest.raises(ValueError, match=rf"k={k} must lie in 1 \.\. 3"):
      chunk_store.retrieve(state.chunks, score, k)


def test_a_planted_chunk_is_found_as_initialised():
  """By what it is about, which none of its tokens alone is."""
  memory = chunk_store.Config().make(DIM, CHUNK, nnx.Rngs(0))
  chunks = text(30, share=2)
  topic = 2 * ASKED[0]
  noise = np.random.default_rng(3).normal(size=(CHUNK, DIM))
  chunks[17] = chunks[17].replace(hidden_CxD=(topic + noise).astype(np.float32))
  query = memory.embed(jnp.asarray(topic)[None])[0]
  stored = write(memory, chunks).chunks
  token, *_ = chunk_store.retrieve(stored, stored.embedding_NxE @ query, 1)
  np.testing.assert_array_equal(token[0], chunks[17].next_token_C)


def test_second_derivatives_are_finite():
  graphdef, params = nnx.split(make(top_k=1))
  chunk = jax.tree.map(jnp.asarray, text(1)[0])

  def loss(params, chunk, asked):
    memory = nnx.merge(graphdef, params)
    state = memory.write(memory.init_state(CHUNK), chunk)
    return jnp.sum(memory.read(state, asked).output_CxD ** 2)

  @jax.jit
  def second(*args):
    def slope(params, *args):
      grad = jax.grad(loss)(params, *args)
      return sum(jnp.sum(g * jnp.cos(g)) for g in jax.tree.leaves(grad))

    return jax.grad(slope)(*args)

  nothing = jax.tree.map(jnp.zeros_like, chunk)  # and none of it is valid
  for chunk_, asked in ((chunk, ASKED), (nothing, ASKED), (chunk, 0 * ASKED)):
    for g in jax.tree.leaves(second(params, chunk_, asked)):
      assert np.isfinite(g).all()


@pytest.mark.parametrize("capacity, context", [(0, 7 * CHUNK), (3, 99 * CHUNK)])
def test_flops(capacity, context):
  memory = make(capacity=capacity)
  state = memory.init_state(context)
  (chunk,) = text(1)
  read = matmul_flops(lambda x: memory.read(state, x).output_CxD, ASKED)
  written = matmul_flops(lambda x: memory.write(state, x), chunk)
  assert read / len(ASKED) + written / CHUNK == pytest.approx(
    memory.flops_per_token(context), rel=1e-12
  )


def test_bytes():
  memory = make(capacity=3)
  assert memory.state_bytes(10) == memory.state_bytes(1000)
  # A chunk: its embedding; and of each token an id, a flag, key and value.
  chunk = 4 * EMBED + CHUNK * (4 + 1 + 2 * 4 * HEADS * HEAD_DIM)
  assert memory.state_bytes(10) == 3 * chunk + 4
  assert make().state_bytes(2 * CHUNK + 1) == 3 * chunk + 4


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(capacity=-1), "memory.capacity=-1 must be at least 0"),
    (dict(top_k=0), "memory.top_k=0 must be at least 1"),
    (dict(top_k=-2), "memory.top_k=-2 must be at least 1"),
    (dict(top_k=5, capacity=4), "top_k=5 must be <= memory.capacity=4"),
    (dict(chunk_dim=0), "memory.chunk_dim=0 must be at least 1"),
    (dict(num_heads=0), "memory.num_heads=0 must be at least 1"),
    (dict(head_dim=0), "memory.head_dim=0 must be at least 1"),
    (dict(temperature=0.0), "memory.temperature=0.0 must be pos"),
    (dict(chunk_temperature=-1.0), "memory.chunk_temperature=-1.0 must be"),
  ],
)
def test_settings_that_do_not_fit(changes, error):
  tree = config.template("associative_recall", "chunk_store")
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)
