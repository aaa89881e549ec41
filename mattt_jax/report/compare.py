"""Finished runs in one table: answers by context length, and costs."""

import collections
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mattt_jax import config as config_lib
from mattt_jax import systems
from mattt_jax.learners import build
from mattt_jax.planning import cost_model
from mattt_jax.report import guess, tables
from mattt_jax.sweeps import labels
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps.sweep import Settings, param, product

Row = dict[str, Any]
# So that the table says what each part is worth.
PARTS_OFF = {"config.eval.parts_off": True}


def expand(names: Sequence[str]) -> list[str]:
  """Names of systems: "2x2:MEMORY" is TTT on or off x memory on or off.

  Raises:
    ValueError: an unknown name, or none.
  """
  expanded: list[str] = []
  for name in names:
    square, _, memory = name.partition(":")
    expanded += systems.square(memory) if square == "2x2" and memory else [name]
  config_lib.require(bool(expanded), "systems is empty: name at least one")
  for name in expanded:
    systems.require_known(name)
  return list(dict.fromkeys(expanded))


def settings(
  names: Sequence[str], seeds: Sequence[int], each: str = ""
) -> list[Settings]:
  """The runs of a comparison, as `sweep.runs` takes them.

  Args:
    names: of systems, or "2x2:MEMORY".
    seeds: each trains each system once.
    each: "NAME:V1,V2", values of one more argument of the experiment: each
      trains each system once.

  Raises:
    ValueError: an unknown system, or no values.
  """
  name, _, values = each.partition(":")
  config_lib.require(
    bool(name and values) or not each,
    f"each={each!r} must be NAME:VALUE,VALUE, an argument of the experiment",
  )
  return product(
    param("system", expand(names)),
    param(name, values.split(",")) if each else [{}],
    param("seed", seeds),
    [PARTS_OFF],
  )


def read(paths: Sequence[pathlib.Path]) -> list[Row]:
  """The rows of finished runs: work directories, or JSONL files of rows.

  Raises:
    ValueError: no finished run, or a line that is no row of one.
  """
  rows: list[Row] = []
  for path in paths:
    if path.is_dir():
      config_lib.require(
        rows_lib.is_finished(path),
        f"{path} holds no finished run ({rows_lib.RESULT_FILE}): name the work "
        "directory of one, or the results.jsonl of a sweep",
      )
      rows += rows_lib.rows(path.parent, [path])
    else:
      config_lib.require(path.exists(), f"{path} is not there")
      rows += rows_lib.known(path).values()
  config_lib.require(bool(rows), "there are no finished runs to compare")
  return rows


def label(row: Row) -> str:
  """Name of a row: the settings of its sweep, or its directory."""
  settings = row.get("settings") or {}
  parts = [settings.get("system", ""), labels.variant(settings)]
  return " ".join(filter(None, parts)) or row["run"]


def table(rows: Sequence[Row]) -> str:
  """Markdown: exact answers by context length (mean over the seeds, lowest and
  highest of several), and what each system costs."""
  by_system = collections.defaultdict(list)
  for row in rows:
    by_system[label(row)].append(row)
  lengths = sorted(
    {n for row in rows for n in row["evaluation"]["lengths"]}, key=int
  )
  longest = lengths[-1]
  head = [
    *lengths,
    "inner off",
    "memory off",
    "other loss",
    "parameters",
    f"state at {longest}, KiB",
    "kFLOP/token",
    "train tokens/s",
  ]
  cells = _guessing(rows, lengths, len(head))
  cells |= {name: _cells(same, lengths) for name, same in by_system.items()}

  def listed(value: Callable[[Row], Any]) -> str:
    return ", ".join(map(str, sorted(set(map(value, rows)))))

  about = (
    f"{listed(lambda row: row['config']['task']['name'])}: answers right "
    "(every token of them) on the "
    f"{listed(lambda row: row['config']['eval'].get('split', 'test'))} split "
    f"by context length (tokens), {listed(lambda row: row['step'])} outer "
    f"steps, seeds {listed(lambda row: row['seed'])}. "
    '"Off" is at the training length; "other loss" is of the tokens that are '
    "not answers, at the longest."
  )
  return "\n".join([about, "", *tables.markdown("system", head, cells)])


def _guessing(
  rows: Sequence[Row], lengths: Sequence[str], columns: int
) -> dict[str, list[str]]:
  shares = {guess.share(row["config"]["task"]) for row in rows}
  if len(shares) > 1 or None in shares:
    return {}
  cells = [f"{shares.pop():.3f}"] * len(lengths)
  return {"guessing": cells + ["-"] * (columns - len(cells))}


def _cells(rows: Sequence[Row], lengths: Sequence[str]) -> list[str]:
  """The cells of one system, from its row of each seed."""
  measured = [row["evaluation"] for row in rows]

  def over_seeds(summaries: Sequence[Mapping | None], field: str) -> str:
    return tables.summary([(one or {}).get(field) for one in summaries])

  right, longest = "answer_exact_match", lengths[-1]
  by_length = [[one["lengths"].get(n) for one in measured] for n in lengths]
  state = measured[0].get("state_bytes", {}).get(longest)
  number, flops = measured[0].get("parameters"), flops_per_token(rows[0])
  speed = [row["train"].get("tokens_per_second") for row in rows]
  answers = [over_seeds(summaries, right) for summaries in by_length]
  rest = [
    over_seeds([one.get("parts_off", {}).get(part) for one in measured], right)
    for part in ("inner", "memory")
  ] + [over_seeds(by_length[-1], "other_loss")]
  if _unlearned(rows):
    answers = [f"not learned in {rows[0]['step']} steps"] * len(lengths)
    rest = ["-"] * len(rest)
  return [
    *answers,
    *rest,
    f"{number:,}" if number else "-",
    f"{sum(state.values()) / 1024:,.0f}" if state else "-",
    f"{flops / 1000:,.0f}" if flops else "-",
    tables.summary(speed, 0),
  ]


def _unlearned(rows: Sequence[Row]) -> bool:
  """Whether the rows, one a seed, are at chance where they were trained."""
  task = rows[0]["config"]["task"]
  own = [
    row["evaluation"]["lengths"].get(str(row["config"].get("length")))
    for row in rows
  ]
  return None not in own and guess.at_chance(
    [summary | {"task": task} for summary in own]
  )


def flops_per_token(row: Row) -> float | None:
  """FLOPs as the row or its settings say; None if they cannot be counted (a run
  of another version, a task whose texts are not here)."""
  if "flops_per_token" in row:
    return row["flops_per_token"]
  return _flops(json.dumps(row["config"] | {"seed": 0}))


@functools.cache
def _flops(config: str) -> float | None:
  experiment = config_lib.restore(json.loads(config))
  if experiment is None:
    return None
  try:
    vocab_size = build.make_task(experiment).vocab_size
  except (OSError, ValueError):
    return None
  return cost_model.flops_per_token(experiment, vocab_size)
