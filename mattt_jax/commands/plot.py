"""Draws recall by context length and depth (heatmap)."""

import json
from typing import Any

from absl import flags

from mattt_jax.commands import launch


def _define(values: flags.FlagValues) -> None:
  for name, about in (
    ("rows", "the JSONL that `mattt evaluate` wrote"),
    ("task", "whose rows are drawn, as --tasks of `mattt evaluate` had it"),
    ("out", "the new PNG"),
  ):
    flags.DEFINE_string(name, None, about, flag_values=values)


def _plot(values: flags.FlagValues, kind: str) -> None:
  if kind != "heatmap":
    raise launch.UsageError(f"unknown kind {kind!r}: use heatmap")
  path = launch.required(values, "rows", "runs/recall/evaluate.jsonl")
  task = launch.required(values, "task", "associative_recall")
  out = launch.required(values, "out", "heatmap.png")
  from mattt_jax.report import plots  # matplotlib is slow to import

  print(f"Written to {plots.heat_map(out, _rows(path), task)}")


def _rows(path: str) -> list[dict[str, Any]]:
  rows = []
  with open(path) as file:
    for number, line in enumerate(file, 1):
      try:
        row = json.loads(line)
      except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
      if isinstance(row, dict) and "forced" not in row.get("scoring", "forced"):
        continue  # of --answers=choice or written: nothing token by token
      if not isinstance(row, dict) or "by_distance" not in row:
        raise ValueError(
          f"{path}, line {number}: no row of `mattt evaluate` (by_distance)"
        )
      rows.append(row)
  return rows


COMMAND = launch.Command(
  about=__doc__,
  example="heatmap --rows=runs/recall/evaluate.jsonl "
  "--task=associative_recall --out=heatmap.png",
  run=_plot,
  define=_define,
  words=("KIND",),
)
