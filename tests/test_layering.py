"""Imports go one way: every module imports from its own level or a lower one.

The levels are those of the architecture section; a new module that none of
them names must be put in one.
"""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "mattt_jax"
LEVELS = (
  ("config", "registry", "sections", "strict", "systems", "scaling.sweep"),
  ("tasks", "data"),
  ("model", "memory", "meshes", "processes", "recompute", "sharding"),
  ("ttt",),
  ("baselines", "training", "inference", "evaluation", "interop"),
  ("scaling", "main", "cli", "demo"),
)
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


def imports(source, modules):
  """Names of everything a source imports, lazily or for types only, too."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"relative import in line {node.lineno}"
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        found.add(whole if whole in modules else node.module)
  return found


def level(module):
  """Index of the level whose longest entry is a prefix of `module`."""
  inside = module.removeprefix(f"{PACKAGE}.")
  matches = [
    (len(entry), index)
    for index, entries in enumerate(LEVELS)
    for entry in entries
    if f"{inside}.".startswith(f"{entry}.")
  ]
  assert matches, f"{module} is in no level: add it to LEVELS"
  return max(matches)[1]


def with_jax(module, modules):
  """Whether importing `module` imports JAX, directly or through others."""
  seen, queue = set(), [module]
  while queue:
    name = queue.pop()
    if name.partition(".")[0] in WITH_JAX:
      return True
    if name in modules and name not in seen:
      seen.add(name)
      queue += imports(modules[name], modules)
  return False


def violations(modules, experiments):
  """One line for every import that the rules forbid."""
  lines = []
  for module, source in modules.items():
    used = imports(source, modules)
    inside = {n for n in used if n.startswith(f"{PACKAGE}.")}
    if module == PACKAGE:
      lines += [f"{module} imports {name}" for name in used]
      continue
    mine = level(module)
    lines += [f"{module} imports {n}" for n in inside if level(n) > mine]
    if mine == 0 or module.endswith("plots"):
      if with_jax(module, modules):
        lines.append(f"{module} imports JAX")
    if module.startswith(f"{PACKAGE}.ttt"):
      if f"{PACKAGE}.model.transformer" in used:
        lines.append(f"{module} imports the transformer")
  allowed = {
    f"{PACKAGE}.{name}"
    for name in ("config", "registry", "systems", "scaling.sweep")
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


@pytest.mark.parametrize(
  "module, source, expected",
  [
    ("config", "import jax", "imports JAX"),
    ("config", "from mattt_jax import sharding", "imports mattt_jax.sharding"),
    ("strict", "from optax import sgd", "imports JAX"),
    ("tasks.new", "from mattt_jax.model import layers", ".model.layers"),
    ("memory.new", "from mattt_jax.ttt.inner_loop import x", ".ttt.inner_loop"),
    ("memory.new", "def f():\n  import mattt_jax.training.trainer", ".trainer"),
    ("ttt.new", "from mattt_jax.model import transformer", "the transformer"),
    ("ttt.new", "from mattt_jax.model.transformer import T", "the transformer"),
    ("training.new", "from mattt_jax import main", "imports mattt_jax.main"),
    ("scaling.plots", "import flax.nnx", "imports JAX"),
    ("evaluation.plots", "from mattt_jax import sharding", "imports JAX"),
  ],
)
def test_a_forbidden_import_is_found(module, source, expected):
  modules, _ = read_sources(ROOT)
  found = violations(modules | {f"{PACKAGE}.{module}": source}, {})
  assert any(f"{PACKAGE}.{module} " in v and expected in v for v in found)


@pytest.mark.parametrize("name", ["jax", "numpy", "mattt_jax.training.trainer"])
def test_experiments_import_settings_only(name):
  modules, experiments = read_sources(ROOT)
  experiments["experiments.new"] = f"import {name}"
  assert f"experiments.new imports {name}" in violations(modules, experiments)


def test_a_module_without_a_level_is_found():
  modules, _ = read_sources(ROOT)
  with pytest.raises(AssertionError, match="is in no level"):
    violations(modules | {f"{PACKAGE}.helpers": ""}, {})
