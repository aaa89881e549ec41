"""BM25: which texts share the rare words of a query.

    score(d, q) = sum over words w of q of
      log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f (k1 + 1) / (f + k1 norm_d)

There are N texts, n_w of them with w; f is how often d has it; norm_d = 1 - b +
b |d| / mean |d| (Robertson and Zaragoza, "The Probabilistic Relevance
Framework"; the 1 in the logarithm keeps it positive).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mattt_jax.config import require, require_at_least

_WORD = re.compile(r"\w+")
K1, B = 1.2, 0.75  # the usual k1 and b


def words(text: str) -> list[str]:
  """The words of a text, in lower case."""
  return _WORD.findall(text.lower())


class BM25:
  """An index of N texts.

  Raises:
    ValueError: no texts, a negative k1, or b outside [0, 1].
  """

  def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B):
    require(len(texts) > 0, "texts=[] must hold at least one")
    require_at_least("k1", k1, 0)
    require(0 <= b <= 1, f"b={b} must lie in [0, 1]")
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
