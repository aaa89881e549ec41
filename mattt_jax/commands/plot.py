"""Draws learning curves (curves), or recall by length and depth (heatmap)."""

import json
import pathlib
from typing import Any

from absl import flags

from mattt_jax.commands import launch
from mattt_jax.sweeps import labels
from mattt_jax.sweeps import rows as rows_lib

KINDS = ("curves", "heatmap")


def _define(values: flags.FlagValues) -> None:
  launch.strings(
    values,
    rows="heatmap: the JSONL that `mattt evaluate` wrote",
    task="heatmap: whose rows are drawn, as --tasks of it had it",
    out="the new PNG",
  )


def _run(values: flags.FlagValues, kind: str, *runs: str) -> None:
  if kind not in KINDS:
    raise launch.UsageError(f"unknown kind {kind!r}: use {' or '.join(KINDS)}")
  if kind == "curves":
    return _curves(values, runs)
  if runs:
    raise launch.UsageError(f"unexpected argument {runs[0]!r}")
  path = launch.required(values, "rows", "runs/recall/evaluate.jsonl")
  task = launch.required(values, "task", "associative_recall")
  out = launch.required(values, "out", "heatmap.png")
  from mattt_jax.report import plots  # matplotlib is slow to import

  print(f"Written to {plots.heat_map(out, _rows(path), task)}")


def _curves(values: flags.FlagValues, runs: tuple[str, ...]) -> None:
  if not runs:
    raise launch.UsageError("RUN is missing: name the work directory of a run")
  out = launch.required(values, "out", "curves.png")
  from mattt_jax.report import plots
  from mattt_jax.training import metrics

  rows_by_run = {}
  for run in runs:
    path = pathlib.Path(run) / metrics.METRICS_FILE
    rows = metrics.read_rows(path)
    if not rows:
      raise ValueError(f"{path} has no rows: is {run} a run's work directory?")
    rows_by_run[_label(run)] = rows
  print(f"Written to {plots.learning_curves(out, rows_by_run)}")


def _label(run: str) -> str:
  """Settings of the run's sweep or, without one, its directory."""
  note = rows_lib.read_json(pathlib.Path(run) / rows_lib.SWEEP_FILE)
  settings = note.get("settings", {})
  seed = f"seed {settings['seed']}" if "seed" in settings else ""
  parts = [settings.get("system", ""), labels.variant(settings), seed]
  return " ".join(filter(None, parts)) or run


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
  example="curves runs/recall --out=curves.png",
  run=_run,
  define=_define,
  words=("KIND", "RUN..."),
)
