"""Ratios, and their intervals by resampling whole documents."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_RESAMPLES = 2000
_EDGES = (0.025, 0.975)  # quantiles: an interval of 95 %


def interval(
  numerator_N: np.ndarray, denominator_N: np.ndarray, seed: int = 0
) -> list[float] | None:
  """Percentile bootstrap of sum(numerator) / sum(denominator), 95 %.

  Tokens of a document are not independent of each other, documents are: so
  documents are drawn, with replacement (the same ones for every measure).

  Args:
    numerator_N: of each of N documents (a sum of losses, a count of hits).
    denominator_N: of each (a sum of weights, a count); not all 0.
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
  low, high = np.quantile(numerator_R / denominator_R, _EDGES)
  return [float(low), float(high)]


def mean(total: float, count: float) -> float | None:
  """total / count; None over nothing, or if it is not finite."""
  ratio = float(total / count) if count else math.nan
  return ratio if math.isfinite(ratio) else None


def summary(sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Means of measures and their `intervals`, from the sums and counts of N
  documents: [N, 2] of each measure."""
  return {
    **{name: mean(*sums_Nx2.sum(0)) for name, sums_Nx2 in sums.items()},
    "intervals": {
      name: interval(*sums_Nx2.T) for name, sums_Nx2 in sums.items()
    },
  }
