"""Retrieval in context, against hand-made sequences read by the transformer."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bm25 import BM25
from flax import nnx

from mattt_jax import config
from mattt_jax.devices import meshes
from mattt_jax.learners.build import build_learner
from mattt_jax.model.transformer import Cache
from mattt_jax.planning import cost_model
from mattt_jax.training import trainer
from mattt_jax.ttt.tokens import make_tokens

VOCAB, CHUNK, WINDOW, LENGTH = 24, 4, 7, 32
LOCAL = 8  # WINDOW in whole chunks
BM25_ALONE = dict(learner__retriever="bm25")


def settings(**changes):
  tree = config.template("associative_recall", learner="rag")
  tree.update({"length": LENGTH, "chunk": CHUNK, "batch_size": 2})
  tree.inner.enabled = False
  tree.model.update(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=10,
    fast_mlp_dim=6, window=WINDOW, init_std=0.3,
  )  # fmt: skip
  tree.task.update(num_keys=4, num_values=4, num_fillers=4)
  tree.task.update(num_pairs=1, num_queries=1)
  tree.learner.query_tokens = 3
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def make(**changes):
  return build_learner(settings(**changes), VOCAB)


def text(seed=0, length=LENGTH):
  tokens = np.random.default_rng(seed).integers(0, VOCAB, length + 1)
  tokens = tokens.astype(np.int32)
  return tokens[:-1], tokens[1:]


def read(learner, tokens, targets, weight=None):
  graphdef, params = nnx.split(learner)
  if weight is None:
    weight = np.ones(len(tokens), np.float32)
  return _read(graphdef, params, tokens, targets, weight)


@functools.partial(jax.jit, static_argnums=0)
def _read(graphdef, params, tokens, targets, weight):
  return nnx.merge(graphdef, params).read_whole(
    make_tokens(tokens, targets, weight)
  )


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, tokens):
  model = nnx.merge(graphdef, params)
  x, cache = model.read_prefix(tokens, Cache(None, None), 0)
  return model.logits(model.forward(x, cache, None, 0))


def unit(x):
  return x / np.linalg.norm(x)


def neighbours(learner, tokens, at, weight, top_k, query_tokens):
  """Starts of the far chunks most like what is before `at`, best first."""
  table = np.asarray(learner.model.embedding[...])
  valid = weight > 0

  def embed(span):
    return unit(table[tokens[span][valid[span]]].mean(0))

  query = embed(slice(at - query_tokens, at))
  starts = [
    s
    for s in range(0, at - LOCAL, CHUNK)
    if s + CHUNK <= at - LOCAL and valid[s : s + CHUNK].any()
  ]
  score = [query @ embed(slice(s, s + CHUNK)) for s in starts]
  return [starts[i] for i in np.argsort(score)[::-1][:top_k]]


def by_hand(learner, tokens, targets, weight, top_k, query_tokens=3):
  """Each chunk behind tokens that are there, and nothing else."""
  graphdef, params = nnx.split(learner.model)
  losses = []
  for at in range(0, len(tokens), CHUNK):
    parts = [tokens[max(0, at - LOCAL) : at + CHUNK]]
    if at > LOCAL and top_k:
      for s in neighbours(learner, tokens, at, weight, top_k, query_tokens):
        parts.insert(0, tokens[s : s + CHUNK])
    logits = _logits(graphdef, params, np.concatenate(parts))[-CHUNK:]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    losses.append(-log_p[np.arange(CHUNK), targets[at : at + CHUNK]])
  return np.array(losses)


@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_each_chunk_is_read_behind_what_resembles_the_last_tokens(top_k):
  learner = make(learner__top_k=top_k)
  tokens, targets = text()
  expected = by_hand(learner, tokens, targets, np.ones(LENGTH), top_k)
  out = read(learner, tokens, targets)
  np.testing.assert_allclose(out.loss_C, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.inner_loss, expected.mean(1), rtol=1e-4)
  if top_k:  # and it does matter
    local = by_hand(learner, tokens, targets, np.ones(LENGTH), 0)
    far = LOCAL // CHUNK + 1
    np.testing.assert_allclose(expected[:far], local[:far], rtol=1e-6)
    assert np.abs(expected[far:] - local[far:]).min(1).max() > 1e-4


def test_padding_is_not_retrieved():
  learner = make(learner__top_k=2)
  tokens, targets = text(1)
  weight = np.ones(LENGTH, np.float32)
  weight[CHUNK : 2 * CHUNK] = 0  # a whole chunk
  weight[2 * CHUNK + 1 : 2 * CHUNK + 3] = 0  # half a chunk: no vote
  expected = by_hand(learner, tokens, targets, weight, 2)
  out = read(learner, tokens, targets, weight)
  np.testing.assert_allclose(out.loss_C, expected, rtol=1e-4, atol=1e-5)
  whole = by_hand(learner, tokens, targets, np.ones(LENGTH), 2)
  assert not np.allclose(expected, whole)


def fronts(learner, tokens):
  """What each chunk is read behind: (tokens, of which so many are missing)."""
  past, out = learner.init_past(len(tokens)), []
  in_front, keep = nnx.jit(type(learner).in_front), nnx.jit(type(learner).keep)
  for at in range(0, len(tokens), CHUNK):
    out.append(jax.tree.map(np.asarray, in_front(learner, past)))
    past = keep(
      learner, past, tokens[at : at + CHUNK], jnp.ones((CHUNK,), bool)
    )
  return out


@pytest.mark.parametrize(
  "how", [dict(learner__embedding="random"), {}, BM25_ALONE]
)
def test_a_planted_chunk_is_found(how):
  """The last tokens before a chunk occur, in another order, far back."""
  learner = make(learner__top_k=1, **how)
  tokens = np.random.default_rng(5).integers(0, 12, 64).astype(np.int32)
  planted = np.array([20, 21, 22, 23], np.int32)
  tokens[8:12] = planted  # chunk 2
  tokens[53:56] = [22, 20, 23]  # asks for chunk 14
  front, missing = fronts(learner, tokens)[14]
  np.testing.assert_array_equal(front, np.r_[planted, tokens[48:56]])
  assert missing == 0


def test_in_front_is_the_past_alone():
  learner = make(learner__top_k=2)
  tokens, _ = text(2)
  got = fronts(learner, tokens)
  assert [int(missing) for _, missing in got[:5]] == [16, 12, 8, 4, 0]
  for i, (front, missing) in enumerate(got):
    there = front[missing:]
    at = i * CHUNK
    local = min(LOCAL, at)
    np.testing.assert_array_equal(there[-local:] if i else there,
                                  tokens[at - local : at])  # fmt: skip
    far = tokens[: max(0, at - LOCAL)].reshape(-1, CHUNK).tolist()
    for chunk in there[: len(there) - local].reshape(-1, CHUNK).tolist():
      assert chunk in far


@pytest.mark.parametrize("ngram, table_size", [(1, VOCAB), (2, 60_000)])
def test_scores_are_those_of_bm25(ngram, table_size):
  """Before each chunk, of the chunks that are far by then and of no other."""
  learner = make(
    **BM25_ALONE, learner__ngram=ngram, learner__table_size=table_size
  )
  tokens = np.random.default_rng(7).integers(0, 6, 64)  # that words repeat
  tokens[20:24] = VOCAB - 1  # one word, several times
  valid = np.ones(64, bool)
  valid[[9, 30]] = valid[12:16] = False  # two tokens, and a whole chunk

  def text(at, end):  # what has a word in it for every whole n-gram
    return " ".join(
      "x".join(map(str, tokens[i : i + ngram]))
      for i in range(at, end - ngram + 1)
      if valid[i : i + ngram].all()
    )

  keep, scores = (
    nnx.jit(getattr(type(learner), f)) for f in ("keep", "scores")
  )
  past, matched = learner.init_past(64), 0
  for at in range(0, 64, CHUNK):
    found = scores(learner, past.far, past.token_W[-3:], past.valid_W[-3:])
    starts = range(0, at - LOCAL, CHUNK)
    starts = [s for s in starts if valid[s : s + CHUNK].any()]
    assert not np.any(found[len(starts) :])
    if starts:
      expected = BM25([text(s, s + CHUNK) for s in starts]).scores(
        text(at - 3, at)
      )
      np.testing.assert_allclose(found[: len(starts)], expected, rtol=1e-5)
      matched += np.count_nonzero(expected)
    chunk = slice(at, at + CHUNK)
    past = keep(learner, past, tokens[chunk], valid[chunk])
  assert matched > 5


def test_words_of_one_column_are_one_word():
  learner = make(**BM25_ALONE, learner__table_size=5)
  count = learner.embed(jnp.array([3, 8, 4, 23]), jnp.ones(4, bool))
  np.testing.assert_array_equal(count, [0, 0, 0, 3, 1])


@pytest.mark.parametrize("how", [{}, BM25_ALONE])
def test_no_loss_looks_ahead(how):
  """Later tokens change no earlier loss: neither as text nor as a query."""
  learner = make(learner__top_k=2, **how)
  tokens, targets = text(3)
  base = np.ravel(read(learner, tokens, targets).loss_C)
  for at in range(0, LENGTH, 3):
    other = tokens.copy()
    other[at:] = (other[at:] + 1 + np.arange(LENGTH - at) % 7) % VOCAB
    changed = np.ravel(read(learner, other, targets).loss_C)
    np.testing.assert_array_equal(changed[:at], base[:at])
    assert not np.allclose(changed[at:], base[at:])


def test_gradients_follow_what_was_put_in_front():
  """d loss of a chunk / d embeddings: those in front of it, and no others.

  Every position has a token of its own, so that an embedding is a position.
  """
  learner = build_learner(
    settings(learner__top_k=1, model__tie_embeddings=False), LENGTH
  )
  tokens = np.random.default_rng(6).permutation(LENGTH).astype(np.int32)
  targets = np.roll(tokens, -1)
  graphdef, params = nnx.split(learner)

  @jax.jit
  def jacobian(params):
    def losses(params):
      learner = nnx.merge(graphdef, params)
      return learner.read_whole(make_tokens(tokens, targets)).loss_C

    return jax.jacrev(losses)(params)["model"]["embedding"][...]

  moved = np.abs(np.asarray(jacobian(params))).max(-1) > 0  # [n, C, V]
  seen = fronts(learner, tokens)
  for i in range(LENGTH // CHUNK):
    front, missing = seen[i]
    for j in range(CHUNK):
      at = i * CHUNK
      expected = {*front[missing:].tolist(), *tokens[at : at + j + 1].tolist()}
      assert set(np.flatnonzero(moved[i, j]).tolist()) == expected


def test_bytes_are_of_what_is_carried():
  learner = make(learner__top_k=2)
  for length, far in ((64, 14), (10, 2)):  # room for top_k at least
    size = learner.state_bytes(length)
    # Of a chunk: an embedding; of a token: an id and a flag.
    assert size["memory"] == far * (4 * 8 + CHUNK * 5) + 4
    assert size["cache"] == LOCAL * 5 + 4
    assert sum(size.values()) == size["memory"] + size["cache"]
  assert make(learner__top_k=0).state_bytes(64)["memory"] == 0
  words = make(**BM25_ALONE, learner__table_size=50).state_bytes(64)
  assert words["memory"] == 14 * (4 * 50 + CHUNK * 5) + 4  # of it, counts


def test_flops_of_the_search():
  """A product with D numbers of each chunk, or with its asked words."""
  flops = [
    cost_model.flops_per_token(settings(**how), VOCAB) * LENGTH
    for how in ({}, BM25_ALONE)
  ]
  chunks = LENGTH // CHUNK
  far = chunks - LOCAL // CHUNK
  assert flops[0] - flops[1] == chunks * 2 * far * (8 - 3)


def test_it_trains_and_is_evaluated(tmp_path):
  experiment = settings(
    train__steps=2, train__log_every=1, eval__sequences=2, eval__batch_size=2,
    outer__warmup_steps=1, model__window=4, eval__lengths=(LENGTH,),
  )  # fmt: skip
  result = trainer.train(experiment, tmp_path, mesh=meshes.make_mesh(1))
  assert result["step"] == 2
  assert result["evaluation"]["lengths"][str(LENGTH)]["loss"] > 0
  assert json.loads((tmp_path / "config.json").read_text())["learner"] == {
    "name": "rag", "top_k": 2, "query_tokens": 3, "retriever": "embedding",
    "embedding": "token", "ngram": 1, "table_size": 1024,
  }  # fmt: skip


def test_it_does_not_stream():
  with pytest.raises(ValueError, match="rag reads whole sequences only"):
    make().init_state(LENGTH)


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(learner__top_k=-1), "learner.top_k=-1 must be at least 0"),
    (dict(learner__query_tokens=0), "learner.query_tokens=0 must be at l"),
    (dict(learner__query_tokens=9), "query_tokens=9 must be <= 8, the local"),
    (dict(learner__embedding="bert"), "learner.embedding='bert' is not"),
    (dict(learner__retriever="bm52"), "learner.retriever='bm52' is not"),
    (dict(learner__table_size=0), "learner.table_size=0 must be at least 1"),
    (dict(learner__ngram=0), "learner.ngram=0 must be at least 1"),
    (dict(learner__ngram=2), "ngram=2 does nothing with .*'embedding': use 1"),
    (dict(**BM25_ALONE, learner__embedding="random"), "'random' does nothing"),
    (dict(**BM25_ALONE, learner__ngram=4), "must be <= learner.query_tokens"),
    (
      dict(**BM25_ALONE, learner__ngram=5, learner__query_tokens=5),
      "learner.ngram=5 must be <= chunk=4",
    ),
    (dict(inner__enabled=True), "inner.enabled=True, but learner rag"),
    (dict(model__attention="full"), "model.attention='full' leaves learner"),
    (dict(model__suffix_mixer="gated_delta"), "suffix_mixer='gated_delta' doe"),
  ],
)
def test_settings_that_do_not_fit(changes, error):
  with pytest.raises(ValueError, match=error):
    settings(**changes)


def test_a_memory_beside_it_is_refused():
  tree = config.template("associative_recall", "episodic", "rag")
  tree.inner.enabled = False
  with pytest.raises(ValueError, match="use memory=none"):
    config.from_config_dict(tree)


def test_a_length_that_chunks_do_not_divide():
  tokens, targets = text(length=LENGTH - 1)
  with pytest.raises(ValueError, match="chunk=4 must divide length=31"):
    read(make(), tokens, targets)
