"""Episodic memory against a softmax over a list of all pairs, in NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mattt_jax import config as settings
from mattt_jax.memory import _selection, episodic
from mattt_jax.memory.base import Pairs, ResidualRead
from mattt_jax.planning.cost_model import matmul_flops

DIM, CHUNK, VOCAB, HEADS, HEAD_DIM = 6, 4, 20, 2, 3


def make(**changes):
  fields = dict(
    num_heads=HEADS, head_dim=HEAD_DIM, top_k=0, null_bias=0.5, temperature=2.0
  )
  memory = episodic.Config(**fields | changes).make(DIM, CHUNK, nnx.Rngs(0))
  rng = np.random.default_rng(1)
  # Or they would be zero, or those of queries.
  changed = [memory.wk, memory.null_weight]
  if memory.config.score == "learned":
    changed += [memory.score_weight, memory.score_bias]
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
    surprise_C=rng.random(length).astype(np.float32),
    gradient_C=rng.random(length).astype(np.float32),
    relevant_C=rng.random(length) < 0.6,
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


def expected_pointer(memory, pairs, top_k=0, bias=0.0):
  """(null mass [C], distribution over tokens [C, V])."""
  score, null = scores(memory, pairs, ASKED)
  score = best(score.sum(0) + bias, top_k)
  mass = softmax(np.concatenate([null[:, None], score], axis=-1))
  if memory.config.pointer_gate == "sigmoid":
    null = 1 / (1 + np.exp(-null[:, None]))
    mass = np.concatenate([null, (1 - null) * softmax(score)], axis=-1)
  probs = np.zeros((len(ASKED), VOCAB))
  for slot, token in enumerate(pairs.next_token_C):
    probs[:, token] += mass[:, 1 + slot]
  return mass[:, 0], probs


def expected_residual(memory, pairs, top_k=0, bias=0.0):
  """[C, D]."""
  score, null = scores(memory, pairs, ASKED)
  null = np.broadcast_to(null[None, :, None], (*score.shape[:2], 1))
  score = best(score + bias, top_k)
  mass = softmax(np.concatenate([null, score], axis=-1))
  value = projected(pairs.value_CxD, memory.wv)
  out = np.einsum("hcm,mhk->chk", mass[..., 1:], value)
  gate = normed(memory, ASKED) @ memory.gate.weight[...]
  gate += memory.gate.bias[...]
  out = out.reshape(len(ASKED), -1) @ np.asarray(memory.wo[...])
  return out / (1 + np.exp(-np.asarray(gate)))[:, None]


def check(memory, state, pairs, top_k=0, bias=0.0):
  """The memory answers as if it held exactly `pairs`, with `bias` [M] added to
  their scores."""
  read = memory.read(state, jnp.asarray(ASKED))
  if memory.config.read == "residual":
    expected = expected_residual(memory, pairs, top_k, bias)
    np.testing.assert_allclose(read.output_CxD, expected, rtol=2e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1
    return
  null, probs = expected_pointer(memory, pairs, top_k, bias)
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


# What is kept: a list, which takes one pair at a time.


def hashed(position, token):
  """The "random" score, in Python integers."""
  x = (position * 0x9E3779B1 + token * 0x85EBCA77) % 2**32
  x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
  x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
  return ((x ^ (x >> 16)) >> 8) / 2**24


def pair_scores(memory, pairs):
  """[L], by the name of the score."""
  name = memory.config.score
  if name == "learned":
    score = normed(memory, pairs.hidden_CxD) @ memory.score_weight[...]
    return np.asarray(score + memory.score_bias[...])
  tokens = pairs.next_token_C.tolist()
  return {
    "recency": np.arange(len(tokens)),
    "surprise": pairs.surprise_C,
    "gradient": pairs.gradient_C,
    "random": np.asarray([hashed(i, t) for i, t in enumerate(tokens)]),
    "oracle": pairs.relevant_C.astype(float),
  }[name]


def kept(config, score, valid, slots):
  """Indices of the pairs that are left in `slots` slots."""
  held = [None] * slots
  for start in range(0, len(valid), CHUNK):
    offered = [i if valid[i] else None for i in range(start, start + CHUNK)]
    if config.write_top:
      real = [i for i in offered if i is not None]
      offered = sorted(real, key=lambda i: -score[i])[: config.write_top]
      offered += [None] * (config.write_top - len(offered))
    first = start // CHUNK * len(offered)
    for place, i in enumerate(offered):
      if i is None:
        continue
      if config.policy == "ring":
        held[(first + place) % slots] = i
      elif None in held:
        held[held.index(None)] = i
      else:
        worst = min(held, key=lambda j: score[j])
        if score[i] > score[worst]:
          held[held.index(worst)] = i
  return sorted(i for i in held if i is not None)


SCORED = dict(policy="score", capacity=2 * CHUNK)
KEPT = [
  *(dict(SCORED, score=score) for score in _selection.SCORES),
  dict(SCORED, score="learned", read="residual"),
  dict(SCORED, score="surprise", write_top=2, capacity=6, read="residual"),
  dict(SCORED, score="surprise", write_top=3, capacity=6, top_k=4),
  *(dict(write_top=2, score=score) for score in _selection.SCORES),
  dict(write_top=3, score="gradient", capacity=9, read="residual"),
  dict(write_top=1, score="recency", capacity=3),
  dict(write_top=CHUNK, score="surprise", capacity=8),
  dict(score="learned", capacity=2 * CHUNK),
]


@pytest.mark.parametrize(
  "changes", KEPT, ids=lambda c: "-".join(str(x) for x in c.values())
)
def test_what_is_kept(changes):
  memory = make(**changes)
  pairs = text(6 * CHUNK, seed=2)
  pairs.valid_C[-2 * CHUNK : -CHUNK] = False  # a chunk of padding
  slots = changes.get("capacity") or 6 * changes["write_top"]
  score = pair_scores(memory, pairs)
  at = kept(memory.config, score, pairs.valid_C, slots)
  assert len(at) < pairs.valid_C.sum()  # something was dropped
  state = write_all(memory, pairs)
  assert state.valid_M.shape == (slots,)
  bias = 0.0
  if memory.config.score == "learned":
    bias = -np.log1p(np.exp(-score[at]))
  check(memory, state, rows(pairs, at), changes.get("top_k", 0), bias)


def test_a_random_score_samples_evenly():
  pairs = text(4096).replace(next_token_C=np.zeros(4096, np.int32))
  score = np.asarray(_selection.fixed_score("random", pairs, 0))
  assert 0 <= score.min() and score.max() < 1
  best = np.argsort(score)[-512:]
  assert np.abs(np.histogram(best, 8, (0, 4096))[0] - 64).max() < 32
  np.testing.assert_allclose(score.mean(), 0.5, atol=0.02)
  later = _selection.fixed_score("random", rows(pairs, slice(100, 104)), 100)
  np.testing.assert_array_equal(later, score[100:104])


# How it is read.


@pytest.mark.parametrize("gate", ["null", "sigmoid"])
@pytest.mark.parametrize("changes", [{}, dict(top_k=4), dict(capacity=8)])
def test_the_newest_match_takes_most(gate, changes):
  """One candidate after another, from the newest to the oldest."""
  plain = make(pointer_gate=gate, **changes)
  memory = make(pointer_gate=gate, latest_wins=True, **changes)
  memory.log_sharpness[...], memory.margin[...] = np.log(1.5), 0.7
  pairs = text(4 * CHUNK)
  before, after = (
    m.read(write_all(m, pairs), jnp.asarray(ASKED)) for m in (plain, memory)
  )
  np.testing.assert_array_equal(after.log_null_C, before.log_null_C)
  np.testing.assert_array_equal(after.token_CxJ, before.token_CxJ)
  at = np.arange(4 * CHUNK)[-changes.get("capacity", 4 * CHUNK) :]
  score_CxM = scores(memory, rows(pairs, at), ASKED)[0].sum(0)
  share_CxM = np.where(pairs.valid_C[at], softmax(score_CxM), 0)
  if "top_k" in changes:
    score_CxM[~pairs.valid_C[at][None].repeat(len(ASKED), 0)] = -np.inf
    share_CxM[best(score_CxM, 4) == -np.inf] = 0
  for c, share_M in enumerate(share_CxM):
    best_score, left = score_CxM[c][share_M > 0].max(), 1.0
    kept_M = np.zeros(len(at))
    for j in reversed(range(len(at))):
      if share_M[j]:
        kept_M[j] = share_M[j] * left
        match = 1.5 * (score_CxM[c, j] - best_score) + 0.7
        left *= 1 - 1 / (1 + np.exp(-match))
    kept_M *= (1 - np.exp(after.log_null_C[c])) / kept_M.sum()
    probs = np.zeros(VOCAB)
    np.add.at(probs, pairs.next_token_C[at], kept_M)
    got = np.zeros(VOCAB)
    np.add.at(got, after.token_CxJ[c], np.exp(after.log_prob_CxJ[c]))
    np.testing.assert_allclose(got, probs, rtol=1e-4, atol=1e-6)


def test_of_two_bindings_of_a_key_the_last_one_wins():
  pairs = text(3 * CHUNK).replace(valid_C=np.ones(3 * CHUNK, bool))
  first, last = 1, 9
  pairs.hidden_CxD[last] = pairs.hidden_CxD[first]
  pairs.next_token_C[[first, last]] = 18, 19
  asked = jnp.asarray(pairs.hidden_CxD[[first]])

  def weights(**changes):
    memory = make(temperature=20.0, **changes)
    if changes:
      memory.margin[...] = 5.0
    read = memory.read(write_all(memory, pairs), asked)
    return np.exp(read.log_prob_CxJ[0])[[first, last]]

  np.testing.assert_allclose(*weights(), rtol=1e-6)
  old, new = weights(latest_wins=True)
  # So much is left by a match of margin 5.
  np.testing.assert_allclose(old / new, 1 / (1 + np.exp(5.0)), rtol=1e-4)


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_rekey_reads_with_the_current_projection(read):
  pairs = text()
  valid = rows(pairs, pairs.valid_C)
  for rekey in (False, True):
    memory = make(read=read, rekey=rekey)
    state = write_all(memory, pairs)
    check(memory, state, valid)
    memory.wk[...] = memory.wk[...][::-1]
    if rekey:
      check(memory, state, valid)
    else:
      with pytest.raises(AssertionError):
        check(memory, state, valid)


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_gate_of_its_own(top_k):
  memory = make(pointer_gate="sigmoid", top_k=top_k)
  pairs = text()
  state = write_all(memory, pairs.replace(valid_C=0 * pairs.valid_C > 0))
  read = memory.read(state, jnp.asarray(ASKED))
  np.testing.assert_array_equal(np.exp(read.log_null_C), 1)
  np.testing.assert_array_equal(np.exp(read.log_prob_CxJ), 0)
  check(memory, write_all(memory, pairs), rows(pairs, pairs.valid_C), top_k)


def answers(memory, state):
  return jax.tree.leaves(memory.read(state, jnp.asarray(ASKED)))


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_blocks_and_approximate_search_find_the_same(read):
  """Also where scores tie, and where a block has fewer slots than top_k."""
  pairs = text(4 * CHUNK)
  pairs.hidden_CxD[5:13] = pairs.hidden_CxD[5]
  for top_k in (3, 6):
    memory = make(read=read, top_k=top_k)
    state = write_all(memory, pairs)
    whole = answers(memory, state)
    for other in (
      dict(shards=4), dict(search="approx"), dict(shards=2, search="approx"),
    ):  # fmt: skip
      found = answers(make(read=read, top_k=top_k, **other), state)
      for a, b in zip(whole, found, strict=True):
        if "search" in other:  # ties may fall otherwise
          a, b = np.sort(a, axis=-1), np.sort(b, axis=-1)
          np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
          np.testing.assert_array_equal(a, b)


def gathered(program):
  """Elements of the largest array that any all-gather of an HLO makes."""
  found = [0]
  for line in program.splitlines():
    made, is_one, _ = line.partition(" all-gather")
    if is_one and "=" in made:
      for dims in re.findall(r"\[([\d,]*)\]", made.split("=", 1)[1]):
        found.append(np.prod([int(n) for n in dims.split(",") if n]))
  return max(found)


@pytest.mark.parametrize("read", episodic.Config.reads)
def test_slots_split_over_devices(read):
  """Only candidates travel: neither keys nor all the scores."""
  devices, top_k, slots = 8, 2, 64 * CHUNK
  mesh = jax.make_mesh((devices,), ("slots",), axis_types=(AxisType.Auto,))
  pairs = text(slots)

  def place(x):
    axes = ["slots" if n == slots else None for n in x.shape]
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

  whole = make(read=read, top_k=top_k)
  state = write_all(whole, pairs)
  expected = answers(whole, state)
  split = jax.tree.map(place, state)
  asked = jax.device_put(ASKED, NamedSharding(mesh, PartitionSpec()))
  moved = {}
  for shards in (1, devices):
    graphdef, params = nnx.split(make(read=read, top_k=top_k, shards=shards))
    params = jax.tree.map(place, params)

    def answer(params, state, asked, graphdef=graphdef):
      return nnx.merge(graphdef, params).read(state, asked)

    compiled = jax.jit(answer).lower(params, split, asked).compile()
    found = jax.tree.leaves(compiled(params, split, asked))
    for a, b in zip(expected, found, strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    moved[shards] = gathered(compiled.as_text())
  heads = HEADS if read == "residual" else 1
  assert moved[devices] <= heads * len(ASKED) * devices * top_k
  assert moved[1] >= heads * len(ASKED) * slots  # what blocks save


# Gradients and costs.

EVERYTHING = dict(
  policy="score", score="learned", capacity=8, write_top=2, top_k=4, shards=2,
  search="approx", rekey=True,
)  # fmt: skip

LANDMARKS = dict(search="landmarks", head_dim=4, top_k=3, probes=2, cell=6)


def summed(read):
  out = read
  if isinstance(read, ResidualRead):
    out = read.output_CxD
  else:
    out = jnp.exp(
      jnp.concatenate([read.log_prob_CxJ, read.log_null_C[:, None]], 1)
    )
  return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))


@pytest.mark.parametrize(
  "changes",
  [
    dict(read="residual", **EVERYTHING),
    dict(pointer_gate="sigmoid", latest_wins=True, **EVERYTHING),
    dict(top_k=3, shards=2, write_top=2, capacity=6),
    dict(top_k=3, block=5),
  ],
)
def test_first_and_second_derivatives(changes):
  """Finite also with nothing stored and zero inputs; all parameters get one."""
  graphdef, params = nnx.split(make(**changes))
  pairs = jax.tree.map(jnp.asarray, text(seed=7))
  chunks = [rows(pairs, slice(i, i + CHUNK)) for i in (0, 4, 8)]

  def loss(params, hidden, valid, asked):
    memory = nnx.merge(graphdef, params)
    state, total = memory.init_state(3 * CHUNK), 0.0
    for chunk in chunks:
      chunk = chunk.replace(
        hidden_CxD=hidden * chunk.hidden_CxD, valid_C=valid & chunk.valid_C
      )
      total += summed(memory.read(state, asked))
      state = memory.write(state, chunk)
    return total + summed(memory.read(state, asked))

  def squared(*args):
    grads = jax.grad(loss)(*args)
    return sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))

  both = jax.jit(
    lambda *args: (jax.grad(loss)(*args), jax.grad(squared)(*args))
  )
  valid = np.ones(CHUNK, bool)
  for order in both(params, 1.0, valid, jnp.asarray(ASKED)):
    for path, g in nnx.to_flat_state(order):
      assert np.isfinite(g[...]).all() and np.abs(g[...]).max() > 1e-7, path
  for worst in ((1.0, ~valid, ASKED), (0.0, valid, 0 * ASKED)):
    for g in jax.tree.leaves(both(params, *worst)):
      assert np.isfinite(g).all()


@pytest.mark.parametrize(
  "stop, rekey", [(False, False), (True, False), (True, True)]
)
def test_stored_pairs_may_be_detached(stop, rekey):
  """Of the past network; the memory's own projections still learn."""
  memory = make(read="residual", stop_gradient_keys=stop, rekey=rekey)
  graphdef, params = nnx.split(memory)
  chunk = rows(text(), slice(0, CHUNK))

  def loss(params, scale):
    memory = nnx.merge(graphdef, params)
    pairs = chunk.replace(
      hidden_CxD=chunk.hidden_CxD + scale * chunk.value_CxD,
      value_CxD=scale * chunk.value_CxD,
    )
    state = memory.write(memory.init_state(CHUNK), pairs)
    return summed(memory.read(state, jnp.asarray(ASKED)))

  grads, into_past = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, 1.0)
  assert into_past == 0 if stop else abs(into_past) > 1e-3
  for name in ("wk", "wv"):
    assert np.abs(grads[name][...]).max() > 1e-4


@pytest.mark.parametrize(
  "changes",
  [
    dict(top_k=4), dict(read="residual", top_k=0), dict(read="residual"),
    dict(rekey=True), EVERYTHING, dict(EVERYTHING, read="residual"),
    dict(top_k=3, block=8, score_dtype="bfloat16"),
    dict(top_k=3, score_dtype="bfloat16", read="residual", rekey=True),
    dict(LANDMARKS), dict(LANDMARKS, read="residual", write_top=2),
  ],
)  # fmt: skip
def test_flops(changes):
  memory = make(**changes)
  chunk = rows(text(), slice(0, CHUNK))
  state = memory.init_state(5 * CHUNK)
  total = matmul_flops(memory.read, state, chunk.hidden_CxD)
  total += matmul_flops(memory.write, state, chunk)
  assert memory.flops_per_token(5 * CHUNK) == total / CHUNK


def test_state_holds_what_the_settings_need():
  slots = 2 * CHUNK
  bare = make(capacity=slots).state_bytes(10)

  def more(**changes):
    return make(capacity=slots, **changes).state_bytes(10) - bare

  assert more(policy="score", score="surprise") == 4 * slots
  assert more(score="learned") == 4 * slots
  assert more(latest_wins=True) == 4 * slots
  assert more(rekey=True) == 4 * slots * (DIM - HEADS * HEAD_DIM)
  assert more(stop_gradient_keys=True, search="approx", top_k=2) == 0
  # With top_k=2, of one search 2 x 2 landmarks of 3, 4 counts, 4 cells of 8
  # places and the place of each slot; and a counter.
  index = 4 * (2 * 2 * 3 + 4 + 4 * 8 + slots + 1)
  landmarks = dict(search="landmarks", cell=8, head_dim=3, top_k=2)
  assert more(**landmarks) == index
  # An index of no more slots than are read would do nothing.
  assert more(**landmarks | dict(top_k=slots)) == 0
  assert make(write_top=3).init_state(5 * CHUNK).valid_M.shape == (15,)
  with pytest.raises(ValueError, match="shards=7 must .* 12 at 9 tokens"):
    make(top_k=2, shards=7).init_state(9)


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(policy="lru"), "policy='lru' is not known: use one of ring, score"),
    (dict(score="luck"), "memory.score='luck' is not known"),
    (dict(search="fast"), "memory.search='fast' is not known"),
    (dict(pointer_gate="tanh"), "pointer_gate='tanh' .* null, sigmoid"),
    (dict(write_top=33), "write_top=33 must be <= chunk=32"),
    (dict(write_top=-1), "write_top=-1 must be at least 0"),
    (dict(write_top=3, capacity=32), "capacity=32 .* multiple of write_top=3"),
    (dict(capacity=32, top_k=33), "top_k=33 must be <= memory.capacity=32"),
    (dict(shards=0), "memory.shards=0 must be at least 1"),
    (dict(shards=3), "memory.shards=3 .* is 256 at 256 tokens"),
    (dict(capacity=96, shards=5), "memory.shards=5 .* which is 96"),
    (dict(read="residual", latest_wins=True), "latest_wins=True needs memory"),
    (dict(policy="score"), "memory.capacity=0 forgets nothing: set a"),
    (dict(score="surprise"), "score='surprise' decides nothing: set memory.p"),
    (dict(top_k=0, shards=2), "top_k=0 reads all slots.*shards=2 would do no"),
    (dict(top_k=0, search="approx"), "memory.search='approx' would do nothing"),
    (dict(top_k=0, block=8), "memory.block=8 would do nothing: set memory.top"),
    (dict(block=-1), "memory.block=-1 must be at least 0"),
    (dict(probes=0), "memory.probes=0 must be at least 1"),
    (dict(cell=0), "memory.cell=0 must be at least 1"),
    (dict(recall_target=1.5), r"recall_target=1.5 must lie in \(0, 1\]"),
    (dict(score_dtype="int8"), "memory.score_dtype='int8' is not known"),
    (dict(shards=2, block=64), r"use memory.block=0 \(is 64\)"),
    (dict(shards=2, score_dtype="bfloat16"), r"\(is 'bfloat16'\)"),
    (dict(search="landmarks", shards=2), "shards=2 does not go with .*use 1"),
    (dict(search="landmarks", block=8), "block=8 does not go with .*use 0"),
    (dict(search="landmarks", rekey=True), "rekey=True does not .*use False"),
    (dict(search="landmarks", head_dim=5), "head_dim=5 must be even"),
    (
      dict(search="landmarks", probes=2, cell=8),
      "top_k=32 must be <= memory.probes=2 x memory.cell=8 = 16",
    ),
    (dict(read="residual", feed=True), "feed=True needs memory.read='pointer'"),
    (dict(read="residual", pointer_gate="sigmoid"), "pointer_gate='sigmoid' n"),
  ],
)  # fmt: skip
def test_settings_that_do_not_fit(changes, error):
  tree = settings.template("associative_recall", "episodic")
  assert tree.length == 256 and tree.chunk == 32
  tree.memory.update(changes)
  with pytest.raises(ValueError, match=error):
    settings.from_config_dict(tree)


def test_shards_fit_every_length():
  tree = settings.template("associative_recall", "episodic")
  tree.memory.update(shards=4, write_top=2)
  tree.eval.lengths = (512,)
  settings.from_config_dict(tree)
  tree.eval.lengths = (512, 544)
  with pytest.raises(ValueError, match="shards=4 .* is 34 at 544 tokens"):
    settings.from_config_dict(tree)
