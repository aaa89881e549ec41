"""A retrieval-augmented transformer: past chunks, as tokens, in front.

The whole transformer reads every chunk in one causal pass over

    | R retrieved chunks, the best one last | local window | chunk |

with full attention; only tokens are carried over. This is retrieval in context
(2302.00083, its stride the chunk) inside one context, trained end to end.
Candidates are the chunks that have left the local window. The query is the last
tokens BEFORE the chunk: one made of the chunk would betray its later tokens to
its earlier ones. The search has no parameters and no gradient: it compares
means of token vectors, or shared words by BM25 (data/bm25.py).

Shapes: L tokens, C chunk, W local window, R = top_k, D model, S = R C + W + C,
N far chunks, E = D numbers of an embedding, or columns of a table of words.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require_chunked
from mattt_jax.layers.norms import unit
from mattt_jax.learners import _bm25
from mattt_jax.learners._whole import WholeReader
from mattt_jax.learners.base import BaseConfig
from mattt_jax.memory import chunk_store
from mattt_jax.model.transformer import Cache, Transformer
from mattt_jax.recompute import recomputed
from mattt_jax.strict import require, require_at_least, require_choice
from mattt_jax.ttt.inner_loop import make_learner
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL
from mattt_jax.ttt.tokens import ChunkOutput, Tokens, in_chunks, weighted_mean

# Each retriever's own settings, which do nothing with the other.
_OWN = {"embedding": ("embedding",), "bm25": ("ngram", "table_size")}


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings; `model.window`, rounded up to whole chunks, is the local window
  (a token sees it whole, and what is before it in its chunk)."""

  top_k: int = 2  # chunks retrieved; 0: none, the local window alone
  query_tokens: int = 8  # the last tokens before a chunk, which ask for it
  retriever: str = "embedding"  # or "bm25"
  # Vectors of tokens, of which chunks and queries are means: "token", the
  # transformer's, which move in training, or "random" ones, which never do.
  embedding: str = "token"
  ngram: int = 1  # tokens of a word of BM25; where tokens are bytes, more
  # Counts that BM25 keeps of a chunk: words are hashed into so many columns.
  table_size: int = 1024

  def __post_init__(self):
    require_at_least("learner.top_k", self.top_k, 0)
    for field in ("query_tokens", "ngram", "table_size"):
      require_at_least(f"learner.{field}", getattr(self, field), 1)
    require_choice("learner.retriever", self.retriever, tuple(_OWN))
    require_choice("learner.embedding", self.embedding, ("token", "random"))
    for retriever, fields in _OWN.items():
      for field in fields:
        value, default = getattr(self, field), getattr(Config, field)
        require(
          self.retriever == retriever or value == default,
          f"learner.{field}={value!r} does nothing with learner.retriever="
          f"{self.retriever!r}: use {default!r}, or retriever={retriever!r}",
        )
    require(
      self.ngram <= self.query_tokens,
      f"learner.ngram={self.ngram} must be <= learner.query_tokens="
      f"{self.query_tokens}, which ask",
    )

  def make(self, experiment, vocab_size):
    """The transformer of the experiment, read as above."""
    model = Transformer(
      dataclasses.replace(experiment.model, attention="full"),
      vocab_size,
      experiment.memory,
      experiment.chunk,
      nnx.Rngs(experiment.seed),
    )
    built = make_learner(model, experiment.inner, experiment.chunk)
    return RAG(built, self, _local(experiment))

  def check(self, experiment) -> None:
    """Raises `ValueError` for settings that this learner would not obey."""
    require(
      not experiment.inner.enabled,
      "inner.enabled=True, but learner rag learns nothing while it reads: use "
      "inner.enabled=False",
    )
    require(
      experiment.memory.read is None,
      "learner rag has no memory but past tokens: use memory=none",
    )
    require(
      experiment.model.attention == "window",
      f"model.attention={experiment.model.attention!r} leaves learner rag "
      "nothing to retrieve: use 'window'",
    )
    # A recurrence would read the places of missing chunks.
    require(
      experiment.model.suffix_mixer == "attention",
      f"model.suffix_mixer={experiment.model.suffix_mixer!r} does not go with "
      "learner rag: use 'attention'",
    )
    require(
      self.ngram <= experiment.chunk,
      f"learner.ngram={self.ngram} must be <= chunk={experiment.chunk}, the "
      "tokens that words are made of",
    )
    local = _local(experiment)
    require(
      self.query_tokens <= local,
      f"learner.query_tokens={self.query_tokens} must be <= {local}, the "
      f"local window (model.window={experiment.model.window} in whole chunks "
      f"of {experiment.chunk})",
    )


def _local(experiment) -> int:
  """Tokens of the local window."""
  chunk = experiment.chunk
  return math.ceil(experiment.model.window / chunk) * chunk


@struct.dataclass
class Past:
  """The tokens that are carried from chunk to chunk, in one of two places."""

  far: chunk_store.Chunks | None  # chunks that left the window
  token_W: Array  # int32, the window, its last token last
  valid_W: Array  # bool: False for padding, which is never retrieved
  read: Array  # int32: tokens read


class RAG(WholeReader):
  """Reads every chunk behind the window and the past that resembles it."""

  name = "rag"
  model: Transformer

  def __init__(self, built: Learner, config: Config, local: int):
    super().__init__(built.model, built.inner, built.chunk)
    self.config = config
    self.local = local

  def init_past(self, context_length: int) -> Past:
    """No past, with room for a context of that many tokens."""
    c, far = self.config, None
    if c.top_k:
      room = math.ceil((context_length - self.local) / self.chunk)
      size = c.table_size if c.retriever == "bm25" else self.model.config.dim
      far = chunk_store.empty(max(room, c.top_k), self.chunk, size)
    return Past(
      far=far,
      token_W=jnp.zeros((self.local,), jnp.int32),
      valid_W=jnp.zeros((self.local,), bool),
      read=jnp.zeros((), jnp.int32),
    )

  def read_whole(self, tokens, parts=ALL, rate_scale=1.0) -> ChunkOutput:
    """Reads a sequence, [n, ...]; `inner_loss` is the chunk's own loss, and
    `parts`, `rate_scale` and `tokens.relevant` change nothing.

    Raises:
      ValueError: the chunk does not divide L.
    """
    length = len(tokens.tokens)
    require_chunked(self.chunk, length)

    def body(past, chunk):
      output = self._read(past, chunk)
      return self.keep(past, chunk.tokens, chunk.weight > 0), output

    if self.inner.config.remat_levels:
      body = recomputed(body)
    chunks = in_chunks(tokens, self.chunk)
    return jax.lax.scan(body, self.init_past(length), chunks)[1]

  def embed(self, token_T: Array, valid_T: Array) -> Array:
    """The key of a text, [E]: counts of its words, or the unit mean of the
    vectors of its valid tokens; no gradient."""
    c = self.config
    if c.retriever == "bm25":
      return _bm25.counts(token_T, valid_T, c.ngram, c.table_size)
    if c.embedding == "token":
      vector_TxD = self.model.embedding[...][token_T]
    else:
      shape, key = (self.model.config.dim,), jax.random.key(0)
      vector_TxD = jax.vmap(
        lambda token: jax.random.normal(jax.random.fold_in(key, token), shape)
      )(token_T)
    total_D = jnp.sum(jnp.where(valid_T[:, None], vector_TxD, 0.0), axis=0)
    return unit(jax.lax.stop_gradient(total_D))

  def scores(
    self, far: chunk_store.Chunks, token_T: Array, valid_T: Array
  ) -> Array:
    """The resemblance of each far chunk to the query's tokens, [N]."""
    c = self.config
    if c.retriever == "bm25":
      query = _bm25.columns(token_T, valid_T, c.ngram, c.table_size)
      return _bm25.scores(far.embedding_NxE, chunk_store.stored(far), *query)
    return far.embedding_NxE @ self.embed(token_T, valid_T)

  def in_front(self, past: Past) -> tuple[Array, Array]:
    """The tokens in front of a chunk, [R C + W], and how many of the first of
    them stand for nothing."""
    # Nothing leaves a window before it is full: what is missing comes first.
    missing = jnp.maximum(self.local - past.read, 0)
    if past.far is None:
      return past.token_W, missing
    query = slice(-self.config.query_tokens, None)
    score_N = self.scores(past.far, past.token_W[query], past.valid_W[query])
    token_RxC, _, stored_R = chunk_store.retrieve(
      past.far, score_N, self.config.top_k
    )
    missing += self.chunk * jnp.sum(~stored_R)
    return jnp.concatenate([token_RxC[::-1].ravel(), past.token_W]), missing

  def keep(self, past: Past, token_C: Array, valid_C: Array) -> Past:
    """The past after a chunk has entered the window and its oldest has left."""
    c, far = self.chunk, past.far
    if far is not None:
      leaving = past.token_W[:c], past.valid_W[:c]
      far = chunk_store.add(far, self.embed(*leaving), *leaving)
    return Past(
      far=far,
      token_W=jnp.concatenate([past.token_W[c:], token_C]),
      valid_W=jnp.concatenate([past.valid_W[c:], valid_C]),
      read=past.read + c,
    )

  def _read(self, past: Past, chunk: Tokens) -> ChunkOutput:
    front, missing = self.in_front(past)
    token_S = jnp.concatenate([front, chunk.tokens])
    # Attention sees no key before position 0.
    x_SxD, cache = self.model.read_prefix(token_S, Cache(None, None), -missing)
    forward = self.model.forward(x_SxD, cache, None, -missing)
    final_CxD = forward.final_CxD[len(front) :]
    forward = dataclasses.replace(forward, final_CxD=final_CxD)
    loss_C, correct_C = self.model.score(forward, chunk.targets)
    return ChunkOutput(
      loss_C=loss_C,
      correct_C=correct_C,
      inner_loss=weighted_mean(loss_C, chunk.weight),
      inner_grad_norm=jnp.zeros(()),
      diagnostics=self.model.diagnostics(forward),
    )

  def state_parts(self, context_length):
    """Arrays by part: "memory" is the far past (tokens and their keys), "cache"
    the window's tokens. No attention keys and values are stored."""
    past = self.init_past(context_length)
    return {"memory": past.far, "cache": dataclasses.replace(past, far=None)}
