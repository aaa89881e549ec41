r"""Collects finished runs into one JSONL file, a row a run.

    python -m mattt_jax.sweeps.rows runs/recall --out=results/recall.jsonl

A row holds what is needed to make it again and to judge it: the settings and
their hash, the seed, the commit that was checked out when it was collected, the
last training metrics, and the evaluation; of a run of a sweep, also what the
sweep set. With a name that ends in .parquet, it is a table with a column for
each number, "evaluation.lengths.256.loss" (needs pyarrow).
"""

import argparse
import json
import os
import pathlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mattt_jax.sweeps.sweep import config_hash

RESULT_FILE = "evaluation.json"  # there once a run is finished
SWEEP_FILE = "sweep.json"  # of a run of a sweep


def commit() -> str:
  """The checkout's commit, with "-dirty" if it was changed, or "unknown"."""
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def collect(root: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of all finished runs below `root`, in order of their names.

  Raises:
    ValueError: there is none.
  """
  found = sorted(path.parent for path in root.glob(f"**/{RESULT_FILE}"))
  if not found:
    raise ValueError(f"{root} holds no finished run ({RESULT_FILE})")
  return rows(root, found)


def rows(
  root: pathlib.Path, directories: Iterable[pathlib.Path]
) -> list[dict[str, Any]]:
  """A row for each of the finished runs in `directories`, below `root`."""
  made, at = [], commit()
  for directory in directories:
    config = json.loads((directory / "config.json").read_text())
    swept = directory / SWEEP_FILE
    row = {
      "run": str(directory.relative_to(root)),
      "config_hash": config_hash(config),
      "commit": at,
      "seed": config["seed"],
    }
    if swept.exists():
      row["settings"] = json.loads(swept.read_text())["settings"]
    row["config"] = config
    made.append(row | json.loads((directory / RESULT_FILE).read_text()))
  return made


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a JSONL file; none if it is not there."""
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


def add(row: dict[str, Any], path: pathlib.Path) -> None:
  """Adds one row to a JSONL file."""
  with path.open("a") as file:
    file.write(json.dumps(row) + "\n")


def write(found: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Writes rows as JSONL, or as parquet if the name of the file says so.

  A reader finds the old file or the new one whole.

  Raises:
    ValueError: parquet, but pyarrow is not installed.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  if path.suffix == ".parquet":
    _write_parquet(found, partial)
  else:
    partial.write_text("".join(json.dumps(row) + "\n" for row in found))
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


def _write_parquet(found: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  require_parquet()
  import pyarrow
  from pyarrow import parquet

  flat = [dict(_leaves(row, "")) for row in found]
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
  """Of one type: numbers as floats if any is, a mixture as JSON."""
  kinds = {type(value) for value in values if value is not None}
  if len(kinds) <= 1:
    return values
  if kinds == {int, float}:
    return [value if value is None else float(value) for value in values]
  return [value if value is None else json.dumps(value) for value in values]


def main() -> None:
  """Parses the command line and writes the file."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("root", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  try:
    found = collect(args.root)
    write(found, args.out)
  except ValueError as error:
    parser.error(str(error))
  print(f"{len(found)} runs -> {args.out}")


if __name__ == "__main__":
  main()
