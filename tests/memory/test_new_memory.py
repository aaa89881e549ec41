"""A memory is one file: mesh, planner and tests learn of it from the registry.

`example_memory.py` is copied into a folder of its own, which joins the package
of memories. The tests of every memory then run over it, by its name.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tiny

import mattt_jax.memory
from mattt_jax import config, registry
from mattt_jax.config import MeshConfig
from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.planning import memory_model
from mattt_jax.training import placement
from mattt_jax.ttt import read_batch
from tests.training import test_train_step

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = pathlib.Path(__file__).with_name("example_memory.py")
# What every memory must do; its sharding on a mesh of 8 devices; the plan.
TESTS = ("memory/test_every_memory.py", "devices/test_sharding.py",
         "planning/test_memory_model.py")  # fmt: skip
NAMES = iter(f"example{number}" for number in range(99))


@pytest.fixture
def add(tmp_path, monkeypatch):
  """Adds the example, changed, as a memory of a new name."""
  folders = [*mattt_jax.memory.__path__, str(tmp_path)]
  monkeypatch.setattr(mattt_jax.memory, "__path__", folders)

  def added(*changes):
    name, text = next(NAMES), EXAMPLE.read_text()
    for old, new in changes:
      assert old in text
      text = text.replace(old, new)
    (tmp_path / f"{name}.py").write_text(text)
    return name

  yield added
  for name in [m for m in sys.modules if m.startswith("mattt_jax.memory.ex")]:
    del sys.modules[name]


def test_the_tests_of_every_memory_run_over_it(tmp_path):
  folder = tmp_path / "memories"
  folder.mkdir()
  shutil.copy(EXAMPLE, folder / "example.py")
  (tmp_path / "join.py").write_text(
    f"from mattt_jax import memory\nmemory.__path__.append({str(folder)!r})\n"
  )
  paths = os.pathsep.join([str(tmp_path), str(ROOT)])
  found = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-x", "-p", "join", "-p",
     "no:cacheprovider", "-k", "[example",
     *(str(ROOT / "tests" / name) for name in TESTS)],
    cwd=ROOT, text=True, capture_output=True,
    env={**os.environ, "PYTHONPATH": paths},
  )  # fmt: skip
  assert found.returncode == 0, found.stdout + found.stderr
  passed = re.search(r"(\d+) passed, \d+ deselected", found.stdout)
  assert passed and int(passed[1]) >= 18, found.stdout


def test_it_is_listed_and_has_its_place(add):
  name = add()
  assert name in registry.names(config.MEMORIES)
  assert registry.summaries(config.MEMORIES)[name].startswith("A matrix a head")
  made = tiny.experiment(name, batch_size=8, eval__batch_size=8)
  mesh = meshes.abstract_mesh(MeshConfig(2, 1, 2, 2), 8)
  placed = placement.place(made, 28, mesh)
  matrix = placed.reading[32].memory.matrix_HxKxE
  assert matrix.shape == (8, 1, 4, 16, 16)
  assert matrix.sharding.shard_shape(matrix.shape) == (4, 1, 2, 16, 16)
  with pytest.raises(
    ValueError, match="mesh.tensor=2 must divide memory.num_heads=5"
  ):
    tiny.experiment(name, memory__num_heads=5, mesh__tensor=2)


def test_many_devices_are_one(add, monkeypatch):
  """A step of training on a mesh of 8: metrics and gradients."""
  name = add()
  monkeypatch.setitem(test_train_step.SYSTEMS, name, (name, {}))
  test_train_step.test_many_devices_and_small_parts_are_one_batch(
    name, (1, 2, 2, 2), 0
  )


LINE = (
  'AXES: ClassVar = {"matrix_HxKxE": ("tensor", None, None)}  # of the mesh'
)


@pytest.mark.parametrize(
  "line, message",
  [
    ("", r"memory/matrix_HxKxE: mattt_jax.memory.example\d+.State does not say "
     "how 'matrix_HxKxE' is split.*add AXES"),
    (LINE.replace("HxKxE", "HxK"),
     r"State.AXES names no field of it: \['matrix_HxK'\]"),
    (LINE.replace("tensor", "heads"),
     r"State.AXES\['matrix_HxKxE'\]=\('heads', .* data, fsdp, tensor"),
  ],
)  # fmt: skip
def test_a_state_that_does_not_say_how_it_is_split(add, line, message):
  made = tiny.experiment(add((LINE, line)))
  mesh = meshes.abstract_mesh(made.mesh, 1)
  with pytest.raises(ValueError, match=message):
    placement.place(made, 28, mesh)
  with pytest.raises(ValueError, match=message):
    memory_model.train_step_bytes(made, 28, mesh)


def test_heads_that_a_mesh_does_not_divide_are_named(add):
  """Where the settings forget to say so, the state does."""
  made = tiny.experiment(
    add(('SPLIT: ClassVar = {"num_heads": "tensor"}', "SPLIT: ClassVar = {}")),
    memory__num_heads=5, mesh__tensor=2,
  )  # fmt: skip
  graphdef, params = build.abstract_learner(made, 28)
  with pytest.raises(
    ValueError,
    match=r"memory/matrix_HxKxE of shape .* must divide 5 \(.*State.AXES",
  ):
    read_batch.abstract_states(
      graphdef, params, 2, 32, meshes.abstract_mesh(made.mesh, 2)
    )
