"""Whether Python and the libraries are as new as `pyproject.toml` asks.

It imports the standard library alone, so that its message comes first.
"""

import re
import sys
from importlib import metadata

_PACKAGE = "mattt-jax"
_PYTHON = (3, 11)


def problem() -> str | None:
  """The first version that is too old or missing, and what is needed."""
  if sys.version_info < _PYTHON:
    version = ".".join(map(str, sys.version_info[:3]))
    return f"Python {version} is too old: use Python 3.11 or newer"
  try:
    required = metadata.requires(_PACKAGE) or []
  except metadata.PackageNotFoundError:
    return None  # a checkout on the path, not installed
  for text in required:
    match = re.match(r"([\w.-]+)[^;]*?>=([\d.]+)[^;]*$", text)
    if not match:
      continue  # of an extra, or any version
    name, least = match.groups()
    try:
      version = metadata.version(name)
    except metadata.PackageNotFoundError:
      return f"{name} is not installed: pip install '{name}>={least}'"
    if _numbers(version) < _numbers(least):
      return f"{name} {version} is too old: pip install '{name}>={least}'"
  return None


def _numbers(version: str) -> tuple[int, ...]:
  release = re.match(r"[\d.]*\d", version)
  return tuple(map(int, release[0].split("."))) if release else ()
