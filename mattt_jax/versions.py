"""What the installed Python and libraries must be, in one line if they are not.

The bounds are those of `pyproject.toml`, as the installed package states them.
Nothing but the standard library is imported, so that the line comes first.
"""

import re
import sys
from importlib import metadata

_PACKAGE = "mattt-jax"
_PYTHON = (3, 11)


def problem() -> str | None:
  """The first version that is too old or missing, and what is needed."""
  if sys.version_info < _PYTHON:
    found = ".".join(map(str, sys.version_info[:3]))
    return f"Python {found} is too old: use Python 3.11 or newer"
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
      found = metadata.version(name)
    except metadata.PackageNotFoundError:
      return f"{name} is not installed: pip install '{name}>={least}'"
    if _numbers(found) < _numbers(least):
      return f"{name} {found} is too old: pip install '{name}>={least}'"
  return None


def _numbers(version: str) -> tuple[int, ...]:
  release = re.match(r"[\d.]*\d", version)
  return tuple(map(int, release[0].split("."))) if release else ()
