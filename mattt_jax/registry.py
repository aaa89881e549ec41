"""One registration: `tasks/associative_recall.py` is the task of that name."""

import ast
import difflib
import importlib
import importlib.util
import pathlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from ml_collections import ConfigDict

# What the entries of a folder share; files that start with "_" are none either.
_NOT_ENTRIES = frozenset({"base", "batches", "build", "cli", "launch"})


def names(package: str) -> tuple[str, ...]:
  """Returns the sorted names registered in `package` ("mattt_jax.tasks")."""
  paths = importlib.import_module(package).__path__
  return _entries(m.name for m in pkgutil.iter_modules(paths))


def load(package: str, name: str) -> ModuleType:
  """Imports the entry `name` of `package`.

  Raises:
    ValueError: no file of that name; the message lists the names there are.
  """
  known = names(package)
  if name not in known:
    kind = package.rsplit(".", 1)[-1]
    raise ValueError(f"unknown name {name!r} in {kind}{suggest(name, known)}")
  return importlib.import_module(f"{package}.{name}")


def summaries(package: str) -> dict[str, str]:
  """The first line of each entry's docstring; imports none of them."""
  folders = importlib.import_module(package).__path__
  known = set(names(package))
  paths = [p for folder in folders for p in pathlib.Path(folder).glob("*.py")]
  return {p.stem: summary(p) for p in sorted(paths) if p.stem in known}


def experiments() -> dict[str, pathlib.Path]:
  """The files of `experiments/`: in an installed package, or beside it."""
  package = pathlib.Path(__file__).parent
  for folder in (package / "experiments", package.parent / "experiments"):
    if folder.is_dir():
      paths = {path.stem: path for path in folder.glob("*.py")}
      return {name: paths[name] for name in _entries(paths)}
  return {}


def load_config(text: str) -> "ConfigDict":
  """Returns what `get_config` of "FILE:ARG" or "NAME:ARG" gives.

  Raises:
    ValueError: no such experiment, or an argument it does not know.
  """
  module, _, arg = load_experiment(text)
  return module.get_config(*([] if arg is None else [arg]))


def load_experiment(text: str) -> tuple[ModuleType, str, str | None]:
  """The module of "FILE:ARG" or "NAME:ARG", FILE or NAME, and ARG or None.

  Raises:
    ValueError: no such file or experiment, or it has no `get_config`.
  """
  name, colon, arg = text.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    known = experiments()
    short = path.stem if path.parent.name in ("", "experiments") else name
    if short not in known:
      raise ValueError(
        f"config={text}: no file {name!r}, and no experiment of that name"
        + suggest(short, known)
      )
    path, name = known[short], short
  spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"config={text}: {path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ValueError(f"config={text}: {path} has no function get_config(arg)")
  return module, name, arg if colon else None


def summary(path: pathlib.Path) -> str:
  """The first line of a Python file's docstring, which is not executed."""
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
  return text.splitlines()[0] if text else ""


def suggest(name: str, known: Iterable[str]) -> str:
  """The end of an error message: what is known, and what was meant."""
  known = tuple(known)
  if not known:
    return ": there is nothing to choose from"
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  return f": expected one of {', '.join(known)}.{hint}"


def _entries(stems: Iterable[str]) -> tuple[str, ...]:
  kept = (s for s in stems if s not in _NOT_ENTRIES and s[0] != "_")
  return tuple(sorted(kept))
