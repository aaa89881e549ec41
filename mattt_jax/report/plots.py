"""Figures from result files (numbers in, PNG out; no JAX)."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from mattt_jax.config import require

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Fields of a row of `mattt evaluate` that say how it was measured.
_MEASURED_WITH = ("workdir", "config_hash", "seed", "step", "split", "inner",
                  "memory")  # fmt: skip


def lines(
  path: str | os.PathLike,
  series: Mapping[str, Sequence[tuple[float, float]]],
  *,
  x: str,
  y: str,
  title: str,
  log_x: bool = False,
  log_y: bool = False,
  bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> pathlib.Path:
  """Draws one line a series of (x, y) points; returns the file.

  Args:
    path: the PNG to write.
    series: label -> points.
    x: label of the x axis, with its unit; `y` likewise.
    title: text on top.
    log_x: base-2 logarithmic x axis, with ticks at points that are apart.
    log_y: base-10 logarithmic y axis.
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
    axes.set_xscale("log", base=2)
    ticks: list[float] = []
    for x_of in sorted({p[0] for points in series.values() for p in points}):
      if not ticks or x_of >= 1.25 * ticks[-1]:  # or their labels overlap
        ticks.append(x_of)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
  if log_y:
    axes.set_yscale("log")
  axes.set(xlabel=x, ylabel=y, title=title)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  return _save(figure, path)


# Fields of a metrics.jsonl, a panel each.
_CURVES = {
  "loss": "loss (nats a weighted token)",
  "answer_accuracy": "answer tokens right",
}


def learning_curves(
  path: str | os.PathLike, runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> pathlib.Path:
  """Draws loss and answers right by outer step; returns the file. Lines are of
  training, dashed ones of the `tune` split at its shortest length.

  Args:
    path: the PNG to write.
    runs: label -> the rows of its metrics.jsonl.

  Raises:
    ValueError: no run has a row of training.
  """
  panels = {}
  for field in _CURVES:
    points = {label: _measured(rows, field) for label, rows in runs.items()}
    if any(trained for trained, _ in points.values()):
      panels[field] = points
  require(bool(panels), "there is no row of training yet: train for longer")
  figure, all_axes = plt.subplots(
    1, len(panels), figsize=(1 + 5 * len(panels), 3.6), layout="constrained",
    squeeze=False,
  )  # fmt: skip
  for axes, (field, points) in zip(all_axes[0], panels.items(), strict=True):
    for label, (trained, tuned) in points.items():
      (line,) = axes.plot(*np.reshape(trained, (-1, 2)).T, label=label)
      if tuned:
        axes.plot(
          *np.transpose(tuned), "--o", markersize=4, color=line.get_color()
        )
    axes.set(xlabel="outer steps", ylabel=_CURVES[field])
    axes.grid(alpha=0.3)
    if any(tuned for _, tuned in points.values()):
      axes.plot([], [], "--o", markersize=4, color="0.5", label="tune split")
  all_axes[0][0].legend(fontsize=8)
  return _save(figure, path)


def _measured(
  rows: Sequence[Mapping[str, Any]], field: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
  """The points (step, value) of training, and of the tuning split."""
  trained, tuned = [], []
  for row in rows:
    if row.get("kind") == "train" and row.get(field) is not None:
      trained.append((row["step"], row[field]))
    elif row.get("kind") == "evaluation" and row.get("lengths"):
      value = row["lengths"][min(row["lengths"], key=int)].get(field)
      if value is not None:
        tuned.append((row["step"], value))
  return trained, tuned


def heat_map(
  path: str | os.PathLike,
  rows: Sequence[Mapping[str, Any]],
  task: str,
  title: str = "",
) -> pathlib.Path:
  """Draws `by_depth`, the start of the context on top, cells without answers
  hatched, under `title` (default: the task); returns the file.

  Raises:
    ValueError: as `by_depth`.
  """
  lengths, right_KxN = by_depth(rows, task)
  figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
  axes.patch.set(facecolor="white", edgecolor="0.7", hatch="////")
  edges = np.arange(len(lengths) + 1), np.linspace(0, 100, len(right_KxN) + 1)
  cells = axes.pcolormesh(*edges, np.ma.masked_invalid(right_KxN), vmin=0,
                          vmax=1)  # fmt: skip
  axes.set_xticks(edges[0][:-1] + 0.5, [f"{n:,}" for n in lengths])
  axes.set(
    xlabel="context length (tokens)",
    ylabel="evidence lies back (% of the context)",
    title=title or task,
  )
  figure.colorbar(cells, label="answer tokens right")
  return _save(figure, path)


def by_depth(
  rows: Sequence[Mapping[str, Any]], task: str
) -> tuple[list[int], np.ndarray]:
  """Answer tokens right by context length and relative distance.

  Args:
    rows: of `mattt evaluate`: `by_distance` of each context length.
    task: whose rows count.

  Returns:
    The N lengths (tokens, ascending), and the share right [K, N] float64, nan
    where there are no answers. Row k is of distances from k/K up to (k + 1)/K
    of the length, K the fewest buckets of a row; a bucket's middle counts.

  Raises:
    ValueError: no such rows, rows that were not measured alike, or answers
      without a distance.
  """
  names = sorted({str(row.get("task")) for row in rows})
  rows = [row for row in rows if row.get("task") == task]
  require(
    bool(rows),
    f"there is no row of task={task!r}: use one of "
    f"{'; '.join(names) or '(no rows)'}",
  )
  for field in _MEASURED_WITH:
    values = sorted({str(row.get(field)) for row in rows})
    require(
      len(values) == 1,
      f"rows of task={task!r} differ in {field}: {', '.join(values)}; leave "
      "those of one (`mattt evaluate --out` writes to a file of its own)",
    )
  rows = sorted(rows, key=lambda row: row["length"])
  lengths = [row["length"] for row in rows]
  require(
    len(set(lengths)) == len(lengths),
    f"rows of task={task!r} have a length twice: {lengths}; leave one of each",
  )
  buckets = [
    [bucket for bucket in row["by_distance"] if bucket["from"] is not None]
    for row in rows
  ]
  shape = min(map(len, buckets)), len(rows)
  tokens_KxN, right_KxN = np.zeros(shape), np.zeros(shape)
  for n, length in enumerate(lengths):
    for bucket in filter(lambda bucket: bucket["tokens"], buckets[n]):
      middle = (bucket["from"] + bucket["to"]) / 2
      at = int(middle / length * len(tokens_KxN)), n
      tokens_KxN[at] += bucket["tokens"]
      right_KxN[at] += bucket["tokens"] * bucket["accuracy"]
  require(
    bool(tokens_KxN.any()),
    f"no answer of task={task!r} has a distance to its evidence",
  )
  return lengths, np.divide(
    right_KxN, tokens_KxN, out=np.full(shape, np.nan), where=tokens_KxN > 0
  )


def _save(figure, path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)
  plt.close(figure)
  return path
