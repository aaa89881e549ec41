"""Language modelling: the next token of long documents of real text.

Training reads windows at random places of the training documents; tune and
test read each held-out document from its beginning.

With `in_memory=False` the corpus may be larger than memory: each process reads
the documents of its own rows of a batch from disk, by an index
(data/records.py). Batches of bytes are the same as with `in_memory=True`; with
a tokenizer's file, documents are drawn in proportion to their bytes, as the
index does not know how many tokens they have.

With `repeat_ngram` the targets that repeat what was read long ago are answers,
which only a memory of the far past helps with.
"""

import dataclasses

import numpy as np

from mattt_jax.config import Experiment, require
from mattt_jax.data import records, splits
from mattt_jax.tasks import _documents, _texts, base
from mattt_jax.tasks._drafts import Draft


@dataclasses.dataclass(frozen=True)
class Config(_texts.Config):
  """Settings, in addition to those of all texts."""

  # A target that ends an n-gram of so many tokens, seen before, is an answer;
  # 0: none is.
  repeat_ngram: int = 0
  repeat_beyond: int = 0  # and the last such one ended more tokens back
  in_memory: bool = True  # hold all documents, or read each when it is due

  def __post_init__(self):
    _documents.require_least(self, repeat_ngram=0, repeat_beyond=0)
    require(
      self.repeat_ngram > 0 or self.repeat_beyond == 0,
      f"task.repeat_beyond={self.repeat_beyond} is about repeats, and "
      "task.repeat_ngram=0 looks for none: set how many tokens repeat",
    )
    super().__post_init__()

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if files are missing, or shorter than one chunk, or
    no length has room for a repeat."""
    super().check(experiment)
    if self.repeat_ngram:
      longest = max(length for _, length in experiment.lengths)
      least = self.repeat_beyond + self.repeat_ngram
      require(
        least <= longest,
        f"task.repeat_beyond={self.repeat_beyond} and task.repeat_ngram="
        f"{self.repeat_ngram} need a length of at least {least}, but the "
        f"longest is {longest}: make them smaller, or the length larger",
      )


class Task(_texts.Task):
  """Windows of training documents, beginnings of the others."""

  config: Config

  def _open(self):
    if self.config.in_memory:
      return super()._open()
    c = self.config
    self._records = records.load(
      c.source, min_bytes=c.min_document_bytes, text_key=c.text_key
    )
    read = {
      split: _texts.ReadWhenAsked(documents, self._encode)
      for split, documents in self._records.items()
    }
    return read, self._records["train"].size_N

  def contents(self) -> dict[str, str]:
    """Checksum of each document, by its name, or of each split if documents
    are not held in memory."""
    if self.config.in_memory:
      return super().contents()
    return {split: part.checksum() for split, part in self._records.items()}

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out documents; None (endless) for train."""
    splits.require_split(split)
    return None if split == "train" else len(self._documents[split])

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens.

    What lies beyond the end of a document is token 0 with weight 0.

    Raises:
      ValueError: unknown split, or no such held-out document.
    """
    document, start = index, 0
    if split == "train":
      document, start = self._train_window(index, length)
    _, tokens = self.document(split, document)
    piece = tokens[start : start + length + 1]
    draft = Draft(piece, length)
    if self.config.repeat_ngram:
      back = repeats(piece, self.config.repeat_ngram)
      at = np.flatnonzero(back > self.config.repeat_beyond)
      draft.ask(at, np.arange(len(at)), back[at], at - back[at])
    return draft.example()


def repeats(tokens: np.ndarray, ngram: int) -> np.ndarray:
  """Tokens since the n-gram that ends at each token ended before.

  `tokens` are [size] integers, `ngram` is at least 1. The result, [size] int64,
  is 0 where the n-gram is new, or the text before it too short. It is exact, by
  sorting: O(size log size log ngram).
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
