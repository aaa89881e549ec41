"""Finished runs become rows; plots are written."""

import json

import pytest

from mattt_jax.scaling import collect, plots


def make_run(root, name, seed):
  run = root / name
  run.mkdir(parents=True)
  (run / "config.json").write_text(json.dumps({"seed": seed, "chunk": 4}))
  (run / "evaluation.json").write_text(json.dumps({"step": 3}))


def test_a_row_for_each_finished_run(tmp_path):
  make_run(tmp_path, "b/1", 1)
  make_run(tmp_path, "a/2", 2)
  (tmp_path / "unfinished").mkdir()
  rows = collect.collect(tmp_path)
  assert [r["run"] for r in rows] == ["a/2", "b/1"]
  assert [r["seed"] for r in rows] == [2, 1]
  assert rows[0]["config"] == {"seed": 2, "chunk": 4} and rows[0]["step"] == 3
  assert rows[0]["config_hash"] != rows[1]["config_hash"]


def test_the_hash_depends_on_values_not_on_order():
  a = collect.config_hash({"x": 1, "y": {"z": 2}})
  assert a == collect.config_hash({"y": {"z": 2}, "x": 1})
  assert a != collect.config_hash({"y": {"z": 3}, "x": 1})


def test_nothing_to_collect_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="holds no finished run"):
    collect.collect(tmp_path)


def test_plot_is_a_png_with_every_series(tmp_path):
  path = plots.lines(
    tmp_path / "deep" / "x.png",
    {"a": [(1, 2), (2, 3)], "b": [(1, 0), (2, 1)]},
    x="x (tokens)", y="y", title="t", log_x=True,
    bands={"a": [(1, 3), (2, 4)]},
  )  # fmt: skip
  assert path.read_bytes()[:4] == b"\x89PNG"
