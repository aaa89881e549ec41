"""BM25 of texts, in NumPy: the scores that those of `rag` are compared with."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mattt_jax.data.bm25 import K1, B

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
  """The words of a text, in lower case."""
  return _WORD.findall(text.lower())


class BM25:
  """An index of N texts."""

  def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B):
    self._number = len(texts)
    counts_of: dict[str, list[tuple[int, int]]] = {}  # word -> (text, count)
    size_N = np.zeros(self._number)
    for number, text in enumerate(texts):
      counts = Counter(words(text))
      size_N[number] = counts.total()
      for word, count in counts.items():
        counts_of.setdefault(word, []).append((number, count))
    norm_N = 1 - b + b * size_N / max(size_N.mean(), 1)
    self._scores = {}  # word -> the texts that have it, what it adds to each
    for word, pairs in counts_of.items():
      at, count = np.array(pairs).T
      rarity = np.log1p((len(texts) - len(at) + 0.5) / (len(at) + 0.5))
      added = rarity * count * (k1 + 1) / (count + k1 * norm_N[at])
      self._scores[word] = at, added

  def scores(self, query: str) -> np.ndarray:
    """Score of each text: [N] float64; a word that stands twice in the query
    counts twice."""
    scores_N = np.zeros(self._number)
    for word in filter(self._scores.__contains__, words(query)):
      at, added = self._scores[word]
      scores_N[at] += added
    return scores_N

  def best(self, query: str, number: int) -> np.ndarray:
    """The texts that score highest, best first: [number] int64; equal ones keep
    their order."""
    return np.argsort(-self.scores(query), kind="stable")[:number]
