"""Lists the tasks, memories, systems and experiments."""

from absl import flags

from mattt_jax import config as config_lib
from mattt_jax import registry, systems
from mattt_jax.commands import launch


def _run(values: flags.FlagValues) -> None:
  del values
  paths = registry.experiments()
  experiments = {name: registry.summary(path) for name, path in paths.items()}
  for title, rows in (
    ("Tasks", registry.summaries(config_lib.TASKS)),
    ("Memories", registry.summaries(config_lib.MEMORIES)),
    ("Systems (system=NAME; also swa_MEMORY, ttt_MEMORY)", systems.summaries()),
    ("Experiments (mattt train --config=NAME:ARG --workdir=DIR)", experiments),
  ):
    print(f"{title}:")
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
      print(f"  {name:<{width}}  {text}")
    if not rows:
      print("  (none)")


COMMAND = launch.Command(example="", run=_run)
