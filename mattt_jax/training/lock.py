"""Locks of work directories, which one process holds at a time.

A lock is the operating system's: it ends when the file that `try_lock` returns
is closed, or its process ends, however it does. The file stays: whoever deleted
it could delete the one that another has just locked.
"""

import fcntl
import os
import pathlib
import socket
from typing import IO

FILE = "training.lock"


class LockedError(ValueError):
  """Another process trains in the work directory."""


def take(workdir: pathlib.Path) -> IO[str]:
  """Locks `workdir` for training.

  Raises:
    LockedError: another process has it; the message says which.
    OSError: the directory cannot be written.
  """
  path = workdir / FILE
  file = try_lock(path)
  if file is None:
    raise LockedError(
      f"workdir={workdir} is in use by {holder(path) or 'another process'}: "
      "wait for it to end, stop it, or name another workdir"
    )
  return file


def try_lock(path: pathlib.Path) -> IO[str] | None:
  """The locked file, or None if somebody else holds it; never waits."""
  file = path.open("a+")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    file.close()
    if isinstance(error, BlockingIOError):
      return None
    raise
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()
  return file


def holder(path: pathlib.Path) -> str | None:
  """Who holds the lock; None if nobody does."""
  if not path.exists():
    return None
  with path.open() as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return file.read().strip()
  return None
