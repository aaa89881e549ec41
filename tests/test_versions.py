"""Versions that do not fit are named in one line, before anything else."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

from mattt_jax import versions

ROOT = pathlib.Path(__file__).parents[1]


def test_what_is_installed_fits():
  assert versions.problem() is None


def test_an_old_python(monkeypatch):
  monkeypatch.setattr(sys, "version_info", (3, 10, 13))
  assert versions.problem() == (
    "Python 3.10.13 is too old: use Python 3.11 or newer"
  )


@pytest.mark.parametrize("old", ["0.9.2", "0.10.1", "0.10"])
def test_an_old_jax(monkeypatch, old):
  real = metadata.version
  monkeypatch.setattr(
    metadata, "version", lambda name: old if name == "jax" else real(name)
  )
  assert versions.problem() == (
    f"jax {old} is too old: pip install 'jax>=0.10.2'"
  )


@pytest.mark.parametrize("new", ["0.10.2", "0.10.2.dev1", "0.12.0.1", "1.0"])
def test_a_jax_that_is_new_enough(monkeypatch, new):
  real = metadata.version
  monkeypatch.setattr(
    metadata, "version", lambda name: new if name == "jax" else real(name)
  )
  assert versions.problem() is None


def test_a_library_that_is_missing(monkeypatch):
  real = metadata.version

  def version(name):
    if name == "optax":
      raise metadata.PackageNotFoundError(name)
    return real(name)

  monkeypatch.setattr(metadata, "version", version)
  problem = versions.problem()
  assert re.fullmatch(
    r"optax is not installed: pip install 'optax>=[\d.]+'", problem
  )


def test_the_door_says_it_in_one_line(tmp_path):
  """Before JAX or anything else is imported."""
  (tmp_path / "sitecustomize.py").write_text(
    "import sys; sys.version_info = (3, 10, 13)"
  )
  done = subprocess.run(
    [sys.executable, "-c", "from mattt_jax.main import mattt; print(mattt())"],
    env=os.environ | {"PYTHONPATH": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.stdout == "2\n"
  assert done.stderr == (
    "mattt: error: Python 3.10.13 is too old: use Python 3.11 or newer\n"
  )


def test_bounds_are_what_was_tried():
  """Below 1.0 a library may break with any release."""
  path = ROOT / "pyproject.toml"
  project = tomllib.loads(path.read_text())["project"]
  for text in project["dependencies"]:
    least = re.search(r">=([\d.]+)", text)[1].split(".")
    most = re.search(r"<([\d.]+)", text)
    if least[0] == "0" and most is not None:
      assert most[1].startswith("0."), text
