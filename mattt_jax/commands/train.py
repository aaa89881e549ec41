"""Trains an experiment; the same command again resumes it."""

from absl import flags

from mattt_jax import config as config_lib
from mattt_jax.commands import launch
from mattt_jax.training import trackers


def _define(values: flags.FlagValues) -> None:
  launch.strings(values, workdir="directory of the run")
  launch.define_tracker(values)
  profile = "trace so many outer steps (jax.profiler), to WORKDIR/profile"
  flags.DEFINE_integer("profile", 0, profile, 0, flag_values=values)
  launch.booleans(
    values,
    False,
    distributed="one of several processes, a host each, that are all started "
    "with this flag (jax.distributed)",
  )


def _run(values: flags.FlagValues) -> int:
  launch.required(values, "config", "recall:tiny")
  workdir = launch.required(values, "workdir", "runs/recall")
  trackers.choose(values.tracker)
  launch.keep_compiled_programs()
  experiment = config_lib.from_config_dict(values.config)
  from mattt_jax.devices import processes
  from mattt_jax.planning import utilization
  from mattt_jax.training import preemption, trainer

  if values.distributed:
    processes.join()
  try:
    trainer.train(
      experiment,
      workdir,
      profile=values.profile,
      ideal=utilization.ideal(experiment),
    )
  except preemption.PreemptedError as notice:
    processes.say(str(notice))
    return preemption.EXIT_CODE
  return 0


COMMAND = launch.Command(
  example="--config=recall:tiny --workdir=runs/recall "
  "--config.outer.learning_rate=3e-3",
  run=_run,
  define=_define,
  takes_config=True,
)
