"""The work directory of a run: its settings and its files."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from mattt_jax import config as config_lib
from mattt_jax.devices import processes
from mattt_jax.tasks import base

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer"
CONTENTS_FILE = "contents.json"
CHECKPOINTS = "checkpoints"
EVALUATION_FILE = "evaluation.json"


def bind(
  workdir: str | os.PathLike, experiment: config_lib.Experiment
) -> pathlib.Path:
  """Makes `workdir` this experiment's own, or checks that it is.

  Raises:
    ValueError: it belongs to other settings, or is not a work directory.
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
    not (workdir / CHECKPOINTS).exists(),
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
    write_json(path, plain(config_lib.to_dict(experiment)))
  return workdir


@contextlib.contextmanager
def writing(field: str, directory: pathlib.Path) -> Iterator[None]:
  """Turns an `OSError` into a `ValueError` that names `directory`."""
  try:
    yield
  except OSError as error:
    raise ValueError(
      f"{field}={directory} cannot be written ({error.strerror}): name a "
      "directory on a disk that is there, writable and not full"
    ) from error


def keep_tokenizer(workdir: pathlib.Path, task: Any) -> None:
  """Copies the file of the task's tokenizer, if there is one, to `workdir`, for
  `with_own_tokenizer`. The settings hold its sha256."""
  content = getattr(getattr(task, "tokenizer", None), "content", b"")
  if content:
    write_bytes(workdir / TOKENIZER_FILE, content)


def keep_contents(workdir: pathlib.Path, task: Any) -> None:
  """Writes checksums of the documents that a `ReadingTask` reads, or compares
  them with those there.

  Raises:
    ValueError: documents are missing, changed, or new.
  """
  if not isinstance(task, base.ReadingTask):
    return
  here, path = task.contents(), workdir / CONTENTS_FILE
  there = json.loads(path.read_text()) if path.exists() else here
  changed = {k for k in there.keys() & here.keys() if there[k] != here[k]}
  differences = {
    "missing": there.keys() - here.keys(),
    "changed": changed,
    "new": here.keys() - there.keys(),
  }
  shown = [
    f"{', '.join(sorted(names)[:3])}{' and others' * (len(names) > 3)} {what}"
    for what, names in differences.items()
    if names
  ]
  config_lib.require(
    not shown,
    f"workdir={workdir}: the data are not those that the run began with "
    f"({'; '.join(shown)}): put them back, or use another workdir",
  )
  write_json(path, here)


def require_same_config(
  what: str, there: dict[str, Any], experiment: config_lib.Experiment
) -> None:
  """Raises `ValueError` naming every field in which `what` differs, but for the
  mesh and the path of the tokenizer's file."""
  here = plain(config_lib.to_dict(experiment))
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
  """Settings `tree` of a run, with the tokenizer that it keeps in `workdir`."""
  kept = pathlib.Path(workdir).absolute() / TOKENIZER_FILE
  if not kept.is_file() or not tree.get("task", {}).get("tokenizer_sha256"):
    return tree
  return tree | {"task": tree["task"] | {"tokenizer": str(kept)}}


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Settings (as `config.to_dict`) that `workdir` belongs to.

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


def finished(workdir: pathlib.Path, steps: int) -> dict[str, Any] | None:
  """Result of the run of so many steps; None before its end.

  Raises:
    ValueError: the file is damaged.
  """
  path = workdir / EVALUATION_FILE
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged ({error}): remove it, and it is made again from the "
      "last checkpoint"
    ) from error
  return result if result["step"] == steps else None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` as JSON, whole as `write_bytes`."""
  text = json.dumps(value, indent=2, allow_nan=False) + "\n"
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes so that a reader finds the old file or the new one whole."""
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  partial.write_bytes(content)
  os.replace(partial, path)


def plain(value: Any) -> Any:
  """`value` as JSON gives it back (tuples become lists)."""
  return json.loads(json.dumps(value, allow_nan=False))
