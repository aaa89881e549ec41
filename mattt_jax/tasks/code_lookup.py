"""Code lookup: what a module far above imports from where, or takes.

A stretch of a Python module, then questions about its own text,

    # partial is imported from: functools
    # arguments of heappush: heap, item

about `from functools import partial`, functions and methods, which `ast` finds
in *.py. A name that the module imports from two places, or gives to two
functions, is not asked for, nor is a function without arguments. Arguments have
no defaults; `*args` and `**kwargs` keep their stars. An answer ends with its
line, so that none is the beginning of another. The choice is among the modules,
or the argument lists, of the stretch.
"""

import ast
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from mattt_jax.config import require_choice
from mattt_jax.tasks import _names, _questions


@dataclasses.dataclass(frozen=True)
class Config(_questions.Config):
  """Settings, in addition to those of all questions about real text."""

  kind: str = "any"  # of question, or "imports", "arguments"

  def __post_init__(self):
    super().__post_init__()
    require_choice("task.kind", self.kind, ("any", "imports", "arguments"))


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
  lines = [0, *(m.end() for m in re.finditer(r"\r\n?|\n", text))]

  def start(node) -> int:
    """The first character of a node; `ast` counts bytes of a line."""
    first, size = lines[node.lineno - 1], node.col_offset
    return first + len(text[first : first + size].encode()[:size].decode())

  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      lead = start(node), start(node.names[0])
      for alias in node.names:
        if alias.name != "*":
          name = start(alias), start(alias) + len(alias.name)
          ask = f"\n# {alias.name} is imported from:"
          yield _questions.Fact(f"{module}\n", (lead, name), ask, "imports")
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      arguments = _arguments(node.args)
      stops = [start(a) + len(a.arg) for _, a in arguments]
      said = ", ".join(stars + a.arg for stars, a in arguments)
      ask = f"\n# arguments of {node.name}:"
      spans = ((start(node), max(stops, default=start(node))),)
      yield _questions.Fact(f"{said}\n", spans, ask, "arguments")


def _arguments(node: ast.arguments) -> list[tuple[str, ast.arg]]:
  """Each argument with its stars, in order."""
  listed = [("", a) for a in (*node.posonlyargs, *node.args)]
  listed += [("*", node.vararg)] if node.vararg else []
  listed += [("", a) for a in node.kwonlyargs]
  return listed + ([("**", node.kwarg)] if node.kwarg else [])
