"""Does the runs of an experiment's sweep, each once."""

import fcntl
import json
import pathlib
from typing import Any

from absl import flags

from mattt_jax.commands import launch
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps import runner, sweep
from mattt_jax.sweeps import state as state_lib
from mattt_jax.training import trackers

ROWS_FILE = "results.jsonl"
PARQUET_FILE = "results.parquet"


def define(values: flags.FlagValues) -> None:
  """Adds the flags of `mattt sweep`."""
  for name, about in (
    ("experiment", "FILE:ARG or NAME:ARG; its sweep(ARG) says what to run"),
    ("out", "directory of the runs: a new one, or that of the same sweep"),
  ):
    flags.DEFINE_string(name, None, about, flag_values=values)
  flags.DEFINE_string(
    "results",
    None,
    f"JSONL of the rows (default: OUT/{ROWS_FILE}); a run that it has a row of "
    "is not done again, wherever it was done",
    flag_values=values,
  )
  for name, default, about in (
    ("workers", 1, "processes at a time"),
    ("index", 0, "do only this share of the runs, from 0 on"),
    ("of", 1, "number of shares"),
  ):
    flags.DEFINE_integer(name, default, about, flag_values=values)
  for name, about in (
    ("dry-run", "print the commands of the runs that are not finished"),
    ("status", "print a table of the runs and where they stand"),
    ("parquet", f"also write {PARQUET_FILE}"),
    ("together", "every host of a slice calls this; they do each run together"),
  ):
    flags.DEFINE_bool(name, False, about, flag_values=values)
  launch.define_tracker(values)


def run(values: flags.FlagValues) -> int:
  """Does the runs, prints their commands, or says where they stand."""
  text = launch.required(values, "experiment", "recall:tiny")
  out = pathlib.Path(launch.required(values, "out", "runs/sweep"))
  if out.exists() and not out.is_dir():
    raise launch.UsageError(f"--out={out} is a file: name a directory")
  if values.parquet:
    rows_lib.require_parquet()
  trackers.choose(values.tracker)
  results = pathlib.Path(values.results or out / ROWS_FILE)
  known = read_rows(results) if values.results else {}
  every = sweep.runs(text)
  mine = sweep.share(every, values.index, values.of)
  if values.status:
    print(state_lib.table(every, out, known))
    return 0
  if values["dry-run"].value:
    for one in mine:
      done = one.hash in known or state_lib.is_finished(out / one.hash)
      print("# finished: " * done + sweep.command(one, out / one.hash))
    return 0
  doing = runner.SweepRunner(
    [one for one in mine if one.hash not in known],
    out,
    workers=values.workers,
    together=values.together,
    report=lambda line: print(line, flush=True),
  )
  code = doing()
  rows = write_rows(every, out, results, values.parquet)
  print(f"{rows} of {len(every)} runs finished; rows are in {results}")
  if doing.failed:
    print(f"{len(doing.failed)} failed: {', '.join(sorted(doing.failed))}")
  return code


def read_rows(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """The rows of a results file, by the hash that their settings have today.

  Raises:
    ValueError: a line that is no such row.
  """
  rows = {}
  for number, line in enumerate(path.open() if path.exists() else (), 1):
    try:
      row = json.loads(line)
      hash_ = sweep.hash_today(row["config"]) or row["config_hash"]
      rows[hash_] = row | {"config_hash": hash_}
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"results={path}, line {number} is no row of a run ({error!r}): remove "
        "it, or name another file"
      ) from error
  return rows


def write_rows(
  every: list[sweep.Run],
  out: pathlib.Path,
  results: pathlib.Path,
  parquet: bool = False,
) -> int:
  """Adds the finished runs to `results`; returns how many of `every` it has.

  Rows of other runs that are there stay, in front.
  """
  with (out / "results.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # another may end at the same time
    done = [out / one.hash for one in every]
    new = rows_lib.rows(out, filter(state_lib.is_finished, done))
    # Only what --results names may hold rows of runs that are not in `out`.
    old = read_rows(results) if results != out / ROWS_FILE else {}
    rows = old | {row["config_hash"]: row for row in new}
    rows_lib.write(list(rows.values()), results)
    if parquet:
      rows_lib.write(list(rows.values()), out / PARQUET_FILE)
  return sum(one.hash in rows for one in every)


COMMAND = launch.Command(
  about=__doc__,
  example="--experiment=recall:tiny --out=runs/sweep --workers=2",
  run=run,
  define=define,
)
