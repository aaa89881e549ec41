"""What the benchmarks share: clocks, and reports."""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import jax


def in_turns(
  calls: Mapping[str, Callable[[int], object]], repeats: int
) -> dict[str, tuple[float, float]]:
  """Medians of wall seconds, and of CPU seconds of the process (all threads).

  Each of `calls` gets the number of the turn, one after the other, so that a
  slow minute meets all; the clock stops when its result is there. The first
  turn warms up.
  """
  seconds = {name: [] for name in calls}
  for turn in range(repeats + 1):
    for name, call in calls.items():
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(call(turn))
      if turn:
        seconds[name].append(
          (time.perf_counter() - wall, time.process_time() - cpu)
        )
  return {
    name: tuple(map(statistics.median, zip(*both, strict=True)))
    for name, both in seconds.items()
  }


def machine() -> dict:
  """The machine on which the figures were measured."""
  return {
    "platform": jax.default_backend(),
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "python": platform.python_version(),
    "jax": jax.__version__,
  }


def write(out: pathlib.Path | None, **content) -> None:
  """Writes the machine and `content` to `out`, if it is one."""
  if out is not None:
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), **content}
    out.write_text(json.dumps(report, indent=2) + "\n")
