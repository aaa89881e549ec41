"""Checkpoints that know whether they are whole, and the work directory.

Every item carries a checksum that is verified when it is read back: a file
that was truncated, lost or changed by one bit is never mistaken for a state.
Arrays are summed on the devices, so that the checksum does not depend on how
they are sharded and costs no copy.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mattt_jax import config as config_lib
from mattt_jax import processes
from mattt_jax.sharding import path_name
from mattt_jax.tasks import base

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer"
CONTENTS_FILE = "contents.json"
_LONGEST_SAVE = 10**6  # seconds
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
  """A checkpoint cannot be used; the message names it and the reason."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What a checkpoint held. `damaged`: newer steps that could not be read."""

  step: int
  state: Any
  data: Any  # JSON
  config: dict[str, Any]
  damaged: tuple[int, ...]


class Checkpoints:
  """The checkpoints of one run, in `directory`/<step>; keeps the `keep` newest,
  and that of step `best`.

  `keep=None` only reads. Of several processes, each saves its part of the
  arrays, and all call the same methods.
  """

  def __init__(self, directory: str | os.PathLike, keep: int | None = None):
    self.directory = pathlib.Path(directory).absolute()
    self.best: int | None = None
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_Kept(self, keep),
        read_only=keep is None,
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,
        # By the wall clock, which may jump.
        async_options=ocp.AsyncOptions(timeout_secs=_LONGEST_SAVE),
        lightweight_initialize=True,  # a damaged step must not stop the scan
      ),
    )

  def steps(self) -> list[int]:
    """Returns the steps that have a committed checkpoint, oldest first."""
    self._manager.reload()
    return sorted(self._manager.all_steps())

  def save(
    self, step: int, state: Any, data: Any, config: dict[str, Any]
  ) -> None:
    """Starts to save; returns when `state` may be donated.

    `data` and `config` are JSON values; errors of an earlier save surface
    here or in `close`.
    """
    data, config = _plain(data), _plain(config)
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
      CheckpointError: something of it is missing or is not what was saved.
    """
    failure: Exception | None = None
    wrong: list[str] = []
    try:
      read = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(_abstract(like)),
          data=ocp.args.JsonRestore(),
          config=ocp.args.JsonRestore(),
          checksum=ocp.args.JsonRestore(),
        ),
      )
      sums = read.checksum
      actual = jax.device_get(checksums(read.state))
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
    return Restored(step, read.state, read.data, read.config, ())

  def restore_latest(self, like: Any) -> Restored | None:
    """Reads the newest good checkpoint; None if there is none at all.

    Damaged ones are passed over, each with a warning.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
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
      target = path.with_name(f"damaged-{step}")
      for number in range(1, 1000):
        if not target.exists():
          break
        target = path.with_name(f"damaged-{step}-{number}")
      path.rename(target)
    processes.meet("damaged checkpoints set aside")
    self._manager.reload()

  def latest_step(self) -> int | None:
    """Returns the newest step of which the save has ended, None if none."""
    return max(self.steps(), default=None)

  def wait(self) -> None:
    """Waits until what was saved is on disk; raises what went wrong."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for the save under way, then lets go of the directory."""
    self._manager.close()


class _Kept(preservation_policy.PreservationPolicy):
  """The newest `number`, and the best."""

  def __init__(self, checkpoints: Checkpoints, number: int | None):
    self.checkpoints, self.number = checkpoints, number

  def should_preserve(self, checkpoints, *, context):
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*sorted(steps)[-(self.number or len(steps)) :]}
    return [step in kept or step == self.checkpoints.best for step in steps]


@jax.jit
def checksums(tree: Any) -> dict[str, jax.Array]:
  """Sums each array's bits into a uint32; one changed element changes it."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): _checksum(leaf) for path, leaf in leaves}


def _checksum(x: jax.Array) -> jax.Array:
  """Sum over i of mix(bits_i + mix(i)), mod 2^32; mix is a bijection.

  (The finaliser of MurmurHash3.) Integer sums do not depend on their order.
  """
  width = jnp.dtype(x.dtype).itemsize
  if x.dtype == jnp.bool_:
    bits = x.astype(jnp.uint32)
  elif width <= 4:
    bits = lax.bitcast_convert_type(x, f"uint{8 * width}").astype(jnp.uint32)
  else:
    bits = lax.bitcast_convert_type(x, jnp.uint32)  # adds a last axis of 2
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis in range(bits.ndim):
    stride = math.prod(bits.shape[axis + 1 :]) % 2**32
    index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(
      stride
    )
  return jnp.sum(_mix(bits + _mix(index)), dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
  return h ^ (h >> np.uint32(16))


def bind_workdir(
  workdir: str | os.PathLike, experiment: config_lib.Experiment
) -> pathlib.Path:
  """Makes `workdir` this experiment's own, or checks that it is.

  Raises:
    ValueError: it belongs to other settings (every differing field is named),
      or is not a work directory.
  """
  workdir = pathlib.Path(workdir).absolute()
  path = workdir / CONFIG_FILE
  if path.exists():
    require_same_config(f"workdir={workdir}", read_config(workdir), experiment)
    return workdir
  config_lib.require(
    not workdir.exists() or workdir.is_dir(),
    f"workdir={workdir} is a file: name a directory",
  )
  config_lib.require(
    not (workdir / "checkpoints").exists(),
    f"workdir={workdir} has checkpoints but no {CONFIG_FILE}, so their "
    "settings are unknown: put the file back or use another workdir",
  )
  config_lib.require(
    processes.is_first(),
    f"workdir={workdir} is not there in process {jax.process_index()}, but in "
    "the first one: name a directory that all hosts share",
  )
  with writing("workdir", workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, _plain(config_lib.to_dict(experiment)))
  return workdir


@contextlib.contextmanager
def writing(field: str, directory: pathlib.Path) -> Iterator[None]:
  """Says of an `OSError` in here which directory cannot be written."""
  try:
    yield
  except OSError as error:
    raise ValueError(
      f"{field}={directory} cannot be written ({error.strerror}): name a "
      "directory on a disk that is there, writable and not full"
    ) from error


def keep_tokenizer(workdir: pathlib.Path, task: Any) -> None:
  """Copies the file of the task's tokenizer, if there is one, to `workdir`.

  The settings hold its sha256, so that another one in its place is refused.
  `with_own_tokenizer` reads the copy.
  """
  content = getattr(getattr(task, "tokenizer", None), "content", b"")
  if content:
    _write(workdir / TOKENIZER_FILE, content)


def keep_contents(workdir: pathlib.Path, task: Any) -> None:
  """Writes checksums of the documents that the task reads, if it reads any, or
  compares them with those there.

  Raises:
    ValueError: documents are missing, other, or new; the message names them.
  """
  if not isinstance(task, base.ReadingTask):
    return
  here, path = task.contents(), workdir / CONTENTS_FILE
  there = json.loads(path.read_text()) if path.exists() else here
  missing = sorted(there.keys() - here.keys())
  new = sorted(here.keys() - there.keys())
  other = sorted(k for k in there.keys() & here.keys() if there[k] != here[k])
  found = [
    f"{', '.join(names[:3])}{' and others' * (len(names) > 3)} {what}"
    for names, what in (
      (missing, "missing"),
      (other, "changed"),
      (new, "new"),
    )
    if names
  ]
  config_lib.require(
    not found,
    f"workdir={workdir}: the data are not those that the run began with "
    f"({'; '.join(found)}): put them back, or use another workdir",
  )
  write_json(path, here)


def require_same_config(
  what: str, there: dict[str, Any], experiment: config_lib.Experiment
) -> None:
  """Raises `ValueError` naming every field in which `what` differs; the mesh
  may, and where the file of the tokenizer is, whose checksum must not."""
  here = _plain(config_lib.to_dict(experiment))
  there, here = (_without_path(config_lib.identity(x)) for x in (there, here))
  lines = config_lib.differences(there, here)
  config_lib.require(
    not lines,
    f"{what} belongs to a run with other settings; use another workdir, or the "
    "settings it was started with. Differing fields (there -> here):\n  "
    + "\n  ".join(lines),
  )


def _without_path(tree: dict[str, Any]) -> dict[str, Any]:
  task = tree.get("task", {})
  if not task.get("tokenizer_sha256"):
    return tree
  return tree | {"task": {k: v for k, v in task.items() if k != "tokenizer"}}


def with_own_tokenizer(
  tree: dict[str, Any], workdir: str | os.PathLike
) -> dict[str, Any]:
  """The settings `tree` of a run, with the copy of the tokenizer that it keeps
  in `workdir`, if it does: the work directory can be anywhere."""
  kept = pathlib.Path(workdir).absolute() / TOKENIZER_FILE
  if not kept.is_file() or not tree.get("task", {}).get("tokenizer_sha256"):
    return tree
  return tree | {"task": tree["task"] | {"tokenizer": str(kept)}}


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the settings (as `config.to_dict`) that `workdir` belongs to.

  Raises:
    ValueError: it has no readable `config.json`.
  """
  path = pathlib.Path(workdir) / CONFIG_FILE
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f"workdir={workdir}: {path} cannot be read ({error}); name the workdir "
      "of a run, or put the file back"
    ) from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` so that a reader finds the old file or the new one whole."""
  text = json.dumps(value, indent=2, allow_nan=False) + "\n"
  _write(path, text.encode())


def _write(path: pathlib.Path, content: bytes) -> None:
  partial = path.with_name(path.name + ".partial")
  partial.write_bytes(content)
  os.replace(partial, path)


def _abstract(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def _plain(value: Any) -> Any:
  """`value` as JSON gives it back (tuples become lists)."""
  return json.loads(json.dumps(value, allow_nan=False))


def _json_sum(value: Any) -> int:
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())
