"""Does the runs of a sweep, each once, in processes of their own.

Any number of these may work on one OUT (other terminals, members of a job
array): a run belongs to whoever holds its lock (sweeps/state.py). What is
finished is not done again; what was broken off goes on from its checkpoint.
"""

import collections
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from mattt_jax.config import require, require_at_least
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps import state as state_lib
from mattt_jax.sweeps.sweep import Run
from mattt_jax.training import preemption
from mattt_jax.training.lock import try_lock

LOG_FILE = "log.txt"
FAILED, INTERRUPTED = 1, 130  # exit codes
_LOOK = 0.05  # seconds between two looks at one's own processes
_ERROR_LINES = 4

Runner = Callable[[Run, pathlib.Path], Sequence[str]]


def train_command(run: Run, workdir: pathlib.Path) -> list[str]:
  """Command of the process that does a run."""
  program = [sys.executable, "-m", "mattt_jax.commands.cli", "train"]
  return [*program, *run.arguments, f"--workdir={workdir}"]


@dataclasses.dataclass
class _Process:
  run: Run
  lock: IO[str] | None
  process: subprocess.Popen
  log: pathlib.Path
  log_start: int  # bytes that were there before
  started: float
  slot: int


class SweepRunner:
  """Some runs of a sweep, to be done in `out`; call it to do them.

  Args:
    runs: those to do.
    out: directory of their directories.
    workers: processes at a time.
    together: the hosts of a slice do each run together: each calls this with
      the same runs, in order, without locks, and stops at the first failure.
    attempts: how often to start a run whose process a signal kills.
    runner: gives the command of a run.
    poll: seconds between two looks at what others do.
    report: gets a line for each event.

  Attributes:
    failed: errors by the hash of the run.
  """

  def __init__(
    self,
    runs: Sequence[Run],
    out: pathlib.Path,
    *,
    workers: int = 1,
    together: bool = False,
    attempts: int = 3,
    runner: Runner = train_command,
    poll: float = 1.0,
    report: Callable[[str], object] = print,
  ):
    require_at_least("workers", workers, 1)
    require_at_least("attempts", attempts, 1)
    require(
      workers == 1 or not together,
      f"workers={workers}: hosts do runs together one by one: use 1",
    )
    self.runs, self.out, self.workers = runs, out, workers
    self.together, self.attempts = together, attempts
    self.runner, self.poll, self.report = runner, poll, report
    self.failed: dict[str, str] = {}
    self._active: list[_Process] = []
    self._deaths: collections.Counter[str] = collections.Counter()
    self._stop: int | None = None  # the exit code to stop with
    self._began = 0.0

  def __call__(self) -> int:
    """Does the runs that are left, and waits for those that others do.

    Returns:
      0: all are finished; 1: some failed; 42: this machine is going away
      (SIGTERM, preemption), the same call elsewhere goes on; 130: interrupted.
    """
    self.out.mkdir(parents=True, exist_ok=True)
    self._began = time.time()
    # What failed before goes last: a new try must not hold up the others.
    pending = sorted(
      self.runs, key=lambda r: state_lib.state(r, self.out).name == "failed"
    )
    with self._signals():
      while self._stop is None and (pending or self._active):
        pending = self._start(pending)
        if pending and not self._active:
          time.sleep(self.poll)  # others have them
        pending += self._look()
      for active in self._active:
        active.process.send_signal(signal.SIGTERM)
      while self._active:
        self._look()
    if self._stop is not None:
      return self._stop
    return FAILED if self.failed else 0

  def _start(self, pending: Sequence[Run]) -> list[Run]:
    """Starts what it can; returns what is left for later."""
    left = []
    for run in pending:
      workdir = self.out / run.hash
      error = self._failed_elsewhere(workdir)
      if rows_lib.is_finished(workdir):
        self._say("finished", run)
      elif error:
        self.failed[run.hash] = error
        self._say("FAILED", run, error)
      elif len(self._active) >= self.workers or not self._try(run, workdir):
        left.append(run)
    return left

  def _failed_elsewhere(self, workdir: pathlib.Path) -> str:
    """Error of a run that another tried since this one began."""
    note = rows_lib.read_json(workdir / rows_lib.SWEEP_FILE)
    return note.get("error", "") if note.get("at", 0) >= self._began else ""

  def _try(self, run: Run, workdir: pathlib.Path) -> bool:
    """Starts a run, unless another has it or had it until now."""
    workdir.mkdir(exist_ok=True)
    lock = None
    if not self.together:
      lock = try_lock(workdir / state_lib.LOCK_FILE)
      if lock is None:
        return False
      if rows_lib.is_finished(workdir) or self._failed_elsewhere(workdir):
        lock.close()
        return False
    state_lib.write_note(run, workdir, {})
    command, log = self.runner(run, workdir), workdir / LOG_FILE
    if self.together:
      command = [*command, "--distributed"]
      log = workdir / f"{socket.gethostname()}.{LOG_FILE}"
    taken = {active.slot for active in self._active}
    slot = next(i for i in range(self.workers) if i not in taken)
    with log.open("ab") as file:
      start = file.tell()
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env=_environment(slot, self.workers),
        pass_fds=[lock.fileno()] if lock else [],
        start_new_session=True,  # an interrupt is for this process to hand on
      )
    self._active.append(
      _Process(run, lock, process, log, start, time.monotonic(), slot)
    )
    self._say("goes on" if start else "starts", run, f"log: {log}")
    return True

  def _look(self) -> list[Run]:
    """Takes processes that ended away; returns the runs to be tried again."""
    ended = [a for a in self._active if a.process.poll() is not None]
    if self._active and not ended:
      time.sleep(_LOOK)
    again = []
    for active in ended:
      self._active.remove(active)
      if self._end(active):
        again.append(active.run)
      if active.lock:
        active.lock.close()
    return again

  def _end(self, active: _Process) -> bool:
    """Notes how a process ended; returns whether to try its run again."""
    run, code = active.run, active.process.returncode
    workdir = self.out / run.hash
    killed = signal.Signals(-code).name if code < 0 else ""
    if code == preemption.EXIT_CODE or (code and self._stop is not None):
      self._say("stopped", run, killed or f"exit code {code}")
      self._stop = preemption.EXIT_CODE if self._stop is None else self._stop
      return False
    if killed and self.together:
      self._say("killed", run, f"{killed}; the other hosts start again too")
      self._stop = preemption.EXIT_CODE
      return False
    if killed:
      self._deaths[run.hash] += 1
      self._say("killed", run, killed)
      if self._deaths[run.hash] < self.attempts:
        return True
      error = f"killed by {killed}, {self._deaths[run.hash]} times"
    elif code:
      error = f"exit code {code}: {_tail(active.log, active.log_start)}"
    else:
      error = state_lib.wrong_result(run, workdir)
    if not error:
      self._say("finished", run, f"{time.monotonic() - active.started:.0f} s")
      return False
    self.failed[run.hash] = error
    state_lib.write_note(run, workdir, {"error": error, "at": time.time()})
    self._say("FAILED", run, error)
    if self.together and self._stop is None:
      self._stop = FAILED
    return False

  def _say(self, what: str, run: Run, more: str = "") -> None:
    self.report(f"{run.hash}  {what:<8}  {run.label}  {more}".rstrip())

  @contextmanager
  def _signals(self) -> Iterator[None]:
    """Hands a signal to stop on, so that what runs can save."""

    def stop(number: int, frame: object) -> None:
      del frame
      interrupted = number == signal.SIGINT
      self._stop = INTERRUPTED if interrupted else preemption.EXIT_CODE

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)


def _environment(slot: int, workers: int) -> dict[str, str]:
  """Gives each worker its part of the GPUs in CUDA_VISIBLE_DEVICES."""
  environment = dict(os.environ)
  devices = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
  if workers > 1 and len(devices) > 1:
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot::workers])
  return environment


def _tail(log: pathlib.Path, start: int) -> str:
  """Last lines of a log that a process wrote from byte `start` on."""
  with log.open("rb") as file:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(start, size - 8192))
    text = file.read().decode(errors="replace")
  lines = [line for line in text.splitlines() if line.strip()]
  errors = [i for i, line in enumerate(lines) if ": error: " in line]
  # The command's own message, without what comes before.
  first = errors[-1] if errors else max(0, len(lines) - _ERROR_LINES)
  return "\n".join(lines[first : first + _ERROR_LINES])
