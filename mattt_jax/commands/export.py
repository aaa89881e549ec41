"""Writes a run's parameters alone (npz), for evaluation elsewhere."""

from absl import flags

from mattt_jax.commands import launch


def _define(values: flags.FlagValues) -> None:
  launch.define_checkpoint(values)
  launch.strings(values, out="a new directory")


def _run(values: flags.FlagValues) -> None:
  workdir = launch.required(values, "workdir", "runs/recall")
  out = launch.required(values, "out", "exported")
  from flax import nnx

  from mattt_jax.training import export, load

  _, trained = launch.run_settings(values)
  learner, step = load.load_learner(trained, workdir, best=values.best)
  path = export.write(workdir, nnx.split(learner)[1], step, out)
  print(f"The parameters of step {step} are in {path}")
  print(f"mattt evaluate --workdir={out} reads them")


COMMAND = launch.Command(
  example="--workdir=runs/recall --out=exported",
  run=_run,
  define=_define,
  takes_config=True,
)
