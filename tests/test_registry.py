import pathlib
import subprocess
import sys

import pytest

from mattt_jax import registry


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package "things" with two entries, a base and a private module."""
  folder = tmp_path / "things"
  folder.mkdir()
  for name, text in {
    "__init__": "",
    "base": "",
    "_private": "",
    "blue": '"""The colour blue.\n\nMore about it.\n"""\nVALUE = 2\n',
    "red": "raise RuntimeError('imported')\n",
  }.items():
    (folder / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield "things"
  for name in [m for m in sys.modules if m.partition(".")[0] == "things"]:
    del sys.modules[name]


def test_the_files_are_the_entries(package):
  assert registry.names(package) == ("blue", "red")
  assert registry.load(package, "blue").VALUE == 2


@pytest.mark.parametrize(
  "name, hint",
  [
    ("bleu", " Did you mean 'blue'?"),
    ("base", ""),
    ("_private", ""),
    ("", ""),
    ("../things/blue", ""),
  ],
)
def test_an_unknown_name_lists_the_known_ones(package, name, hint):
  with pytest.raises(ValueError) as error:
    registry.load(package, name)
  expected = f"unknown name {name!r} in things: expected one of blue, red."
  assert str(error.value).startswith(expected)
  assert hint in str(error.value)


def test_summaries_import_nothing(package):
  assert registry.summaries(package) == {"blue": "The colour blue.", "red": ""}


def test_everything_in_the_package_says_what_it_is():
  for package in ("mattt_jax.tasks", "mattt_jax.memory"):
    found = registry.summaries(package)
    assert found and all(found.values()), found
  found = {k: registry.summary(p) for k, p in registry.experiments().items()}
  assert found and all(found.values()), found


def test_experiments_of_an_installed_package_are_inside_it(
  tmp_path, monkeypatch
):
  package = tmp_path / "site" / "mattt_jax"
  (package / "experiments").mkdir(parents=True)
  (package / "experiments" / "one.py").write_text("")
  (package / "experiments" / "_shared.py").write_text("")
  outside = tmp_path / "site" / "experiments"
  outside.mkdir()
  (outside / "other.py").write_text("")
  monkeypatch.setattr(registry, "__file__", str(package / "registry.py"))
  assert registry.experiments() == {"one": package / "experiments" / "one.py"}
  (package / "experiments").rename(package / "gone")
  assert registry.experiments() == {"other": outside / "other.py"}
  (outside / "other.py").unlink()
  outside.rmdir()
  assert registry.experiments() == {}


def test_importing_the_settings_imports_no_jax():
  root = pathlib.Path(__file__).parents[1]
  code = (
    "import sys; import mattt_jax.config, mattt_jax.commands.cli;"
    "sys.exit('jax' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize(
  "name, known, expected",
  [
    ("windwo", ("dim", "window"), ": expected one of dim, window. Did you "
     "mean 'window'?"),
    ("x", ("dim", "window"), ": expected one of dim, window."),
    ("x", (), ": there is nothing to choose from"),
  ],
)  # fmt: skip
def test_suggest(name, known, expected):
  assert registry.suggest(name, known) == expected
