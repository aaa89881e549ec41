"""The notebooks run, in a minute each, and make what results/ has of them."""

import json
import pathlib
import shutil
import time

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 60


def test_each_is_there():
  names = [path.stem for path in NOTEBOOKS]
  assert names == ["01_recall", "02_scaling", "03_real_text", "04_cost"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
  for cell in json.loads(path.read_text())["cells"]:
    assert not cell.get("outputs"), cell["id"]
    assert cell.get("execution_count") is None, cell["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_makes_what_is_committed(path, tmp_path):
  here = tmp_path / "notebooks"
  here.mkdir()
  committed = ROOT / "results"
  ours = shutil.copytree(
    committed, tmp_path / "results", copy_function=shutil.copyfile
  )
  for made in [*ours.glob("*.png"), *ours.glob("*.md")]:
    made.unlink()
  notebook = nbformat.read(path, as_version=4)
  started = time.monotonic()
  nbclient.NotebookClient(
    notebook, timeout=SECONDS, resources={"metadata": {"path": str(here)}}
  ).execute()
  assert time.monotonic() - started < SECONDS
  figures = sorted(ours.glob("*.png"))
  assert figures
  again = "is not what its notebook makes: run `make notebooks`"
  for made in (*figures, *ours.glob("*.md")):
    there = committed / made.name
    # Figures differ with the version of the library that draws them.
    same = there.is_file() and (
      made.suffix == ".png" or made.read_text() == there.read_text()
    )
    assert same, f"results/{made.name} {again}"
