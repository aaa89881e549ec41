"""Questions about modules, against regular expressions and the compiler."""

import re

import pytest

from mattt_jax import config as config_lib
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks.code_lookup import Config, Task

MODULE = '''"""é: from nowhere import nothing"""
from os.path import join as é, split
from . import near
if True:
  from ..up import (
    far,  # naïve
    farther as f)
from a import twice
from b import twice
from c import *
import plain
def one(é, b=(1, 2), /, c: "x, y" = 3, *d, e, f=lambda g: g, **h): pass
class C:
  async def two(self, *, only): pass
  def again(self): pass
  def empty(): pass
def again(x): pass
def again_empty(y): pass
def again_empty(): pass
'''
ANSWERS = {
  "# join is imported from:": "os.path",
  "# split is imported from:": "os.path",
  "# near is imported from:": ".",
  "# far is imported from:": "..up",
  "# farther is imported from:": "..up",
  "# arguments of one:": "é, b, c, *d, e, f, **h",
  "# arguments of two:": "self, only",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


def asked(example, count):
  """The text before the questions, and their lines."""
  tokens = [example["tokens"][0], *example["targets"]]
  text = bytes(tokens).rstrip(b"\0").decode(errors="replace")
  *context, rest = text.rsplit("\n\n# ", count - 1)[0].rpartition("\n# ")
  lines = ("# " + rest + text[len("".join(context) + rest) :]).split("\n")
  return context[0], [line for line in lines if line]


def imported_from(context, name):
  """Every module that the text says `name` is imported from."""
  found = re.findall(
    r"^\s*from\s+(\S+)\s+import\s+(\([^)]*|(?:[^\n\\#]|\\\n)*)",
    context, re.MULTILINE,
  )  # fmt: skip
  for module, names in found:
    names = re.sub(r"#.*|\bas\s+\w+|[\\(]", " ", names)
    if name in [n.strip() for n in names.split(",")]:
      yield module


def arguments_of(context, name):
  """What the compiler makes of each `def name(...)` of the text."""
  for match in re.finditer(rf"^\s*(?:async )?def {name}\(", context, re.M):
    for end in re.finditer(r"\)", context[match.end() :]):
      inner = context[match.end() :][: end.start()]
      try:
        (code,) = (
          c
          for c in compile(f"def f({inner}): 0", "", "exec").co_consts
          if hasattr(c, "co_varnames")
        )
      except (SyntaxError, ValueError):
        continue
      positional, keyword = code.co_argcount, code.co_kwonlyargcount
      names = list(code.co_varnames)
      plain = names[:positional]
      named = names[positional : positional + keyword]
      stars = names[positional + keyword :]
      flags = code.co_flags
      several = ["*" + stars.pop(0)] if flags & 4 else []
      keywords = ["**" + stars.pop(0)] if flags & 8 else []
      yield ", ".join(plain + several + named + keywords)
      break


@pytest.fixture(scope="module", params=["imports", "arguments", "any"])
def stdlib(request, cache):
  return Task(Config(kind=request.param), 0)


@pytest.mark.parametrize("split", SPLITS)
def test_a_reader_of_the_standard_library_agrees(stdlib, split):
  task, kind, length, total = stdlib, stdlib.config.kind, 3000, 0
  for index in range(min(40, task.size(split, length) or 40)):
    example = task.example(split, index, length)
    count = example["answer"].max() + 1
    context, lines = asked(example, count)
    assert len(lines) == count
    for line in lines:
      name, answer = re.fullmatch(
        r"# (?:arguments of )?(\w+)(?: is imported from)?: (.*)", line
      ).groups()
      read = arguments_of if line.startswith("# arg") else imported_from
      assert kind == "any" or (read is imported_from) == (kind == "imports")
      assert set(read(context, name)) == {answer}, line
      total += 1
  assert total > 5


@pytest.fixture
def modules(tmp_path):
  for k in range(4):
    (tmp_path / f"m{k}.py").write_text(f"#{k}\n{MODULE}\n" + "#\n" * 200)
  (tmp_path / "z.txt").write_text(MODULE)
  (tmp_path / "broken.py").write_text(MODULE + "def :")
  (tmp_path / "null.py").write_text(MODULE + "\0")
  return Config(source=f"directory:{tmp_path}", num_questions=99)


def test_what_is_asked_of_a_module(modules):
  task = Task(modules, 0)
  for split in SPLITS:
    for index, (document, _) in enumerate(task._documents[split]):
      facts, _ = task._facts_of(split, index)
      found = {f.ask.strip(): f.name for f in facts if f.ask}
      whole = document.name.startswith("m")
      assert found == (
        {q: a + "\n" for q, a in ANSWERS.items()} if whole else {}
      )


def test_the_evidence_of_a_module(modules):
  task = Task(modules, 0)
  split, index = next(
    (split, k)
    for split in SPLITS
    for k, (d, _) in enumerate(task._documents[split])
    if d.name.startswith("m")
  )
  text = task._documents[split][index][0].text
  facts, _ = task._facts_of(split, index)
  said = {
    fact.ask.strip(): [text[slice(*s)].decode() for s in fact.spans]
    for fact in facts
  }
  assert said["# join is imported from:"] == ["from os.path import ", "join"]
  far = said["# far is imported from:"]
  assert far == ["from ..up import (\n    ", "far"]
  (one,) = said["# arguments of one:"]
  assert one.startswith("def one(é, ") and one.endswith(", **h")
  assert said["# arguments of two:"] == ["async def two(self, *, only"]


def test_settings_that_do_not_fit():
  tree = config_lib.template("code_lookup")
  tree.task.kind = "classes"
  with pytest.raises(ValueError, match="task.kind='classes' is not known: use"):
    config_lib.from_config_dict(tree)
