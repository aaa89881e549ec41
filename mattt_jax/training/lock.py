"""One run at a time in a work directory."""

import fcntl
import json
import os
import pathlib
import socket
from typing import IO

FILE = "training.lock"


class LockedError(ValueError):
  """Another process trains in the work directory."""


def take(workdir: pathlib.Path) -> IO[str]:
  """Locks `workdir` until the returned file is closed, or the process ends,
  however it does: the lock is the operating system's, not the file's.

  Raises:
    LockedError: another process has it; the message says which.
    OSError: the directory cannot be written.
  """
  file = (workdir / FILE).open("a+")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    owner = _owner(file.read())
    file.close()
    raise LockedError(
      f"workdir={workdir} is in use by {owner}: wait for it to end, stop it, "
      "or name another workdir"
    ) from error
  file.truncate(0)
  json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
  file.flush()
  return file


def _owner(text: str) -> str:
  try:
    owner = json.loads(text)
    return f"process {owner['pid']} on {owner['host']}"
  except (ValueError, KeyError, TypeError):
    return "another process"
