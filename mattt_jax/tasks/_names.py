"""Names in a text, found by rules: people and places, or a module's own."""

import ast
import re
import symtable
import threading
from collections import Counter

# Capitalised beside a name, but nobody's.
TITLES = frozenset(
  "Mr Mrs Miss Ms Messrs Dr Sir Lady Lord Captain Colonel Madam St".split()
)
_WORD = re.compile(r"[^\W\d_]+")
_IDENTIFIER = re.compile(r"\w+")
# In some Pythons (3.11.7 is one) parsers of several threads spoil each other's
# count of depth (python/cpython#106905), and threads make the examples.
_PARSING = threading.Lock()

Mention = tuple[str, int, int]  # the name, its first character, after its last


def mentions(document: str, text: str, least: int) -> list[Mention]:
  """Finds all mentions of the names of a text, in order.

  Args:
    document: its file name; "*.py" has the names of a module.
    text: the whole document.
    least: times that a name must be capitalised amid a sentence.
  """
  if document.endswith(".py"):
    names, pattern = module_names(text), _IDENTIFIER
  else:
    names, pattern = proper_names(text, least), _WORD
  words = ((m.group(), *m.span()) for m in pattern.finditer(text))
  return [word for word in words if word[0] in names]


def proper_names(text: str, least: int) -> set[str]:
  """Words that are capitalised, `least` times where no sentence starts, and
  never in lower case; no titles."""
  words = list(_WORD.finditer(text))
  lower = {w.group() for w in words if w.group().islower()}
  amid: Counter[str] = Counter()
  before = ""
  for word in words:
    name = word.group()
    if name.istitle() and len(name) > 1:
      amid[name] += before in TITLES or _amid(text, word.start())
    before = name
  return {
    name
    for name, number in amid.items()
    if number >= least and name.lower() not in lower and name not in TITLES
  }


def _amid(text: str, at: int) -> bool:
  """Whether a word or a comma, and one space, are before `at`."""
  before = text[max(0, at - 2) : at]
  return before[1:].isspace() and (before[0].islower() or before[0] in ",;")


def parse(text: str) -> ast.Module:
  """Tree of a Python module, empty if it is no Python of this version."""
  try:
    with _PARSING:
      return ast.parse(text)
  except (SyntaxError, ValueError):  # the latter of null bytes
    return ast.Module([], [])


def module_names(text: str) -> set[str]:
  """Names that a Python module binds by import, def or class outside of
  functions and classes; none if it is no Python of this version."""
  try:
    with _PARSING:
      symbols = symtable.symtable(text, "", "exec").get_symbols()
  except (SyntaxError, ValueError):
    return set()
  return {s.get_name() for s in symbols if s.is_imported() or s.is_namespace()}
