"""Trains and compares three learners, in under 10 minutes."""

from absl import flags

from mattt_jax.commands import launch


def _define(values: flags.FlagValues) -> None:
  out = "directory for results and plots"
  launch.strings(values, "runs/demo", out=out)


def _run(values: flags.FlagValues) -> None:
  out = launch.required(values, "out", "runs/demo")
  launch.keep_compiled_programs()
  from mattt_jax.commands import _demo

  _demo.run(out)


COMMAND = launch.Command(example="--out=runs/demo", run=_run, define=_define)
