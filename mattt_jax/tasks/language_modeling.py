"""Language modelling: the next token of long documents of real text.

Training reads windows at random places of the training documents; tune and
test read each held-out document from its beginning. Tokens are UTF-8 bytes, or
those of a tokenizer's file (data/tokenizer.py), a copy of which stays with the
run.

With `repeat_ngram` the targets that repeat what was read long ago are answers:
the evaluator's answer_loss and by_distance are then of these distant repeats,
which only a memory of the far past helps with, and other_loss is of the rest.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.data import sources, tokenizer
from mattt_jax.tasks import base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; data/sources.py says what a `source` is, data/tokenizer.py what
  a `tokenizer` is."""

  source: str = "stdlib"  # or "directory:PATH", "tfds:NAME"
  min_document_bytes: int = 32_768  # shorter ones of stdlib, tfds are left out
  text_key: str = "text"  # the text feature of a tfds data set
  tokenizer: str = "bytes"  # or a path: tokenizer.json, SentencePiece model
  # Of that file; "": whichever it has, which is filled in. So it is one of the
  # settings that a run and each of its checkpoints are bound to.
  tokenizer_sha256: str = ""
  # A target that ends an n-gram of so many tokens, seen before, is an answer;
  # 0: none is.
  repeat_ngram: int = 0
  repeat_beyond: int = 0  # only if its last one ended further back, in tokens

  def __post_init__(self):
    require_at_least("task.min_document_bytes", self.min_document_bytes, 2)
    for field in ("repeat_ngram", "repeat_beyond"):
      require_at_least(f"task.{field}", getattr(self, field), 0)
    require(
      self.repeat_ngram > 0 or self.repeat_beyond == 0,
      f"task.repeat_beyond={self.repeat_beyond} is about repeats, and "
      "task.repeat_ngram=0 looks for none: set how many tokens repeat",
    )
    actual = tokenizer.sha256(self.tokenizer)
    require(
      self.tokenizer_sha256 in ("", actual),
      f"task.tokenizer={self.tokenizer!r} has sha256 {actual or '(none)'}, not "
      f"task.tokenizer_sha256={self.tokenizer_sha256}: put the file back that "
      "it had; a run keeps a copy in its work directory, tokenizer",
    )
    object.__setattr__(self, "tokenizer_sha256", actual)

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if files are missing, or shorter than one chunk, or
    no length has room for a repeat."""
    sources.check(
      self.source, min_bytes=self.min_document_bytes, least=experiment.chunk
    )
    if self.repeat_ngram:
      longest = max(length for _, length in experiment.lengths)
      least = self.repeat_beyond + self.repeat_ngram
      require(
        least <= longest,
        f"task.repeat_beyond={self.repeat_beyond} and task.repeat_ngram="
        f"{self.repeat_ngram} need a length of at least {least}, but the "
        f"longest is {longest}: make them smaller, or the length larger",
      )


class Task:
  """Windows of documents, which are read once and then held in memory.

  Raises:
    ValueError: what data/sources.py raises of a missing or bad source, and
      data/tokenizer.py of a tokenizer; a document without two tokens, of which
      nothing can be predicted.
  """

  def __init__(self, config: Config, seed: int):
    self.config = config
    self.seed = seed
    self.tokenizer = tokenizer.load(config.tokenizer)
    self.vocab_size = self.tokenizer.vocab_size
    documents = sources.load(
      config.source,
      min_bytes=config.min_document_bytes,
      text_key=config.text_key,
    )
    self._documents = {
      split: [(d.name, self._encode(d)) for d in documents[split]]
      for split in base.SPLITS
    }
    sizes = [len(tokens) for _, tokens in self._documents["train"]]
    self._ends = np.cumsum(sizes)  # of the training documents, in tokens

  def _encode(self, document: sources.Document) -> np.ndarray:
    tokens = self.tokenizer.encode(document.text)
    require(
      len(tokens) >= 2,
      f"task.source={self.config.source!r}: {document.name} has {len(tokens)} "
      f"token(s) in {len(document.text)} bytes, and nothing to predict: remove "
      "it or make it longer",
    )
    return tokens

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out documents; None (endless) for train."""
    base.require_split(split)
    return None if split == "train" else len(self._documents[split])

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence: always `length`."""
    return length

  def document(self, split: str, index: int) -> tuple[str, np.ndarray]:
    """Name and tokens [size], unsigned, of a whole document.

    Raises:
      ValueError: unknown split, or no such document.
    """
    base.require_split(split)
    documents = self._documents[split]
    require(
      0 <= index < len(documents),
      f"index={index} is no document of split={split!r}: it has "
      f"{len(documents)}, counted from 0",
    )
    return documents[index]

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens.

    What lies beyond the end of a document is token 0 with weight 0.

    Raises:
      ValueError: unknown split, or no such held-out document.
    """
    start = 0
    if split == "train":
      rng = base.example_rng(self.seed, split, index)
      token = rng.integers(self._ends[-1])  # long documents are drawn more
      document = int(np.searchsorted(self._ends, token, side="right"))
      _, tokens = self.document(split, document)
      start = int(rng.integers(max(1, len(tokens) - length)))
    else:
      _, tokens = self.document(split, index)
    piece = tokens[start : start + length + 1]
    seq = np.zeros(length + 1, np.int32)
    seq[: len(piece)] = piece
    weight = (np.arange(1, length + 1) < len(piece)).astype(np.float32)
    answer = np.full(length, -1, np.int32)
    distance = np.full(length, -1, np.int32)
    relevant = np.zeros(length, bool)
    if self.config.repeat_ngram:
      back = repeats(piece, self.config.repeat_ngram)[1:]  # of the targets
      at = np.flatnonzero(back > self.config.repeat_beyond)
      answer[at], distance[at] = np.arange(len(at)), back[at]
      evidence = at - back[at]
      relevant[evidence[evidence >= 0]] = True  # the first token is no target
    return {
      "tokens": seq[:-1],
      "targets": seq[1:],
      "inner_weight": weight,
      "outer_weight": weight.copy(),
      "answer": answer,
      "distance": distance,
      "relevant": relevant,
    }


def repeats(tokens: np.ndarray, ngram: int) -> np.ndarray:
  """How many tokens back the n-gram that ends at each token ended last.

  Exact, with sorting and no hashing: O(size log size log ngram).

  Args:
    tokens: [size], of any integer type.
    ngram: tokens of an n-gram, at least 1.

  Returns:
    [size] int64; 0 where it is new, or the text before it too short.
  """
  back = np.zeros(len(tokens), np.int64)
  if len(tokens) <= ngram:
    return back
  # Equal n-grams, and only they, have equal names: a longer one is named by
  # the names of two that cover it.
  name, size = _names(tokens), 1
  while size < ngram:
    step = min(size, ngram - size)
    name = _names(name[:-step] * (name.max() + 1) + name[step:])
    size += step
  order = np.argsort(name, kind="stable")
  same = name[order[1:]] == name[order[:-1]]
  back[order[1:][same] + ngram - 1] = np.diff(order)[same]
  return back


def _names(values: np.ndarray) -> np.ndarray:
  """0, 1, ... for each different value, int64."""
  return np.unique(values, return_inverse=True)[1].astype(np.int64)
