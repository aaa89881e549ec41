"""The cache on disk: MATTT_CACHE, default ~/.cache/mattt_jax."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def home() -> Path:
  """Folder that keeps prepared data and compiled programs between runs."""
  folder = os.environ.get("MATTT_CACHE") or "~/.cache/mattt_jax"
  return Path(folder).expanduser()


@contextlib.contextmanager
def filled_aside(target: Path) -> Iterator[Path]:
  """A new folder to fill, which then becomes `target`, whole or not at all;
  raises `ValueError` if it cannot be made."""
  aside = target.parent / f".aside-{uuid.uuid4().hex}"
  try:
    aside.mkdir(parents=True)
  except OSError as error:
    raise not_writable(target.parent, error) from error
  try:
    yield aside
    try:
      aside.rename(target)
    except OSError:  # another process was first; its copy is as good
      if not target.exists():
        raise
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def not_writable(folder: Path, error: OSError) -> ValueError:
  """The error of a cache that cannot be written."""
  return ValueError(
    f"cannot write to the cache {folder}: {error.strerror}: set MATTT_CACHE to "
    "a directory that can be written"
  )
