"""Figures from result files (numbers in, PNG out; no JAX)."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def lines(
  path: str | os.PathLike,
  series: Mapping[str, Sequence[tuple[float, float]]],
  *,
  x: str,
  y: str,
  title: str,
  log_x: bool = False,
  bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> pathlib.Path:
  """Draws one line a series of (x, y) points; returns the file.

  Args:
    path: the PNG to write.
    series: label -> points.
    x: label of the x axis, with its unit.
    y: label of the y axis, with its unit.
    title: what is shown.
    log_x: base-2 logarithmic x axis, with a tick at each point.
    bands: label -> (low, high) of each point, drawn as a shaded band.
  """
  figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
  for label, points in series.items():
    xs, ys = zip(*points, strict=True)
    (line,) = axes.plot(xs, ys, marker="o", markersize=4, label=label)
    if bands and label in bands:
      low, high = zip(*bands[label], strict=True)
      axes.fill_between(xs, low, high, alpha=0.2, color=line.get_color())
  if log_x:
    ticks = sorted({p[0] for points in series.values() for p in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
  axes.set(xlabel=x, ylabel=y, title=title)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)
  plt.close(figure)
  return path
