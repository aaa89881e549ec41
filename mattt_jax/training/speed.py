"""How fast a run goes, from log to log, and traces of single steps."""

import pathlib
import time
from collections.abc import Callable
from contextlib import contextmanager

import jax

from mattt_jax.devices.memory_use import peak_bytes
from mattt_jax.ttt.parts import Parts

# (parts, length) -> seconds that an outer step takes at the peak.
Ideal = Callable[[Parts, int], float]


class Speed:
  """Counts what is done between two logs; `idle` time is not the run's own."""

  def __init__(self, ideal: Ideal | None = None):
    """`ideal`: of a step, with which the utilisation (MFU) is known."""
    self.ideal = ideal
    self.compile_seconds = 0.0  # of the whole run
    self._restart()

  def _restart(self) -> None:
    self.start = time.perf_counter()
    self.steps = self.tokens = 0
    self.idle_seconds = self.data_seconds = self.ideal_seconds = 0.0

  @contextmanager
  def idle(self):
    """Time that is not counted: compiling, saving, evaluating."""
    start = time.perf_counter()
    yield
    self.idle_seconds += time.perf_counter() - start

  @contextmanager
  def compiling(self):
    """`idle`, and counted in `compile_seconds`."""
    before = self.idle_seconds
    with self.idle():
      yield
    self.compile_seconds += self.idle_seconds - before

  @contextmanager
  def waiting_for_data(self):
    """Time in which there is no batch."""
    start = time.perf_counter()
    yield
    self.data_seconds += time.perf_counter() - start

  def step(self, parts: Parts, length: int, tokens: int) -> None:
    """One outer step was taken, on so many tokens."""
    self.steps += 1
    self.tokens += tokens
    if self.ideal is not None:
      self.ideal_seconds += self.ideal(parts, length)

  def row(self) -> dict[str, float]:
    """The metrics since the last row; those of the next one start now."""
    seconds = max(time.perf_counter() - self.start - self.idle_seconds, 1e-9)
    row = {
      "tokens_per_second": self.tokens / seconds,
      "seconds_per_step": seconds / max(self.steps, 1),
      # At most this share of the time was spent waiting for data.
      "data_wait_share": self.data_seconds / seconds,
      "compile_seconds": self.compile_seconds,
      "peak_bytes": peak_bytes(),
    }
    if self.ideal is not None:
      row["mfu"] = self.ideal_seconds / seconds
    self._restart()
    return row


class Trace:
  """A `jax.profiler` trace of `steps` outer steps, written to `directory`.

  It leaves out the first `after` steps, which are compiled and warm up;
  TensorBoard's profile plugin and Perfetto show it.
  """

  def __init__(self, directory: pathlib.Path, steps: int, after: int = 2):
    self.directory = directory
    self.first, self.last = after, after + steps
    self.done = 0
    self.on = False

  def turns(self, results) -> bool:
    """One more step was started, which gives `results`: does the trace begin or
    end after it? If so, it has been waited for."""
    self.done += 1
    if self.first == self.last or self.done not in (self.first, self.last):
      return False
    jax.block_until_ready(results)
    return True

  def turn(self) -> None:
    """Begins the trace, or ends it."""
    if self.on:
      jax.profiler.stop_trace()
    else:
      jax.profiler.start_trace(self.directory)
    self.on = not self.on

  def close(self) -> None:
    """Ends a trace that is being made."""
    if self.on:
      self.turn()
