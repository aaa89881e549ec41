"""Compares systems, or finished runs, in one table."""

import pathlib

from absl import flags

from mattt_jax.commands import launch, sweep
from mattt_jax.sweeps import sweep as sweep_lib

TABLE_FILE = "compare.md"


def _define(values: flags.FlagValues) -> None:
  launch.strings(
    values,
    config="an experiment, NAME:ARG or FILE:ARG; without it, the finished RUNs "
    "are compared: work directories, results.jsonl of sweeps",
    systems="names of `mattt list`, or 2x2:MEMORY; a,b,c",
  )
  launch.strings(values, "0", seeds="0,1,2")
  each = "an argument and its values, a run for each: how:joint,first"
  launch.strings(values, "", each=each)
  out = "directory of the runs and the table"
  launch.strings(values, "runs/compare", out=out)
  sweep.define_results(values)


def _run(values: flags.FlagValues, *words: str) -> int:
  from mattt_jax.report import compare

  if words:
    if values.config:
      raise launch.UsageError(
        f"--config={values.config} trains, {words[0]} is a finished run: give "
        "one of them"
      )
    print(compare.table(compare.read([pathlib.Path(word) for word in words])))
    return 0
  text = launch.required(values, "config", "recall:hard")
  names = launch.required(values, "systems", "2x2:episodic").split(",")
  try:
    seeds = [int(part) for part in values.seeds.split(",")]
  except ValueError:
    raise launch.UsageError(
      f"--seeds={values.seeds!r} must be whole numbers, as --seeds=1,2,3"
    ) from None
  out = sweep.directory(values, "runs/compare")
  settings = compare.settings(names, seeds, values.each)
  every = sweep_lib.runs(text, settings)
  code, rows = sweep.do(every, every, out, values)
  if not rows:
    return code
  table = compare.table(rows)
  (out / TABLE_FILE).write_text(table + "\n")
  print(f"\n{table}\n\nThe table is in {out / TABLE_FILE}")
  return code


COMMAND = launch.Command(
  example="--config=recall:hard --systems=2x2:episodic,titans --seeds=1,2,3",
  run=_run,
  define=_define,
  words=("RUN...",),
)
