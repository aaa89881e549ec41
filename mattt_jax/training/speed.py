"""Speed of a run from log to log, and traces of single steps."""

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
  """Counts what is done between two logs."""

  def __init__(self, ideal: Ideal | None = None):
    self.ideal = ideal  # gives the utilisation (MFU)
    self.seconds = {"compile": 0.0}  # of the whole run
    self._restart()

  def _restart(self) -> None:
    self.start = time.perf_counter()
    self.steps = self.tokens = 0
    self.seconds |= {"idle": 0.0, "data": 0.0, "ideal": 0.0}

  @contextmanager
  def timed(self, *kinds: str):
    """Counts the seconds in here as "idle" (not the run's own: saving,
    evaluating), "compile", or "data" (waiting for a batch)."""
    start = time.perf_counter()
    yield
    for kind in kinds:
      self.seconds[kind] += time.perf_counter() - start

  def step(self, parts: Parts, length: int, tokens: int) -> None:
    """Counts an outer step on so many tokens."""
    self.steps += 1
    self.tokens += tokens
    if self.ideal is not None:
      self.seconds["ideal"] += self.ideal(parts, length)

  def row(self) -> dict[str, float]:
    """Metrics since the last row."""
    own = time.perf_counter() - self.start - self.seconds["idle"]
    seconds = max(own, 1e-9)
    row = {
      "tokens_per_second": self.tokens / seconds,
      "seconds_per_step": seconds / max(self.steps, 1),
      # At most this share of the time was spent waiting for data.
      "data_wait_share": self.seconds["data"] / seconds,
      "compile_seconds": self.seconds["compile"],
      "peak_bytes": peak_bytes(),
    }
    if self.ideal is not None:
      row["mfu"] = self.seconds["ideal"] / seconds
    self._restart()
    return row


class Trace:
  """A `jax.profiler` trace of `steps` outer steps, written to `directory`, for
  TensorBoard's profile plugin and Perfetto."""

  def __init__(self, directory: pathlib.Path, steps: int):
    self.directory = directory
    # The first two steps compile and warm up.
    self.ends = (2, 2 + steps) if steps else ()
    self.done = 0
    self.on = False

  def toggles_after(self, results) -> bool:
    """Whether the trace begins or ends after one more step, which was started
    and gives `results`; if so, waits for them."""
    self.done += 1
    if self.done not in self.ends:
      return False
    jax.block_until_ready(results)
    return True

  def toggle(self) -> None:
    """Begins the trace, or ends it."""
    if self.on:
      jax.profiler.stop_trace()
    else:
      jax.profiler.start_trace(self.directory)
    self.on = not self.on

  def close(self) -> None:
    """Ends a trace that is being made."""
    if self.on:
      self.toggle()
