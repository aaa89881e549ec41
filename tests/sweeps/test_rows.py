"""Finished runs become rows; plots are written."""

import json
import sys

import pytest
from pyarrow import parquet

from mattt_jax.report import plots
from mattt_jax.sweeps import rows as rows_lib


def make_run(root, name, seed):
  run = root / name
  run.mkdir(parents=True)
  (run / "config.json").write_text(json.dumps({"seed": seed, "chunk": 4}))
  (run / "evaluation.json").write_text(json.dumps({"step": 3}))


def test_a_row_for_each_finished_run(tmp_path):
  make_run(tmp_path, "b/1", 1)
  make_run(tmp_path, "a/2", 2)
  (tmp_path / "unfinished").mkdir()
  assert not rows_lib.is_finished(tmp_path / "unfinished")
  rows = rows_lib.rows(tmp_path, [tmp_path / "a/2", tmp_path / "b/1"])
  assert [r["run"] for r in rows] == ["a/2", "b/1"]
  assert [r["seed"] for r in rows] == [2, 1]
  assert rows[0]["config"] == {"seed": 2, "chunk": 4} and rows[0]["step"] == 3
  assert rows[0]["config_hash"] != rows[1]["config_hash"]


def test_plot_is_a_png_with_every_series(tmp_path):
  path = plots.lines(
    tmp_path / "deep" / "x.png",
    {"a": [(1, 2), (2, 3)], "b": [(1, 0), (2, 1)]},
    x="x (tokens)", y="y", title="t", log_x=True,
    bands={"a": [(1, 3), (2, 4)]},
  )  # fmt: skip
  assert path.read_bytes()[:4] == b"\x89PNG"


def test_parquet_holds_rows_that_differ(tmp_path):
  rows = [
    {"run": "a", "n": 1, "x": {"y": 0.5, "z": None}, "l": [1, 2], "m": 3},
    {"run": "b", "n": 2.5, "x": {"w": True}, "l": [], "m": "three"},
  ]
  path = tmp_path / "deep" / "rows.parquet"
  rows_lib.write(rows, path)
  assert parquet.read_table(path).to_pydict() == {
    "run": ["a", "b"],
    "n": [1.0, 2.5],
    "x.y": [0.5, None],
    "x.z": [None, None],
    "l": ["[1, 2]", "[]"],
    "m": ["3", '"three"'],
    "x.w": [None, True],
  }
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
  with pytest.raises(ValueError, match=r"pip install 'mattt-jax\[parquet\]'"):
    rows_lib.write([{"a": 1}], tmp_path / "rows.parquet")
  assert not list(tmp_path.glob("*.parquet"))


def test_what_a_sweep_set_is_in_the_row(tmp_path):
  make_run(tmp_path, "a", 1)
  note = {"settings": {"system": "perk"}, "error": ""}
  (tmp_path / "a" / rows_lib.SWEEP_FILE).write_text(json.dumps(note))
  [row] = rows_lib.rows(tmp_path, [tmp_path / "a"])
  assert row["settings"] == {"system": "perk"}
