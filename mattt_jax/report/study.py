"""A study's result files as figures and tables (numbers in, PNG and text out).

    rows = study.read("results/hard.jsonl")
    curves = study.curves(rows, "answer_exact_match")
    study.write("hard.md", study.table("Answers right", "tokens", curves))
    study.figure("hard.png", curves, x="tokens", y="answers right", title="")

`read` makes flat rows of whatever a file of results/ holds: a row for each
system, seed, length, task and part that was off. `curves` takes them together:
label -> x -> the mean over the seeds, with its interval. A file that is not
there yet gives no rows, and what is drawn of no rows says so in one line.
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
  # Of experiments/retention.py.
  "ttt_e2e_wide": "TTT alone, wide",
  "swa_episodic_small": "window + episodic, small",
  "ttt_memory_small": "TTT + episodic, small",
}
SQUARE = systems.square("episodic")


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds and its 95 % bootstrap interval over them.

  Of three seeds that is the lowest and the highest; one has none (`low` and
  `high` are the value). Where nothing was learned, `words` say so instead.
  """

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
  found = bootstrap.interval(np.asarray(values), np.ones(len(values)))
  low, high = found or (min(values), max(values))
  return Estimate(statistics.mean(values), low, high, len(values), words)


def label(system: str) -> str:
  """What a figure calls a system."""
  plain = re.sub("^swa_", "window + ", system).replace("_", " ")
  return LABELS.get(system, plain)


def read(path: str | os.PathLike) -> list[Row]:
  """The flat rows of a file of `mattt sweep`, `compare` or `evaluate`.

  There are none, and a line says so, if there is no file.

  Each row has `system`, `variant` ("how=joint" or ""), `seed`, `length`
  (tokens), `asked` ("": the task it was trained on; or another, as `eval.tasks`
  had it), `task` (its settings, as far as the file says), `settings` (what the
  sweep said of the run), `off` (the part that was off, "inner" or "memory"; or
  ""), `state_bytes` (of a sequence, None if unknown), `steps` and `unlearned`
  (`guess.judge`), and what was measured ("answer_exact_match", ...).

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
  found, settings = row["evaluation"], row.get("settings", {})
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
    "parameters": found.get("parameters"),
    "flops_per_token": row.get("flops_per_token"),
  }
  sizes = found.get("state_bytes", {})

  def one(length, summary, off="", asked=""):
    size = sum(sizes[length].values()) if length in sizes else None
    return about | summary | {
      "length": int(length), "off": off, "asked": asked,
      "task": task | _settings(asked), "state_bytes": size,
    }  # fmt: skip

  flat = [one(n, summary) for n, summary in found["lengths"].items()]
  parts = found.get("parts_off", {})
  flat += [one(str(at), summary, off) for off, summary in parts.items()]
  for text, lengths in found.get("tasks", {}).items():
    flat += [one(n, summary, asked=text) for n, summary in lengths.items()]
  return flat


def _settings(text: str) -> dict[str, Any]:
  """ "name:num_pairs=64@4096" as {"name": "name", "num_pairs": 64}."""
  name, _, settings = text.partition("@")[0].partition(":")
  asked: dict[str, Any] = {"name": name} if name else {}
  for part in filter(None, settings.split(",")):
    field, _, value = part.partition("=")
    try:
      asked[field] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      asked[field] = value
  return asked


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
  """The rows that have these values; a setting of the task, or of the sweep, is
  named like a field.

  `where(rows, off="", num_pairs=64)`; a callable value is asked.
  """

  def fits(row: Row) -> bool:
    for name, value in wanted.items():
      has = _get(row, name)
      if not (value(has) if callable(value) else has == value):
        return False
    return True

  return [row for row in rows if fits(row)]


def curves(
  rows: Iterable[Row],
  measure: str | Callable[[Row], float | None],
  x: str | Callable[[Row], Any] = "length",
  by: str | Callable[[Row], str] = "system",
) -> Curves:
  """The estimates of one measure: label -> x, ascending -> estimate.

  Args:
    rows: of `read`; those without the measure are left out.
    measure: a field, or a function of a row.
    x: a field, a setting of the task or of the sweep, or a function of a row.
    by: the same; what it gives names a line.

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
  found = {at: estimate([y]) for at, y in sorted(shares.items()) if y}
  return {"guessing": found} if found else {}


def _by_seed(rows, measure, x, by) -> dict[Any, dict[Any, dict[int, Row]]]:
  """label -> x -> seed -> row; arguments and errors are as of `curves`."""
  found: dict[Any, dict] = collections.defaultdict(dict)
  for row in rows:
    if _get(row, measure) is None:
      continue
    name = label(_get(row, by)) if by == "system" else _get(row, by)
    seeds = found[name].setdefault(_get(row, x), {})
    require(
      row["seed"] not in seeds,
      f"{name} at {_get(row, x)} has two rows of seed {row['seed']}: take the "
      "rows of one task and one part that is off (study.where)",
    )
    seeds[row["seed"]] = row
  return found


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
  """b of measure = a x^b by least squares of the logarithms, within each seed;
  label -> estimate over the seeds. Arguments are as of `curves`; lines of fewer
  than two points are left out, as are seeds that miss a point."""
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


def interaction(
  rows: Iterable[Row],
  measure: str,
  x: str = "length",
) -> Curves:
  """What each part adds alone, and what both add beyond the sum of that.

  Of rows of a 2x2: "TTT adds" is TTT alone minus neither, "memory adds" the
  memory alone minus neither, "interaction" both - TTT - memory + neither, each
  within a seed, so that the interval is of the difference. None at an x and
  seed where one of the four is missing.
  """
  cells: dict[tuple, float] = {}
  for row in rows:
    if _get(row, measure) is not None:
      cells[row["system"], _get(row, x), row["seed"]] = _get(row, measure)
  points = sorted({(at, seed) for _, at, seed in cells})
  added: list[Row] = []
  for at, seed in points:
    there = [cells.get((system, at, seed)) for system in SQUARE]
    if None in there:
      continue
    neither, ttt, memory, both = map(float, there)  # type: ignore[arg-type]
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


def table(title: str, x: str, found: Curves, digits: int = 3) -> str:
  """Markdown under a title: a row a label, a column an x; "" of nothing."""
  if not found:
    return ""
  columns = sorted({at for points in found.values() for at in points})
  cells = {
    name: [points[at].format(digits) if at in points else "-" for at in columns]
    for name, points in found.items()
  }
  return "\n".join([title, "", *tables.markdown(x, columns, cells)])


def write(path: str | os.PathLike, *parts: str) -> str:
  """Writes a markdown file of the parts that are not ""; returns its text.

  Of none there is no file, and the text says so.
  """
  path = pathlib.Path(path)
  text = "\n\n".join(filter(None, parts)) + "\n"
  if not text.strip():
    return f"{path.name}: nothing to show yet."
  path.write_text(text)
  return text


def figure(
  path: str | os.PathLike, found: Curves, **settings: Any
) -> pathlib.Path | None:
  """`plots.lines` of the means, a band from low to high; the file, or None and
  a line that says so if there is nothing to draw."""
  if not found:
    print(f"{pathlib.Path(path).name}: nothing to draw yet.")
    return None
  return plots.lines(
    path,
    {name: [(x, e.mean) for x, e in points.items()]
     for name, points in found.items()},
    bands={name: [(e.low, e.high) for e in points.values()]
           for name, points in found.items()},
    **settings,
  )  # fmt: skip
