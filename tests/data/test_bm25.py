"""BM25 against its formula, worked out by hand."""

import math

import numpy as np
import pytest
from bm25 import BM25, words

TEXTS = ["the cat sat", "The dog, the dog!", "", "a cat and a dog and a mouse"]


def test_words():
  assert words("The dog's 2 Éclairs_x") == ["the", "dog", "s", "2", "éclairs_x"]


@pytest.mark.parametrize("k1, b", [(1.2, 0.75), (2.0, 0.0), (0.5, 1.0)])
def test_the_formula(k1, b):
  mean = (3 + 4 + 0 + 8) / 4

  def term(n, f, size):
    rarity = math.log(1 + (4 - n + 0.5) / (n + 0.5))
    norm = 1 - b + b * size / mean
    return rarity * f * (k1 + 1) / (f + k1 * norm)

  index = BM25(TEXTS, k1, b)
  expected = [
    term(2, 1, 3),  # cat, once in three words
    2 * term(2, 2, 4),  # dog, asked twice
    0,
    term(2, 1, 8) + 2 * term(2, 1, 8),
  ]
  found = index.scores("Cat dog DOG unicorn")
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert index.scores("unicorn").tolist() == [0, 0, 0, 0]


def test_best_first():
  index = BM25(TEXTS)
  assert index.best("dog", 2).tolist() == [1, 3]
  assert index.best("mouse cat", 9).tolist() == [3, 0, 1, 2]
  assert index.best("unicorn", 3).tolist() == [0, 1, 2]  # all equal


def test_texts_without_words():
  assert BM25(["", "?"]).scores("cat").tolist() == [0, 0]
