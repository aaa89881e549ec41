"""Trains and measures several systems under one budget."""

import pathlib

from absl import flags

from mattt_jax.commands import launch


def _parse_numbers(flag: str, text: str | None) -> tuple[int, ...]:
  try:
    return tuple(int(part) for part in (text or "").split(",") if part)
  except ValueError:
    raise launch.UsageError(
      f"--{flag}={text!r} must be whole numbers, as --{flag}=256,512"
    ) from None


def _define_compare(values: flags.FlagValues) -> None:
  for name, default, about in (
    ("task", "recall", "an experiment: recall, rule"),
    ("systems", None, "names of `mattt list`, or 2x2:MEMORY; a,b,c"),
    ("seeds", "0", "0,1,2"),
    ("arg", "", "more arguments of the experiment: tiny, hard"),
    ("each", "", "an argument and its values, a run for each: how:joint,first"),
    ("out", "runs/compare", "directory of the runs and the table"),
  ):
    flags.DEFINE_string(name, default, about, flag_values=values)
  flags.DEFINE_integer(
    "steps", 0, "outer steps of each; 0: as the experiment says",
    lower_bound=0, flag_values=values,
  )  # fmt: skip


def _compare(values: flags.FlagValues) -> None:
  names = launch.required(values, "systems", "2x2:episodic").split(",")
  seeds = _parse_numbers("seeds", values.seeds)
  launch.keep_compiled_programs()
  from mattt_jax.report import compare

  out = pathlib.Path(values.out)
  rows = compare.compare(
    values.task,
    names,
    seeds,
    out,
    arg=values.arg,
    each=values.each,
    steps=values.steps,
  )
  print(f"\n{compare.table(rows)}\n\nRows and table are in {out}/")


COMMAND = launch.Command(
  about=__doc__,
  example="--task=recall --systems=2x2:episodic,rag --seeds=1,2,3 --arg=hard",
  run=_compare,
  define=_define_compare,
)
