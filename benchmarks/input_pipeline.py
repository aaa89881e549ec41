"""The input pipeline: does training wait for data, and how fast is it alone?

    python benchmarks/input_pipeline.py --out=FILE.json

Training: each experiment's `tiny` with a window alone, the worst case, since
its steps are the shortest. Figures begin after compilation and wait for each
step, which the trainer does not do, so that the device is idle meanwhile:

- `wait_share`: the share of the time from asking for a batch until its arrays
  lie on the device, without the freeing of the batch before.
- `more_time`, `more_cpu`: the shares by which seconds and CPU-seconds exceed
  those of as many steps with one batch that is on the device already: the cost
  of making, placing and handing over batches. On one core that is time, on more
  cores only the wait for Python's lock.

Alone: every task at its default settings (8 sequences of 256 tokens; texts are
the standard library's, as bytes), and every experiment at its full size:
examples a second and CPU-milliseconds a batch when nothing else runs, after 100
batches, whose seconds are `first_seconds` (texts are read, names found).

About a minute on one core.
"""

import argparse
import itertools
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from report import write

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.learners.build import build_learner
from mattt_jax.tasks import batches as batches_lib
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.training.train_step import init_state, jit_train_step
from mattt_jax.ttt.parts import Parts

ENDLESS = 10**6  # outer steps, more than are taken
FIRST = 100  # batches
# What says "a window alone", where it is not system=sliding_window.
ALONE = {"ablation": "inner=False,memory=False"}
TURNS = 5  # with the pipeline and without, so that a slow minute meets both


def shortest(name: str) -> ConfigDict:
  """An experiment's `tiny`, a window alone."""
  system = ALONE.get(name, "system=sliding_window")
  return registry.load_config(f"{name}:tiny,{system},steps={ENDLESS}")


def training(name: str, steps: int) -> dict:
  """One row: steps of an experiment's `tiny`."""
  experiment = config_lib.from_config_dict(shortest(name))
  task = build.make_task(experiment)
  graphdef, params = nnx.split(build_learner(experiment, task.vocab_size))
  mesh = meshes.make_mesh(1)
  optimizer = make_optimizer(experiment.outer, ENDLESS)
  state = init_state(params, optimizer, mesh, experiment.train.trainable)
  step = jit_train_step(graphdef, optimizer, experiment, state, mesh)

  def take(batches: Iterator[dict[str, jax.Array]], number: int) -> np.ndarray:
    """Seconds of waiting, of everything, and CPU-seconds of everything."""
    nonlocal state
    waited, start, cpu = 0.0, time.perf_counter(), time.process_time()
    for _ in range(number):
      asked = time.perf_counter()
      batch = next(batches)
      waited += time.perf_counter() - asked
      state, _ = step(state, batch, Parts(False, False))
      jax.block_until_ready(state)
      del batch  # as the trainer does
    wall = time.perf_counter() - start
    return np.array([waited, wall, time.process_time() - cpu])

  def place(batch: batches_lib.Batch) -> dict[str, jax.Array]:
    """Places a batch and returns when all of it has arrived."""
    return jax.block_until_ready(sharding.put_batch(batch, mesh))

  batches = batches_lib.train_batches(task, experiment, place=place)
  again = itertools.repeat(next(batches))
  take(batches, 5)  # compiles
  made, same = np.zeros(3), np.zeros(3)
  for _ in range(TURNS):
    made += take(batches, steps // TURNS)
    same += take(again, steps // TURNS)
  return {
    "of": f"{name}:tiny",
    "size": f"{experiment.batch_size}x{experiment.length}",
    "milliseconds_per_step": 1e3 * made[1] / (steps // TURNS * TURNS),
    "wait_share": made[0] / made[1],
    "more_time": made[1] / same[1] - 1,
    "more_cpu": made[2] / same[2] - 1,
  }


def alone(name: str, config: ConfigDict, seconds: float) -> dict:
  """One row: batches of some settings, made for so many seconds."""
  config.train.steps = ENDLESS
  experiment = config_lib.from_config_dict(config)
  start = time.perf_counter()
  batches = batches_lib.train_batches(build.make_task(experiment), experiment)
  for _ in range(FIRST):
    next(batches)
  first = time.perf_counter() - start
  number, start, cpu = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() < start + seconds:
    next(batches)
    number += 1
  wall, cpu = time.perf_counter() - start, time.process_time() - cpu
  size = experiment.batch_size
  return {
    "of": name,
    "size": f"{size}x{experiment.length}",
    "examples_per_second": number * size / wall,
    "cpu_milliseconds_per_batch": 1e3 * cpu / number,
    "first_seconds": first,
  }


def table(rows: list[dict]) -> str:
  """The rows, all of one kind, under their names."""
  cells = [list(rows[0])] + [
    [x if isinstance(x, str) else f"{x:.4g}" for x in row.values()]
    for row in rows
  ]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)


def main() -> None:
  """Parses the command line, measures, prints, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--seconds", type=float, default=1.0)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  if args.steps < TURNS or args.seconds <= 0:
    parser.error(f"--steps must be at least {TURNS}, --seconds above 0")
  names = sorted(registry.experiments())
  trained = [training(name, args.steps) for name in names]
  rows = [
    alone(name, config_lib.template(name), args.seconds)
    for name in registry.names(config_lib.TASKS)
  ]
  for name in names:
    full = f"{name} (full size)"
    try:
      rows.append(alone(full, registry.load_config(name), args.seconds))
    except ValueError as error:  # texts that are not prepared
      print(f"{full} is left out: {error}\n")
  print(table(trained), table(rows), sep="\n\n")
  write(args.out, training=trained, alone=rows)


if __name__ == "__main__":
  main()
