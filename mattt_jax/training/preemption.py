"""Preemption: a machine that is taken away sends SIGTERM before.

The step under way ends, its state is saved, and the process stops with exit
code 42, after which launchers start it again. A notice to one of several
processes reaches all, and they stop after the same step.
"""

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 42


class PreemptedError(RuntimeError):
  """The run was told to stop; it was saved, and the same command goes on."""


class Notice:
  """Whether this run was told to stop. Takes SIGTERM over until `close`."""

  def __init__(self):
    self._told = False
    self._error: PreemptedError | None = None
    # With several processes, JAX's own service listens.
    self._alone = jax.process_count() == 1
    self._before: Any = None
    if self._alone:
      try:
        self._before = signal.signal(signal.SIGTERM, self._tell)
      except ValueError:  # not the main thread, which gets all signals
        self._alone = False

  def _tell(self, number: int, frame: object) -> None:
    del number, frame
    self._told = True
    if self._error is not None:
      raise self._error

  def raise_at_once(self, error: PreemptedError) -> None:
    """Makes a notice raise `error` at once from now on."""
    self._error = error

  def stops_after(self, step: int) -> bool:
    """Whether this step is the last; asked after each step, by each process."""
    if jax.process_count() == 1:
      return self._told
    return multihost_utils.reached_preemption_sync_point(step)

  def close(self) -> None:
    """Gives the signal back."""
    if self._alone:
      signal.signal(signal.SIGTERM, self._before)
