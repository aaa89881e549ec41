"""The rows of finished runs: one JSON object a run, in a JSONL file.

A row holds settings and their hash, what the sweep set, the seed, the commit
checked out at collection, the last training metrics, and the evaluation. A
file whose name ends in .parquet is a table with a column for each number,
"evaluation.lengths.256.loss" (needs pyarrow).
"""

import fcntl
import json
import os
import pathlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mattt_jax.sweeps import labels
from mattt_jax.sweeps.sweep import Run, config_hash, hash_today

Row = dict[str, Any]
RESULT_FILE = "evaluation.json"  # there once a run is finished
SWEEP_FILE = "sweep.json"  # of a run of a sweep
ROWS_FILE = "results.jsonl"  # of a sweep, in its directory


def commit() -> str:
  """Commit of the checkout, with "-dirty" if it was changed, or "unknown"."""
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def is_finished(workdir: pathlib.Path) -> bool:
  """Whether the run in `workdir` has come to its end."""
  return bool(read_json(workdir / RESULT_FILE))


def rows(root: pathlib.Path, directories: Iterable[pathlib.Path]) -> list[Row]:
  """Makes a row of each finished run in `directories`, below `root`."""
  made, checked_out = [], commit()
  for directory in directories:
    config = json.loads((directory / "config.json").read_text())
    row = {
      "run": str(directory.relative_to(root)),
      "config_hash": config_hash(config),
      "commit": checked_out,
      "seed": config["seed"],
    }
    if (swept := directory / SWEEP_FILE).exists():
      row["settings"] = json.loads(swept.read_text())["settings"]
    row["config"] = config
    made.append(row | json.loads((directory / RESULT_FILE).read_text()))
  return made


def known(path: pathlib.Path) -> dict[str, Row]:
  """Reads a results file's rows, by the hash that their settings have today.

  Raises:
    ValueError: a line is no such row.
  """
  by_hash = {}
  for number, line in enumerate(path.open() if path.exists() else (), 1):
    try:
      row = labels.today(json.loads(line))
      hash_ = hash_today(row["config"]) or row["config_hash"]
      by_hash[hash_] = row | {"config_hash": hash_}
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"results={path}, line {number} is no row of a run ({error!r}): remove "
        "it, or name another file"
      ) from error
  return by_hash


def update(
  every: Sequence[Run], out: pathlib.Path, results: pathlib.Path
) -> list[Row]:
  """Adds the finished runs to `results`, behind rows of other runs; returns the
  rows of `every` there."""
  with (out / "results.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # another may end at the same time
    new = rows(out, filter(is_finished, (out / one.hash for one in every)))
    # Only what --results names may hold rows of runs that are not in `out`.
    old = known(results) if results != out / ROWS_FILE else {}
    by_hash = old | {row["config_hash"]: row for row in new}
    write(list(by_hash.values()), results)
  return [by_hash[one.hash] for one in every if one.hash in by_hash]


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file's object; {} if it is not there or not whole."""
  try:
    value = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}


def read(path: pathlib.Path) -> list[Row]:
  """Reads the rows of a JSONL file; none if it is not there."""
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


def add(row: Row, path: pathlib.Path) -> None:
  """Adds one row to a JSONL file."""
  with path.open("a") as file:
    file.write(json.dumps(row) + "\n")


def write(entries: Sequence[Row], path: pathlib.Path) -> None:
  """Writes rows as JSONL, or as parquet if `path` ends so; a reader finds the
  old file or the new one whole.

  Raises:
    ValueError: parquet, but pyarrow is not installed.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  if path.suffix == ".parquet":
    _write_parquet(entries, partial)
  else:
    partial.write_text("".join(json.dumps(row) + "\n" for row in entries))
  os.replace(partial, path)


def require_parquet() -> None:
  """Raises `ValueError` unless parquet can be written."""
  try:
    import pyarrow.parquet  # noqa: F401
  except ImportError as error:
    raise ValueError(
      "parquet needs pyarrow: pip install 'mattt-jax[parquet]', or ask for "
      "JSONL"
    ) from error


def _write_parquet(entries: Sequence[Row], path: pathlib.Path) -> None:
  require_parquet()
  import pyarrow
  from pyarrow import parquet

  flat = [dict(_leaves(row, "")) for row in entries]
  names = list(dict.fromkeys(name for row in flat for name in row))
  table = {name: _column([row.get(name) for row in flat]) for name in names}
  parquet.write_table(pyarrow.table(table), path)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
  if isinstance(value, dict):
    for key, inner in value.items():
      yield from _leaves(inner, f"{name}.{key}" if name else key)
  else:
    yield name, json.dumps(value) if isinstance(value, list) else value


def _column(values: list[Any]) -> list[Any]:
  """Brings values to one type: numbers as floats, a mixture as JSON."""
  kinds = {type(value) for value in values if value is not None}
  if len(kinds) <= 1:
    return values
  convert = float if kinds == {int, float} else json.dumps
  return [value if value is None else convert(value) for value in values]
