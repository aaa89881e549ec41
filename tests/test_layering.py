"""Imports go down: every folder stands on a floor and imports from below it.

The floors are those of the map in README. Imports inside functions and under
TYPE_CHECKING count, too. No file imports in a circle.
"""

import ast
import functools
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "mattt_jax"
# From the ground up. A room is a folder, or a file outside of any; rooms of one
# floor do not know each other.
FLOORS = (
  ("registry", "recompute", "versions", "sizes"),
  ("strict",),
  ("sections",),
  ("config",),
  ("systems",),
  ("data", "devices"),
  ("tasks", "layers"),
  ("memory",),
  ("model",),
  ("ttt",),
  ("learners", "interop"),
  ("inference",),
  ("evaluation",),
  ("training",),
  ("planning",),
  ("sweeps",),
  ("report",),
  ("commands",),
  ("main",),
)
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
# Help and most errors come without waiting for JAX.
WITHOUT_JAX = {"registry", "versions", "strict", "sections", "config",
               "systems", "sizes", "data", "main"}  # fmt: skip
WITH_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "clu"}


def read_sources(root):
  """Source of each module of the package, and of each experiment, by name."""
  files = sorted((root / PACKAGE).rglob("*.py"))
  modules = {}
  for path in files:
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    modules[".".join(parts)] = path.read_text()
  experiments = {
    f"experiments.{path.stem}": path.read_text()
    for path in sorted((root / "experiments").glob("*.py"))
  }
  return modules, experiments


_parse = functools.cache(ast.parse)


def imports(source, modules, top=False):
  """Names of everything a source imports; `top`: when it is imported itself."""
  found = set()
  tree = _parse(source)
  for node in tree.body if top else ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"relative import in line {node.lineno}"
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        found.add(whole if whole in modules else node.module)
  return found


def room(module):
  """The folder, or the file outside of any, that `module` is in."""
  name = module.removeprefix(f"{PACKAGE}.").partition(".")[0]
  assert name in FLOOR, f"{module} stands on no floor: add it to FLOORS"
  return name


def with_jax(module, modules):
  """Whether importing `module` imports JAX, directly or through others."""
  seen, queue = set(), [module]
  while queue:
    name = queue.pop()
    if name.partition(".")[0] in WITH_JAX:
      return True
    if name in modules and name not in seen:
      seen.add(name)
      queue += imports(modules[name], modules, top=True)
  return False


def circle(modules):
  """The modules of one circle of imports, in order; [] if there is none."""
  ends = {}  # module -> done

  def walk(module, path):
    if module in path:
      return [*path[path.index(module) :], module]
    if module in ends:
      return []
    for name in sorted(imports(modules[module], modules) & modules.keys()):
      found = walk(name, [*path, module])
      if found:
        return found
    ends[module] = True
    return []

  for module in modules:
    found = walk(module, [])
    if found:
      return found
  return []


def violations(modules, experiments):
  """One line for every import that the rules forbid."""
  lines = []
  for module, source in modules.items():
    used = imports(source, modules)
    inside = {n for n in used if n.startswith(f"{PACKAGE}.")}
    if module == PACKAGE:
      lines += [f"{module} imports {name}" for name in used]
      continue
    mine = room(module)
    lines += [
      f"{module} imports {n}"
      for n in inside
      if room(n) != mine and FLOOR[room(n)] >= FLOOR[mine]
    ]
    if mine in WITHOUT_JAX or module.endswith("plots"):
      if with_jax(module, modules):
        lines.append(f"{module} imports JAX")
    if mine == "ttt" and f"{PACKAGE}.model.transformer" in used:
      lines.append(f"{module} imports the transformer")
  allowed = {
    f"{PACKAGE}.{name}"
    for name in ("config", "registry", "sizes", "systems", "sweeps.sweep")
  } | {"ml_collections"}
  for module, source in experiments.items():
    lines += [
      f"{module} imports {name}"
      for name in imports(source, modules) - allowed
      if name.partition(".")[0] not in sys.stdlib_module_names
    ]
  return sorted(lines)


def test_imports_go_down():
  modules, experiments = read_sources(ROOT)
  assert len(modules) > 20
  assert violations(modules, experiments) == []


def test_no_file_imports_in_a_circle():
  assert circle(read_sources(ROOT)[0]) == []


@pytest.mark.parametrize(
  "module, source, expected",
  [
    ("config", "import jax", "imports JAX"),
    ("config", "from mattt_jax import systems", "imports mattt_jax.systems"),
    ("strict", "from optax import sgd", "imports JAX"),
    ("tasks.new", "from mattt_jax.layers import norms", ".layers.norms"),
    ("memory.new", "from mattt_jax.ttt.inner_loop import x", ".ttt.inner_loop"),
    ("memory.new", "def f():\n  import mattt_jax.training.trainer", ".trainer"),
    ("data.new", "if TYPE_CHECKING:\n  from mattt_jax.tasks import base",
     ".tasks.base"),
    ("ttt.new", "from mattt_jax.model import transformer", "the transformer"),
    ("ttt.new", "from mattt_jax.model.transformer import T", "the transformer"),
    ("training.new", "from mattt_jax import main", "imports mattt_jax.main"),
    ("report.plots", "import flax.nnx", "imports JAX"),
    ("learners.new", "from mattt_jax.interop import ttt_e2e", ".ttt_e2e"),
  ],
)  # fmt: skip
def test_a_forbidden_import_is_found(module, source, expected):
  modules, _ = read_sources(ROOT)
  found = violations(modules | {f"{PACKAGE}.{module}": source}, {})
  assert any(f"{PACKAGE}.{module} " in v and expected in v for v in found)


def test_a_circle_is_found():
  modules, _ = read_sources(ROOT)
  modules |= {
    f"{PACKAGE}.data.a": "from mattt_jax.data import b",
    f"{PACKAGE}.data.b": "def f():\n  from mattt_jax.data.a import x",
  }
  found = circle(modules)
  assert found[0] == found[-1] and len(set(found)) == 2


@pytest.mark.parametrize("name", ["jax", "numpy", "mattt_jax.training.trainer"])
def test_experiments_import_settings_only(name):
  modules, experiments = read_sources(ROOT)
  experiments["experiments.new"] = f"import {name}"
  assert f"experiments.new imports {name}" in violations(modules, experiments)


def test_a_module_without_a_floor_is_found():
  modules, _ = read_sources(ROOT)
  with pytest.raises(AssertionError, match="stands on no floor"):
    violations(modules | {f"{PACKAGE}.helpers": ""}, {})
