"""The processes of a run: one on each host; the first one writes."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mattt_jax.config import require

_LONGEST = 4096  # bytes of an error's message that reach the other processes
_NUMBER, _INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join() -> None:
  """Joins the other processes of this job; before JAX has any devices.

  Cloud TPU, GKE, Slurm and Open MPI name them; elsewhere the variables
  JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID do.

  Raises:
    ValueError: neither does.
  """
  variables = {name: os.environ.get(name, "") for name in (_NUMBER, _INDEX)}
  for name, text in variables.items():
    require(
      not text or text.isdecimal(), f"{name}={text} must be a whole number"
    )
  try:
    number, index = (int(text) if text else None for text in variables.values())
    jax.distributed.initialize(num_processes=number, process_id=index)
  except ValueError as error:
    raise ValueError(
      f"--distributed: nothing here says who the others are ({error}). Set "
      f"JAX_COORDINATOR_ADDRESS, {_NUMBER} and {_INDEX}, or leave the flag out "
      "to train in one process"
    ) from error


def is_first() -> bool:
  """Whether this process writes files and speaks."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """Prints a line, in the first process."""
  if is_first():
    print(text, flush=True)


class OtherProcessError(RuntimeError):
  """Another process of the run failed, so that this one cannot go on."""


@contextlib.contextmanager
def together() -> Iterator[None]:
  """A block that fails in all processes if it fails in one, so that none waits
  for it; every process must enter it.

  Raises:
    OtherProcessError: in the other processes, with the number and the reason.
  """
  try:
    yield
  except Exception as error:
    _failures(str(error) or repr(error))
    raise
  for index, why in enumerate(_failures("")):
    if why:
      raise OtherProcessError(f"process {index} of the run failed: {why}")


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
  """`together`, with the block run in the first process before the others."""
  for mine in (is_first(), not is_first()):
    with together():
      if mine:
        yield


def _failures(why: str) -> list[str]:
  """The error of each process, "" where there is none."""
  if jax.process_count() == 1:
    return [why]
  said = np.zeros(_LONGEST, np.uint8)
  text = why.encode()[:_LONGEST]
  said[: len(text)] = np.frombuffer(text, np.uint8)
  rows = multihost_utils.process_allgather(said)
  return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]


def meet(what: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def all_agree(ok: bool) -> bool:
  """Whether `ok` is true in every process."""
  if jax.process_count() == 1:
    return ok
  return bool(multihost_utils.process_allgather(ok).all())


def fetch(tree: Any) -> Any:
  """Arrays as NumPy arrays, whole in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)
