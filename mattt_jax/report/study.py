"""A study's result files as figures and tables (numbers in, PNG and text out).

    rows = study.read("results/hard.jsonl")
    curves = study.curves(rows, "answer_exact_match")
    study.write("hard.md", study.table("Answers right", "tokens", curves))
    study.figure("hard.png", curves, x="tokens", y="answers right", title="")

A file that is not there yet gives no rows, and a figure or table of no rows
says so in one line.
"""

import ast
import collections
import dataclasses
import json
import os
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mattt_jax import systems
from mattt_jax.config import require
from mattt_jax.evaluation import bootstrap
from mattt_jax.report import guess, plots, tables
from mattt_jax.sweeps import labels

Row = dict[str, Any]
LABELS = {
  "ttt_e2e": "TTT alone",
  "swa_episodic": "window + episodic",
  "ttt_memory": "TTT + episodic",
  "ttt_memory_scheduled": "TTT + episodic, scheduled",
  "ttt_e2e_first_order": "TTT alone, first order",
  # From experiments/retention.py.
  "ttt_e2e_wide": "TTT alone, wide",
  "swa_episodic_small": "window + episodic, small",
  "ttt_memory_small": "TTT + episodic, small",
}
SQUARE = systems.square("episodic")


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds, its 95 % bootstrap interval (three seeds: the lowest and
  the highest; one: its value), and `words` where nothing was learned."""

  mean: float
  low: float
  high: float
  seeds: int
  words: str = ""

  def __str__(self) -> str:
    return self.format()

  def format(self, digits: int = 3) -> str:
    """ "0.984 [0.971, 0.996]", without the interval if there is none."""
    mean = f"{self.mean:,.{digits}f}"
    if self.seeds < 2 or self.words:
      return self.words or mean
    return f"{mean} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


Curves = dict[str, dict[Any, Estimate]]


def estimate(values: Sequence[float], words: str = "") -> Estimate:
  """The mean of one value a seed, in order of the seeds."""
  interval = bootstrap.interval(np.asarray(values), np.ones(len(values)))
  low, high = interval or (min(values), max(values))
  return Estimate(statistics.mean(values), low, high, len(values), words)


def label(system: str) -> str:
  """Name of a system in figures."""
  plain = re.sub("^swa_", "window + ", system).replace("_", " ")
  return LABELS.get(system, plain)


def read(path: str | os.PathLike) -> list[Row]:
  """The flat rows of a file of `mattt sweep`, `compare` or `evaluate`: one for
  each system, seed, length, task and part that was off; none without a file.

  Each row has `system`, `variant` ("how=joint" or ""), `seed`, `length`
  (tokens), `asked` ("": the task it was trained on; or one of `eval.tasks`),
  `task` (its settings), `settings` (the sweep's for the run), `off` ("inner",
  "memory" or ""), `state_bytes` (of a sequence, None if unknown), `steps`,
  `unlearned` (`guess.judge`), and the measures ("answer_exact_match", ...).

  Raises:
    ValueError: a line that is no such row.
  """
  path = pathlib.Path(path)
  if not path.exists():
    print(f"{path.name} is not there yet (results/README.md has the command).")
    return []
  rows: list[Row] = []
  for number, line in enumerate(path.open(), 1):
    try:
      rows += _flat(labels.today(json.loads(line)))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path}, line {number}: no row of a result ({error!r}): remove it"
      ) from error
  guess.judge(rows)
  return rows


def _flat(row: Row) -> list[Row]:
  if "length" in row:  # flat already
    asked = row.get("task", "")
    about = {"variant": "", "off": "", "asked": asked, "settings": {}}
    sizes = row.get("state_bytes")
    total = sum(sizes.values()) if sizes else None
    return [about | row | {"task": _settings(asked), "state_bytes": total}]
  measured, settings = row["evaluation"], row.get("settings", {})
  task, at = row["config"]["task"], row["config"]["length"]
  about = {
    "system": settings.get("system") or row["run"].partition("/")[0],
    "variant": labels.variant(settings),
    "seed": row["seed"],
    "settings": settings,
    "commit": row["commit"],
    "config_hash": row["config_hash"],
    "trained_at": at,
    "steps": row["config"].get("train", {}).get("steps"),
    "parameters": measured.get("parameters"),
    "flops_per_token": row.get("flops_per_token"),
  }
  sizes = measured.get("state_bytes", {})

  def one(length, summary, off="", asked=""):
    size = sum(sizes[length].values()) if length in sizes else None
    return about | summary | {
      "length": int(length), "off": off, "asked": asked,
      "task": task | _settings(asked), "state_bytes": size,
    }  # fmt: skip

  flat = [one(n, summary) for n, summary in measured["lengths"].items()]
  parts = measured.get("parts_off", {})
  flat += [one(str(at), summary, off) for off, summary in parts.items()]
  for text, lengths in measured.get("tasks", {}).items():
    flat += [one(n, summary, asked=text) for n, summary in lengths.items()]
  return flat


def _settings(text: str) -> dict[str, Any]:
  """ "name:num_pairs=64@4096" as {"name": "name", "num_pairs": 64}."""
  name, _, fields = text.partition("@")[0].partition(":")
  settings: dict[str, Any] = {"name": name} if name else {}
  for part in filter(None, fields.split(",")):
    field, _, value = part.partition("=")
    try:
      settings[field] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      settings[field] = value
  return settings


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
  """The rows that have these values of fields, or of settings of the task or
  sweep; a callable value decides: `where(rows, off="", num_pairs=bool)`."""

  def fits(value: Any, want: Any) -> bool:
    return want(value) if callable(want) else value == want

  return [
    row
    for row in rows
    if all(fits(_get(row, name), want) for name, want in wanted.items())
  ]


def curves(
  rows: Iterable[Row],
  measure: str | Callable[[Row], float | None],
  x: str | Callable[[Row], Any] = "length",
  by: str | Callable[[Row], str] = "system",
) -> Curves:
  """The estimates of one measure: label -> x, ascending -> estimate.

  Args:
    rows: of `read`; those without the measure are left out.
    measure: a field, a setting of the task or sweep, or a function of a row.
    x: the same, the place on a line.
    by: the same, the name of a line.

  Raises:
    ValueError: two rows of one seed at the same point.
  """

  def mean(seeds: dict[int, Row]) -> Estimate:
    same = [seeds[seed] for seed in sorted(seeds)]
    words = guess.words(same) if measure in guess.RIGHT else ""
    return estimate([_get(row, measure) for row in same], words)

  return {
    name: {at: mean(points[at]) for at in sorted(points)}
    for name, points in _by_seed(rows, measure, x, by).items()
  }


def guessing(rows: Iterable[Row], x: str = "length") -> Curves:
  """The line of the guesser (`guess.share`), where it is known."""
  shares = {_get(row, x): guess.share(row["task"]) for row in rows}
  points = {at: estimate([y]) for at, y in sorted(shares.items()) if y}
  return {"guessing": points} if points else {}


def _by_seed(rows, measure, x, by) -> dict[Any, dict[Any, dict[int, Row]]]:
  """label -> x -> seed -> row; arguments and errors as in `curves`."""
  points: dict[Any, dict] = collections.defaultdict(dict)
  for row in rows:
    if _get(row, measure) is None:
      continue
    name = label(_get(row, by)) if by == "system" else _get(row, by)
    seeds = points[name].setdefault(_get(row, x), {})
    require(
      row["seed"] not in seeds,
      f"{name} at {_get(row, x)} has two rows of seed {row['seed']}: take the "
      "rows of one task and one part that is off (study.where)",
    )
    seeds[row["seed"]] = row
  return points


def _get(row: Row, what: str | Callable[[Row], Any]) -> Any:
  if callable(what):
    return what(row)
  for part in (row, row.get("task", {}), row.get("settings", {})):
    if what in part:
      return part[what]
  return None


def exponents(
  rows: Iterable[Row],
  measure: str | Callable[[Row], float | None],
  x: str | Callable[[Row], Any] = "length",
  by: str | Callable[[Row], str] = "system",
) -> dict[str, Estimate]:
  """b of measure = a x^b (least squares of logarithms within each seed): label
  -> estimate over the seeds. Arguments as in `curves`; lines of fewer than two
  points, and seeds that miss a point, are left out."""
  fitted = {}
  for name, points in _by_seed(rows, measure, x, by).items():
    whole = set.intersection(*map(set, points.values()))
    if len(points) > 1 and whole:
      values = [
        [_get(at[s], measure) for s in sorted(whole)] for at in points.values()
      ]
      slopes, _ = np.polyfit(np.log([*points]), np.log(values), 1)
      fitted[name] = estimate(slopes.tolist())
  return fitted


def interaction(rows: Iterable[Row], measure: str, x: str = "length") -> Curves:
  """What each part of a 2x2 adds alone (TTT - neither, memory - neither), and
  both beyond that (both - TTT - memory + neither).

  Differences are within a seed, so that intervals are theirs; an x and seed
  that lacks one of the four is left out.
  """
  cells: dict[tuple, float] = {}
  for row in rows:
    if _get(row, measure) is not None:
      cells[row["system"], _get(row, x), row["seed"]] = _get(row, measure)
  added: list[Row] = []
  for at, seed in sorted({(at, seed) for _, at, seed in cells}):
    corners = [(system, at, seed) for system in SQUARE]
    if not cells.keys() >= set(corners):
      continue
    neither, ttt, memory, both = (float(cells[corner]) for corner in corners)
    effects = {
      "TTT adds": ttt - neither,
      "memory adds": memory - neither,
      "interaction": both - ttt - memory + neither,
    }
    added += [
      {"effect": name, "x": at, "seed": seed, "value": value}
      for name, value in effects.items()
    ]
  return curves(added, "value", x="x", by="effect")


def table(title: str, x: str, lines: Curves, digits: int = 3) -> str:
  """Markdown under a title: a row a label, a column an x; "" of nothing."""
  if not lines:
    return ""
  columns = sorted({at for points in lines.values() for at in points})
  cells = {
    name: [points[at].format(digits) if at in points else "-" for at in columns]
    for name, points in lines.items()
  }
  return "\n".join([title, "", *tables.markdown(x, columns, cells)])


def write(path: str | os.PathLike, *parts: str) -> str:
  """Writes a markdown file of the parts that are not ""; returns its text. With
  no parts it writes no file, and the text says so."""
  path = pathlib.Path(path)
  text = "\n\n".join(filter(None, parts)) + "\n"
  if not text.strip():
    return f"{path.name}: nothing to show yet."
  path.write_text(text)
  return text


def figure(
  path: str | os.PathLike, lines: Curves, **settings: Any
) -> pathlib.Path | None:
  """Draws the means (`plots.lines`) with a band from low to high; None and a
  printed line if there is nothing to draw."""
  if not lines:
    print(f"{pathlib.Path(path).name}: nothing to draw yet.")
    return None
  means, bands = {}, {}
  for name, points in lines.items():
    means[name] = [(x, e.mean) for x, e in points.items()]
    bands[name] = [(e.low, e.high) for e in points.values()]
  return plots.lines(path, means, bands=bands, **settings)
