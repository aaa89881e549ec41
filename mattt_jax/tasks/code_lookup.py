"""Code lookup: what a module far above imports from where, or takes.

A stretch of a Python module, then questions about its own text,

    # partial is imported from: functools
    # arguments of heappush: heap, item

about `from functools import partial`, functions and methods, which `ast` finds.
A name that the module imports from two places, or gives to two functions, is
not asked for, nor is a function without arguments. Arguments are in their order
and without defaults; `*args` and `**kwargs` keep their stars. An answer ends
with its line, so that none is the beginning of another.

The choice is among the modules, or the argument lists, of the stretch. Nothing
is asked about files that are not named *.py or that this version of Python
cannot parse.
"""

import ast
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from mattt_jax.config import require
from mattt_jax.tasks import _names, _questions

_KINDS = ("imports", "arguments")


@dataclasses.dataclass(frozen=True)
class Config(_questions.Config):
  """Settings, in addition to those of all questions about real text."""

  kind: str = "any"  # of question, or "imports", "arguments"

  def __post_init__(self):
    super().__post_init__()
    require(
      self.kind in ("any", *_KINDS),
      f"task.kind={self.kind!r} is not known: use any, {', '.join(_KINDS)}",
    )


class Task(_questions.Task):
  """The facts are imports from modules, and the arguments of functions."""

  config: Config
  what = "imports from modules or functions with arguments, in *.py"
  line_end = ""  # names have it

  def find(self, document):
    """Finds what the module of a document imports and defines."""
    if not document.name.endswith(".py"):
      return
    text = document.text.decode()
    facts = list(_facts(_names.parse(text), text))
    times = Counter(fact.ask for fact in facts)
    for fact in facts:
      if fact.name.strip() and self.config.kind in ("any", fact.kind):
        yield fact if times[fact.ask] == 1 else fact._replace(ask="")


def _facts(tree: ast.AST, text: str) -> Iterator[_questions.Fact]:
  """The facts of all imports and functions, those without arguments too."""
  at = _Places(text)
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      lead = at.start(node), at.start(node.names[0])
      for alias in node.names:
        if alias.name != "*":
          name = at.start(alias), at.start(alias) + len(alias.name)
          ask = f"\n# {alias.name} is imported from:"
          yield _questions.Fact(f"{module}\n", (lead, name), ask, "imports")
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      start, arguments = at.start(node), _arguments(node.args)
      stops = [at.start(a) + len(a.arg) for _, a in arguments]
      said = ", ".join(stars + a.arg for stars, a in arguments)
      ask = f"\n# arguments of {node.name}:"
      spans = ((start, max(stops, default=start)),)
      yield _questions.Fact(f"{said}\n", spans, ask, "arguments")


def _arguments(node: ast.arguments) -> list[tuple[str, ast.arg]]:
  """Each argument with its stars, in order."""
  listed = [("", a) for a in (*node.posonlyargs, *node.args)]
  listed += [("*", node.vararg)] if node.vararg else []
  listed += [("", a) for a in node.kwonlyargs]
  return listed + ([("**", node.kwarg)] if node.kwarg else [])


class _Places:
  """The starts of nodes in characters; `ast` counts bytes of a line."""

  def __init__(self, text: str):
    self._text = text
    self._lines = [0, *(m.end() for m in re.finditer(r"\r\n?|\n", text))]

  def start(self, node) -> int:
    """The first character of a node."""
    first = self._lines[node.lineno - 1]
    line = self._text[first : first + node.col_offset].encode()
    return first + len(line[: node.col_offset].decode())
