"""Checkpoints with a checksum of every item, verified on reading.

Arrays are summed on the devices: the checksum does not depend on how they are
sharded, and costs no copy.
"""

import dataclasses
import json
import logging
import math
import os
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mattt_jax.devices import processes
from mattt_jax.devices.sharding import path_name
from mattt_jax.training.workdir import plain

_LONGEST_SAVE = 10**6  # seconds
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
  """A checkpoint cannot be used; the message names it and the reason."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """Content of a checkpoint."""

  step: int
  state: Any
  data: Any  # JSON
  config: dict[str, Any]
  damaged: tuple[int, ...] = ()  # newer steps that could not be read


class Checkpoints:
  """Keeps the best and the `keep` newest checkpoints in `directory`/<step>.

  `keep=None` only reads. All processes of a run call the same methods; each
  saves its part of the arrays.
  """

  def __init__(self, directory: str | os.PathLike, keep: int | None = None):
    self.directory = pathlib.Path(directory).absolute()
    self._kept = _Kept(keep)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._kept,
        read_only=keep is None,
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,
        # Orbax waits by the wall clock, which may jump.
        async_options=ocp.AsyncOptions(timeout_secs=_LONGEST_SAVE),
        lightweight_initialize=True,  # a damaged step must not stop the scan
      ),
    )

  def steps(self) -> list[int]:
    """Returns the steps that have a committed checkpoint, oldest first."""
    self._manager.reload()
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    data: Any,
    config: dict[str, Any],
    best: int | None = None,
  ) -> None:
    """Starts to save; returns when `state` may be donated.

    `best`: the step to keep beside the newest. `data` and `config` are JSON
    values. Errors of an earlier save surface here or in `close`.
    """
    data, config = plain(data), plain(config)
    self._kept.best = best
    sums = {
      "state": {k: int(v) for k, v in jax.device_get(checksums(state)).items()},
      "data": _json_sum(data),
      "config": _json_sum(config),
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        config=ocp.args.JsonSave(config),
        checksum=ocp.args.JsonSave(sums),
      ),
    )

  def restore(self, step: int, like: Any) -> Restored:
    """Reads `step` into arrays shaped and placed as those of `like`.

    Raises:
      CheckpointError: a part is missing or is not what was saved.
    """
    failure: Exception | None = None
    wrong: list[str] = []
    try:
      read = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(like),
          data=ocp.args.JsonRestore(),
          config=ocp.args.JsonRestore(),
          checksum=ocp.args.JsonRestore(),
        ),
      )
      sums, actual = read.checksum, jax.device_get(checksums(read.state))
      wrong = [k for k, v in actual.items() if sums["state"].get(k) != int(v)]
      wrong += [k for k in ("data", "config") if sums[k] != _json_sum(read[k])]
    except Exception as error:  # damage surfaces as almost any type
      failure = error
    # What one process cannot read, none of them uses.
    if not processes.all_agree(failure is None):
      failure = failure or ValueError("another process could not read it")
      reason = " ".join(str(failure).split()) or "no reason given"
      raise CheckpointError(
        f"checkpoint {self.directory / str(step)} cannot be read: "
        f"{type(failure).__name__}: {reason[:300]}"
      ) from failure
    if wrong:
      raise CheckpointError(
        f"checkpoint {self.directory / str(step)} was changed after it was "
        f"saved: the checksum of {wrong[0]} differs"
      )
    return Restored(step, read.state, read.data, read.config)

  def restore_latest(self, like: Any) -> Restored | None:
    """Reads the newest good checkpoint, warning of damaged ones; None if there
    is none at all.

    Raises:
      CheckpointError: all checkpoints are damaged.
    """
    failures: dict[int, str] = {}
    for step in reversed(self.steps()):
      try:
        restored = self.restore(step, like)
      except CheckpointError as error:
        _log.warning("%s; trying the one before", error)
        failures[step] = str(error)
        continue
      if failures:
        _log.warning("using the checkpoint of step %d instead", step)
      return dataclasses.replace(restored, damaged=tuple(failures))
    if failures:
      raise CheckpointError(
        f"all {len(failures)} checkpoints in {self.directory} are damaged; "
        "restore them from a backup or use another workdir:\n"
        + "\n".join(failures.values())
      )
    return None

  def set_aside(self, steps: tuple[int, ...]) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again."""
    for step in steps if processes.is_first() else ():
      path = self.directory / str(step)
      target, number = path.with_name(f"damaged-{step}"), 0
      while target.exists():
        number += 1
        target = path.with_name(f"damaged-{step}-{number}")
      path.rename(target)
    processes.meet("damaged checkpoints set aside")
    self._manager.reload()

  def wait(self) -> None:
    """Waits until what was saved is on disk; raises what went wrong."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for the save under way, then lets go of the directory."""
    self._manager.close()


class _Kept(preservation_policy.PreservationPolicy):
  def __init__(self, number: int | None):
    self.number = number
    self.best: int | None = None

  def should_preserve(self, checkpoints, *, context):
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {self.best, *sorted(steps)[-(self.number or len(steps)) :]}
    return [step in kept for step in steps]


@jax.jit
def checksums(tree: Any) -> dict[str, jax.Array]:
  """Sums each array's bits into a uint32; one changed element changes it."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): _checksum(leaf) for path, leaf in leaves}


def _checksum(x: jax.Array) -> jax.Array:
  """Sum over i of mix(bits_i + mix(i)), mod 2^32, in any order; mix is a
  bijection (the finaliser of MurmurHash3)."""
  width = jnp.dtype(x.dtype).itemsize
  if x.dtype == jnp.bool_:
    bits = x.astype(jnp.uint32)
  elif width <= 4:
    bits = lax.bitcast_convert_type(x, f"uint{8 * width}").astype(jnp.uint32)
  else:
    bits = lax.bitcast_convert_type(x, jnp.uint32)  # adds a last axis of 2
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis in range(bits.ndim):
    stride = np.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
    index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * stride
  return jnp.sum(_mix(bits + _mix(index)), dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
  return h ^ (h >> np.uint32(16))


def _json_sum(value: Any) -> int:
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())
