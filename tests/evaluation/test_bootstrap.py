"""Bootstrap intervals against what theory says of them."""

import numpy as np
import pytest

from mattt_jax.evaluation import bootstrap


def test_of_means_as_the_normal_approximation():
  rng = np.random.default_rng(0)
  values = rng.normal(3.0, 2.0, 400)
  low, high = bootstrap.interval(values, np.ones(400))
  error = values.std() / np.sqrt(400)
  # 2000 resamples place a 2.5 % quantile within about 5 % of its distance.
  expected = values.mean() + 1.96 * error * np.array([-1, 1])
  np.testing.assert_allclose([low, high], expected, atol=0.12 * error)


def test_it_covers_as_often_as_it_says():
  rng = np.random.default_rng(1)
  hits = 0
  for seed in range(200):
    tokens = rng.integers(50, 150, 30)
    rate = rng.beta(6, 4, 30)  # documents differ, tokens within one do not
    low, high = bootstrap.interval(rate * tokens, tokens, seed=seed)
    hits += low < 0.6 < high
  # 95 % of 200 is 190; 30 documents cover a little less (within 4 errors).
  assert 175 <= hits <= 200


def test_documents_are_drawn_whole_with_their_weight():
  loss, tokens = np.array([10.0, 0.0]), np.array([10, 90])
  low, high = bootstrap.interval(loss, tokens)
  assert [low, high] == [0.0, 1.0]  # each document alone
  assert bootstrap.interval(loss, tokens) == [low, high]


def test_no_interval_of_what_is_not_finite():
  assert bootstrap.interval(np.array([1.0, np.inf]), np.ones(2)) is None


@pytest.mark.parametrize("tokens", [[4], [4, 0], [0, 0]])
def test_no_interval_of_one_document(tokens):
  tokens = np.array(tokens)
  assert bootstrap.interval(0.5 * tokens, tokens) is None
