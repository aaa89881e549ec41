"""Intervals of ratios by resampling whole documents."""

import numpy as np

_RESAMPLES = 2000


def interval(
  numerator_N: np.ndarray,
  denominator_N: np.ndarray,
  share: float = 0.95,
  seed: int = 0,
) -> list[float] | None:
  """Percentile bootstrap of sum(numerator) / sum(denominator).

  Tokens of a document are not independent of each other, documents are: so
  documents are drawn, with replacement (the same ones for every measure).

  Args:
    numerator_N: of each of N documents (a sum of losses, a count of hits).
    denominator_N: of each (a sum of weights, a count); not all 0.
    share: of the resamples that lie in the interval.
    seed: of the draws.

  Returns:
    [low, high]; None where fewer than two documents have a denominator, or
    where a sum is not finite.
  """
  there = denominator_N > 0
  if there.sum() < 2 or not np.isfinite(numerator_N).all():
    return None
  sums_2xN = np.stack([numerator_N[there], denominator_N[there]])
  rng = np.random.default_rng(seed)
  drawn = rng.integers(there.sum(), size=(_RESAMPLES, there.sum()))
  numerator_R, denominator_R = sums_2xN[:, drawn].sum(-1)
  edges = ((1 - share) / 2, (1 + share) / 2)
  low, high = np.quantile(numerator_R / denominator_R, edges)
  return [float(low), float(high)]
