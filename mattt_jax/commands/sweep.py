"""Does the runs of an experiment's sweep, each once."""

import pathlib
from collections.abc import Sequence

from absl import flags

from mattt_jax.commands import launch
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps import runner, sweep
from mattt_jax.sweeps import state as state_lib
from mattt_jax.training import trackers

PARQUET_FILE = "results.parquet"


def define(values: flags.FlagValues) -> None:
  """Adds the flags of `mattt sweep`."""
  launch.strings(
    values,
    config="NAME:ARG or FILE:ARG; its sweep(ARG) says what to run",
    out="directory of the runs: a new one, or that of the same sweep",
  )
  define_results(values)
  index = "do only this share of the runs, from 0 on"
  launch.integers(values, 0, index=index)
  launch.integers(values, 1, of="number of shares")
  launch.booleans(
    values,
    False,
    dry_run="print the commands of the runs that are not finished",
    status="print a table of the runs and where they stand",
    parquet=f"also write OUT/{PARQUET_FILE}",
    together="every host of a slice calls this; they do each run together",
  )
  launch.define_tracker(values)


def define_results(values: flags.FlagValues) -> None:
  """Adds `--results` and `--workers`."""
  launch.strings(
    values,
    results=f"JSONL of the rows (default: OUT/{rows_lib.ROWS_FILE}); a run "
    "that it has a row of is not done again, wherever it was done",
  )
  launch.integers(values, 1, workers="processes at a time")


def directory(values: flags.FlagValues, example: str) -> pathlib.Path:
  """The directory that --out names.

  Raises:
    UsageError: none, or a file.
  """
  out = pathlib.Path(launch.required(values, "out", example))
  if out.exists() and not out.is_dir():
    raise launch.UsageError(f"--out={out} is a file: name a directory")
  return out


def run(values: flags.FlagValues) -> int:
  """Does the runs, prints their commands, or says where they stand."""
  text = launch.required(values, "config", "recall:tiny")
  out = directory(values, "runs/sweep")
  if values.parquet:
    rows_lib.require_parquet()
  trackers.choose(values.tracker)
  results = pathlib.Path(values.results or out / rows_lib.ROWS_FILE)
  known = rows_lib.known(results) if values.results else {}
  every = sweep.runs(text)
  mine = sweep.share(every, values.index, values.of)
  if values.status:
    print(state_lib.table(every, out, known))
    return 0
  if values["dry-run"].value:
    for one in mine:
      done = one.hash in known or rows_lib.is_finished(out / one.hash)
      print("# finished: " * done + sweep.command(one, out / one.hash))
    return 0
  code, _ = do(every, mine, out, values, together=values.together)
  if values.parquet:
    rows_lib.write([*rows_lib.known(results).values()], out / PARQUET_FILE)
  return code


def do(
  every: Sequence[sweep.Run],
  mine: Sequence[sweep.Run],
  out: pathlib.Path,
  values: flags.FlagValues,
  together: bool = False,
) -> tuple[int, list[rows_lib.Row]]:
  """Does the runs `mine` of the sweep `every` that are not finished, each in a
  directory of `out`; returns the exit code and the rows of `every` so far.

  Args:
    values: of the flags that `define_results` adds.
    together: as in `runner.SweepRunner`.
  """
  results = pathlib.Path(values.results or out / rows_lib.ROWS_FILE)
  known = rows_lib.known(results) if values.results else {}
  run_all = runner.SweepRunner(
    [one for one in mine if one.hash not in known],
    out,
    workers=values.workers,
    together=together,
    report=lambda line: print(line, flush=True),
  )
  code = run_all()
  rows = rows_lib.update(every, out, results)
  print(f"{len(rows)} of {len(every)} runs finished; rows are in {results}")
  if run_all.failed:
    print(f"{len(run_all.failed)} failed: {', '.join(sorted(run_all.failed))}")
  return code, rows


COMMAND = launch.Command(
  example="--config=recall:tiny --out=runs/sweep --workers=2",
  run=run,
  define=define,
)
