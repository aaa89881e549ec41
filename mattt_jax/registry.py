"""One registration: the name of a file is the name of the thing in it.

`tasks/associative_recall.py` is the task `associative_recall`; there is no
other list to keep. Files named `base` or starting with `_` are not entries.
"""

import importlib
import pkgutil
from types import ModuleType

_NOT_ENTRIES = frozenset({"base"})


def names(package: str) -> tuple[str, ...]:
  """Returns the sorted names registered in `package` ("mattt_jax.tasks")."""
  paths = importlib.import_module(package).__path__
  found = (m.name for m in pkgutil.iter_modules(paths))
  return tuple(
    sorted(n for n in found if n not in _NOT_ENTRIES and n[0] != "_")
  )


def load(package: str, name: str) -> ModuleType:
  """Imports the entry `name` of `package`.

  Raises:
    ValueError: no file of that name; the message lists the names there are.
  """
  known = names(package)
  if name not in known:
    kind = package.rsplit(".", 1)[-1]
    raise ValueError(
      f"unknown name {name!r} in {kind}: expected one of {', '.join(known)}"
    )
  return importlib.import_module(f"{package}.{name}")
