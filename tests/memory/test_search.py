"""Blocks and landmarks against the search of all slots; the index, in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from mattt_jax.learners.build import build_learner
from mattt_jax.memory import _landmarks, _search, episodic
from mattt_jax.memory.base import Pairs
from mattt_jax.ttt.read_batch import read_on
from mattt_jax.ttt.tokens import tokens_of

DIM, CHUNK, HEADS, HEAD_DIM, VOCAB = 10, 4, 2, 4, 20
LENGTH = 12 * CHUNK
# Cells enough for any slot, all of them looked in: nothing is left out.
EVERYWHERE = dict(search="landmarks", probes=100, cell=LENGTH)


def make(dim=DIM, chunk=CHUNK, **changes):
  fields = dict(num_heads=HEADS, head_dim=HEAD_DIM, top_k=5, null_bias=0.5)
  memory = episodic.Config(**fields | changes).make(dim, chunk, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  change = rng.normal(size=memory.wk[...].shape) / 10 / np.sqrt(dim)
  memory.wk[...] += jnp.asarray(change, jnp.float32)
  return memory


def text(length=LENGTH, seed=0, dim=DIM, valid=0.8):
  rng = np.random.default_rng(seed)
  hidden = rng.normal(size=(length, dim))
  hidden[5:11] = hidden[5]  # scores that tie
  return Pairs(
    hidden_CxD=jnp.asarray(hidden, jnp.float32),
    value_CxD=jnp.asarray(rng.normal(size=(length, dim)), jnp.float32),
    next_token_C=jnp.asarray(rng.integers(0, VOCAB, length), jnp.int32),
    surprise_C=jnp.asarray(rng.random(length), jnp.float32),
    gradient_C=None,
    relevant_C=jnp.zeros(length, bool),
    valid_C=jnp.asarray(rng.random(length) < valid),
  )


ASKED = jnp.asarray(np.random.default_rng(8).normal(size=(6, DIM)), jnp.float32)


def written(memory, pairs, state=None):
  """The state after all chunks; under `lax.scan`."""
  chunks = jax.tree.map(
    lambda x: x.reshape(-1, memory.chunk, *x.shape[1:]), pairs
  )
  return jax.lax.scan(
    lambda state, chunk: (memory.write(state, chunk), None),
    state or memory.init_state(len(pairs.valid_C)),
    chunks,
  )[0]


def answer(memory, state, asked):
  """[C, V + 1] distribution (null last), or [C, D] output."""
  read = memory.read(state, asked)
  if memory.config.read == "residual":
    return read.output_CxD
  probs = jnp.zeros((len(asked), VOCAB + 1))
  probs = probs.at[:, -1].set(jnp.exp(read.log_null_C))
  at = jnp.arange(len(asked))[:, None], read.token_CxJ
  return probs.at[at].add(jnp.exp(read.log_prob_CxJ))


def answer_and_gradients(changes, pairs, asked=ASKED):
  """Of a memory that stored `pairs`, of which two texts at once are read."""
  graphdef, params = nnx.split(make(**changes))

  def loss(params, pairs, asked):
    memory = nnx.merge(graphdef, params)
    out = answer(memory, written(memory, pairs), asked)
    return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

  grads = jax.grad(
    lambda params, hidden, asked: loss(
      params, pairs.replace(hidden_CxD=hidden), asked
    ),
    argnums=(0, 1, 2),
    has_aux=True,
  )
  grads, out = jax.jit(jax.vmap(grads, in_axes=(None, None, 0)))(
    params, pairs.hidden_CxD, jnp.stack([asked, -asked])
  )
  return out, grads


@functools.cache
def plain(read, top_k, others):
  return answer_and_gradients(
    dict(read=read, top_k=top_k, **dict(others)), text()
  )


OTHERS = [
  {},
  dict(capacity=4 * CHUNK),  # a ring that went round
  dict(score="learned", policy="score", capacity=3 * CHUNK),
]


@pytest.mark.parametrize("others", OTHERS, ids=str)
@pytest.mark.parametrize("read", episodic.Config.reads)
@pytest.mark.parametrize(
  "how",
  [
    dict(block=CHUNK), dict(block=7), dict(block=1000),
    dict(block=5, search="approx"), EVERYWHERE,
  ],
  ids=str,
)  # fmt: skip
def test_as_a_search_of_all_slots(how, read, others):
  """Answers and gradients, of two readers at once, each with scores that tie.

  A block may hold fewer slots than are wanted, and need not divide them.
  """
  expected = plain(read, 5, tuple(others.items()))
  found = answer_and_gradients(
    dict(read=read, top_k=5, **others, **how), text()
  )
  for x, y in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)
  assert np.abs(expected[0]).max() > 0.01


@pytest.mark.parametrize("each_head", [False, True])
def test_blocks_give_the_same_slots_in_the_same_order(each_head):
  rng = np.random.default_rng(0)
  key = rng.integers(-1, 2, (HEADS, 40, HEAD_DIM)).astype(np.float32)
  valid = rng.random(40) < 0.7
  slots = _search.Slots(key, None, jnp.asarray(valid))
  query = rng.integers(-1, 2, (HEADS, 6, HEAD_DIM)).astype(np.float32)
  asked = jnp.asarray(query), slots, jnp.asarray(2.0)
  score = _search.score(*asked, each_head=each_head)
  for top_k in (1, 7, 35):  # 35: empty slots too
    for block in (1, 8, 9, 40):
      slot = _search.best_in_blocks(*asked, top_k, block, each_head=each_head)
      np.testing.assert_array_equal(slot, _search.best(score, top_k)[1])


@pytest.mark.parametrize("search", ["exact", "landmarks"])
def test_bfloat16_only_compares(search):
  """What is found far from any tie is the same, and so are its scores."""
  pairs = text(dim=32)
  how = dict(search=search, probes=100, cell=LENGTH)
  kept = dict(dim=32, head_dim=16, top_k=1, temperature=9.0, **how)
  rough = make(score_dtype="bfloat16", **kept)
  # Nothing that is near to two of them.
  asked = pairs.hidden_CxD[20:]
  a, b = (
    answer(memory, written(memory, pairs), asked)
    for memory in (make(**kept), rough)
  )
  np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  program = str(jax.make_jaxpr(rough.read)(written(rough, pairs), asked))
  assert re.search(r":bf16\[", program)
  assert not re.search(r":bf16\[[\d,]*\] = dot_general", program)


def test_scores_of_all_slots_never_exist_at_once():
  """In blocks, or by landmarks; forwards and backwards."""
  slots, tokens = 4096, 64
  asked = jnp.ones((tokens, DIM))

  def bytes_of(**changes):
    memory = make(capacity=slots, **changes)
    graphdef, params = nnx.split(memory)

    def loss(params, asked, state):
      return jnp.sum(answer(nnx.merge(graphdef, params), state, asked))

    program = jax.jit(jax.grad(loss, argnums=(0, 1)))
    state = jax.eval_shape(lambda: memory.init_state(1))
    compiled = program.lower(params, asked, state).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4 * slots * tokens
  assert bytes_of() > scores
  assert bytes_of(block=256) < scores / 2
  assert bytes_of(search="landmarks", probes=2, cell=8) < scores / 2


# The index.


class Listed:
  """One list a cell, one key at a time, but landmarks of the whole chunk."""

  def __init__(self, slots, cell):
    self.n = _landmarks.landmarks(slots, cell)
    self.cell = cell
    self.sums = [[], []]
    self.places = {}  # (cell, place) -> slot
    self.load = {}
    self.of = {}  # slot -> (cell, place)

  def directions(self):
    return [
      np.asarray([x / np.linalg.norm(x) for x in sums]) for sums in self.sums
    ]

  def best(self, key, count):
    halves = np.split(key, 2)
    a, b = (d @ h for d, h in zip(self.directions(), halves, strict=True))
    total = a[:, None] + b[None, :]
    order = np.argsort(-total, axis=None, kind="stable")[:count]
    return [(int(i) // len(b), int(i) % len(b)) for i in order]

  def live(self, cell, place):
    slot = self.places.get((cell, place))
    return slot is not None and self.of.get(slot) == (cell, place)

  def write(self, keys, slots):
    first = min(len(keys), self.n - len(self.sums[0]))
    for key in keys[:first]:
      for sums, half in zip(self.sums, np.split(key, 2), strict=True):
        sums.append(half.copy())
    chosen = []
    for key in keys:
      tried = self.best(key, _landmarks.TRIED)
      free = [
        cell
        for cell in tried
        if not self.live(cell, self.load.get(cell, 0) % self.cell)
      ]
      chosen.append((tried[0], (free or tried)[0]))
    for slot, (_, cell) in zip(slots, chosen, strict=True):
      place = self.load.get(cell, 0) % self.cell
      self.load[cell] = self.load.get(cell, 0) + 1
      self.places[cell, place] = slot
      self.of[slot] = cell, place
    # A place that was taken twice holds the last one.
    for slot in slots:
      if self.places[self.of[slot]] != slot:
        del self.of[slot]
    for key, (nearest, _) in list(zip(keys, chosen, strict=True))[first:]:
      halves = np.split(key, 2)
      for sums, i, half in zip(self.sums, nearest, halves, strict=True):
        sums[i] += half

  def candidates(self, query, probes):
    return {
      self.places[cell, place]
      for cell in self.best(query, probes)
      for place in range(self.cell)
      if self.live(cell, place)
    }


@pytest.mark.parametrize("cell", [1, 3, 8])
def test_the_index_is_lists_of_slots(cell):
  """Rings that go round, invalid keys, equal keys, cells that overflow."""
  rng = np.random.default_rng(0)
  slots, chunk, dim, probes = 24, 6, 8, 3
  add, find = (
    jax.jit(_landmarks.add),
    jax.jit(_landmarks.candidates, static_argnums=2),
  )
  index, listed = _landmarks.empty(slots, cell, dim), Listed(slots, cell)
  overflowed = False
  for step in range(20):
    key = rng.normal(size=(chunk, dim)) + 1.0
    if step % 4 == 3:
      key = key[:1] + 1e-3 * rng.normal(size=(chunk, dim))
    keep = rng.random(chunk) < 0.8
    slot = (step * chunk + np.arange(chunk)) % slots
    index = add(index, jnp.asarray(key), jnp.asarray(slot), jnp.asarray(keep))
    listed.write(key[keep], slot[keep].tolist())
    overflowed |= len(listed.of) < min(slots, index.keys)
    query = np.concatenate([key[:2], -key[:2], rng.normal(size=(2, dim))])
    slot_CxJ, live_CxJ = find(index, jnp.asarray(query), probes)
    for q, at, live in zip(query, slot_CxJ, live_CxJ, strict=True):
      found = np.asarray(at)[np.asarray(live)].tolist()
      assert len(set(found)) == len(found)
      assert set(found) == listed.candidates(q, probes)
  for mine, sums in zip(index.sum_2xnxE, listed.sums, strict=True):
    np.testing.assert_allclose(mine[: len(sums)], sums, rtol=1e-4, atol=1e-5)
  assert overflowed or cell == 8


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_a_softmax_over_what_the_index_names(read):
  """Which is less than top_k; a ring that went round; no slot counts twice."""
  memory = make(
    read=read, capacity=8 * CHUNK, search="landmarks", top_k=16, probes=2,
    cell=8,
  )  # fmt: skip
  state = written(memory, text(valid=2.0))
  pointer = read == "pointer"
  hidden_CxD = memory.norm(ASKED)
  query = _search_query(memory, hidden_CxD)
  null_C = memory.null_bias[...] + hidden_CxD @ memory.null_weight[...]
  temperature = np.exp(memory.log_temperature[...])
  key = np.asarray(state.key_HxMxK)
  masses, fewer = [], False
  for head in [slice(None)] if pointer else range(HEADS):
    group = 0 if pointer else head
    asked = query[:, head].reshape(len(ASKED), -1)
    slot, live = _landmarks.candidates(
      jax.tree.map(lambda x, g=group: x[g], state.index), asked, 2
    )
    for c in range(len(ASKED)):
      at = np.asarray(slot[c])[np.asarray(live[c])]
      fewer |= len(at) < 16
      keys = key[head][..., at, :].reshape(-1, len(at), HEAD_DIM)
      keys = keys.swapaxes(0, 1).reshape(len(at), -1)
      score = temperature * keys @ np.asarray(asked[c])
      kept = np.exp(np.sort(score)[-16:]).sum()
      masses.append(np.exp(null_C[c]) / (np.exp(null_C[c]) + kept))
  found = memory.read(state, ASKED)
  null = np.exp(found.log_null_C) if pointer else found.null_C
  expected = np.reshape(masses, (-1, len(ASKED))).mean(0)
  np.testing.assert_allclose(null, expected, rtol=1e-4)
  assert fewer


def _search_query(memory, hidden_CxD):
  """[C, H, K]."""
  query = (hidden_CxD @ memory.wq[...]).reshape(-1, HEADS, HEAD_DIM)
  return query / jnp.linalg.norm(query, axis=-1, keepdims=True)


def test_planted_pairs_are_found_among_many():
  """From queries near to their keys; far fewer scores than slots."""
  slots, dim, chunk = 8192, 64, 64
  memory = make(
    dim, chunk, num_heads=4, head_dim=16, top_k=8, search="landmarks"
  )
  pairs = text(slots, dim=dim, valid=2.0)
  state = jax.jit(lambda pairs: written(memory, pairs))(pairs)
  rng = np.random.default_rng(2)
  at = rng.choice(np.arange(11, slots), 256, replace=False)
  asked = pairs.hidden_CxD[at]

  def right(noise):
    noise = noise * jnp.asarray(rng.normal(size=asked.shape), jnp.float32)
    read = jax.jit(memory.read)(state, asked + noise)
    first_C = jnp.argmax(read.log_prob_CxJ, axis=-1)
    token_C = read.token_CxJ[jnp.arange(len(at)), first_C]
    return np.mean(token_C == pairs.next_token_C[at])

  assert right(0.0) > 0.98
  assert right(0.3) > 0.9
  width = memory.config.probes * memory.config.cell
  assert width * 16 == slots


@pytest.mark.parametrize("how", [dict(block=8), dict(EVERYWHERE, probes=2)])
@pytest.mark.parametrize("read", episodic.Config.reads)
def test_gradients_by_finite_differences(read, how):
  """Of keys and queries through what was found, in float64."""
  with jax.enable_x64(True):
    to_64 = functools.partial(
      jax.tree.map,
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
    )
    graphdef, params = nnx.split(make(read=read, **how))
    pairs, params = to_64(text()), to_64(params)
    # Where scores tie, what is found changes.
    hidden = np.random.default_rng(3).normal(size=pairs.hidden_CxD.shape)

    def loss(params, hidden, asked):
      memory = nnx.merge(graphdef, params)
      state = to_64(memory.init_state(LENGTH))
      state = written(memory, pairs.replace(hidden_CxD=hidden), state)
      out = answer(memory, state, asked)
      return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    at = params, jnp.asarray(hidden), ASKED.astype(jnp.float64)
    loss = jax.jit(loss)
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*at)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), at)
    moved = [
      loss(*jax.tree.map(lambda x, d, h=h: x + h * d, at, way))
      for h in (1e-6, -1e-6)
    ]
    along = sum(
      jax.tree.leaves(jax.tree.map(lambda g, d: jnp.vdot(g, d), grads, way))
    )
    np.testing.assert_allclose(
      along, (moved[0] - moved[1]) / 2e-6, rtol=1e-5, atol=1e-7
    )
    assert abs(along) > 1e-3


def test_a_large_store_is_written_in_place():
  """A chunk is read and learned without a copy of what is stored."""
  experiment = tiny.experiment(
    "episodic", memory__capacity=2**15, memory__search="landmarks"
  )
  learner = build_learner(experiment, 30)
  graphdef, params = nnx.split(learner)

  def read(params, state, batch):
    learner = nnx.merge(graphdef, params)
    return read_on(learner, state, tokens_of(batch))[0]

  batch = {
    key: jax.ShapeDtypeStruct((1, experiment.chunk), dtype)
    for key, dtype in (
      ("tokens", jnp.int32),
      ("targets", jnp.int32),
      ("inner_weight", jnp.float32),
    )
  }
  state = jax.eval_shape(
    lambda: jax.tree.map(lambda x: x[None], learner.init_state(2**15))
  )
  program = jax.jit(read, donate_argnums=1).lower(params, state, batch)
  used = program.compile().memory_analysis().temp_size_in_bytes
  assert used < learner.state_bytes(2**15)["memory"] / 2
