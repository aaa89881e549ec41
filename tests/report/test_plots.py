"""The heat map of recall, its numbers worked out by hand."""

import json

import matplotlib.image
import numpy as np
import pytest

from mattt_jax.commands import cli
from mattt_jax.report import plots


def row(length, cells, **changes):
  """One of `mattt evaluate`; cells: (tokens, accuracy) of equal buckets."""
  size = length // len(cells)
  buckets = [
    {"from": k * size, "to": (k + 1) * size, "tokens": n, "accuracy": right}
    for k, (n, right) in enumerate(cells)
  ]
  buckets.append({"from": None, "to": None, "tokens": 9, "accuracy": 0.0})
  return {"task": "ruler", "length": length, "seed": 1, "inner": True,
          "by_distance": buckets, **changes}  # fmt: skip


ROWS = [
  row(400, [(4, 1.0), (2, 0.5), (0, None), (6, 0.25)]),
  # Eight buckets: pairs of them make the four of the other row.
  row(80, [(1, 1.0), (3, 0.0), (0, None), (5, 0.2), (0, None), (0, None),
           (2, 1.0), (2, 1.0)]),
  row(80, [(1, 0.0)] * 4, task="ruler:kind=niah_multikey", inner=False),
]  # fmt: skip
NAN = float("nan")


def test_shares_by_length_and_depth():
  lengths, right = plots.by_depth(ROWS, "ruler")
  assert lengths == [80, 400]
  np.testing.assert_allclose(
    right, [[0.25, 1.0], [0.2, 0.5], [NAN, NAN], [1.0, 0.25]]
  )


def test_edges_that_are_not_even():
  """Eight buckets of 20 tokens, as `Totals` cuts them."""
  edges = np.linspace(0, 20, 9).astype(int).tolist()
  made = row(20, [(1, 1.0)])
  made["by_distance"] = [
    {"from": a, "to": b, "tokens": 1, "accuracy": k / 8}
    for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True))
  ]
  _, right = plots.by_depth([made], "ruler")
  np.testing.assert_array_equal(right[:, 0], np.arange(8) / 8)


def test_the_figure(tmp_path):
  """Cells have the colour of their number; without answers they are hatched,
  in grey on white."""
  path = tmp_path / "new" / "map.png"
  assert plots.heat_map(path, ROWS, "ruler") == path
  image = matplotlib.image.imread(path)[..., :3]
  colours = plots.plt.get_cmap()
  for x, shares in ((250, (0.25, 0.2, 1.0)), (600, (1.0, 0.5, 0.25))):
    for y, share in zip((420, 300, 80), shares, strict=True):
      np.testing.assert_allclose(image[y, x], colours(share)[:3], atol=0.01)
  empty = image[170:230, 150:700]
  np.testing.assert_array_equal(empty.max(-1), empty.min(-1))
  assert 0.6 < empty.min() < 0.8 and empty.max() == 1


@pytest.mark.parametrize(
  "rows, message",
  [
    ([], r"no row of task='ruler': use one of \(no rows\)"),
    (ROWS[2:], "no row of task='ruler': use one of ruler:kind=niah_multikey"),
    ([*ROWS, row(8, [(1, 1.0)], inner=False)], "differ in inner: False, True"),
    ([*ROWS, row(8, [(1, 1.0)], step=7)], "differ in step: 7, None"),
    ([*ROWS, row(80, [(1, 1.0)])], r"a length twice: \[80, 80, 400\]"),
    ([row(8, [(0, None)])], "no answer of task='ruler' has a distance"),
  ],
)
def test_rows_that_make_no_map(tmp_path, rows, message):
  with pytest.raises(ValueError, match=message):
    plots.heat_map(tmp_path / "map.png", rows, "ruler")
  assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
  path, out = tmp_path / "rows.jsonl", tmp_path / "map.png"
  chosen = {"task": "ruler", "length": 80, "scoring": "choice,written"}
  path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, chosen]))
  argv = ["plot", "heatmap", f"--rows={path}", f"--out={out}", "--task=ruler"]
  assert cli.main(argv) == 0
  assert capsys.readouterr().out == f"Written to {out}\n"
  assert out.exists()

  def error(argv):
    assert cli.main(argv) == 2
    return capsys.readouterr().err

  assert "use one of ruler; ruler:kind=" in error([*argv, "--task=mqar"])
  assert "unknown kind 'heat': use curves or heatmap" in error(["plot", "heat"])
  assert "--rows is missing" in error(["plot", "heatmap"])
  assert "unexpected argument 'x'" in error(["plot", "heatmap", "x"])
  path.write_text(json.dumps(ROWS[0]) + '\n{"task": "ruler"}\n')
  assert "line 2: no row of `mattt evaluate`" in error(argv)
  path.write_text('{"task": "ru')
  assert "line 1: Unterminated string" in error(argv)


def metrics(path, tuned=True):
  """A run's metrics.jsonl."""
  path.mkdir()
  rows = [
    {"step": 2, "kind": "train", "loss": 3.0, "answer_accuracy": None},
    {"step": 4, "kind": "train", "loss": 2.0, "answer_accuracy": 0.5},
    {"step": 4, "kind": "evaluation",
     "lengths": {"64": {"loss": 2.5, "answer_accuracy": 0.25},
                 "128": {"loss": 9.0, "answer_accuracy": 0.0}}},
    {"step": 4, "kind": "final", "lengths": {}},
  ]  # fmt: skip
  kept = rows if tuned else rows[:1]
  (path / "metrics.jsonl").write_text(
    "".join(json.dumps(r) + "\n" for r in kept)
  )
  return path


def test_learning_curves(tmp_path, capsys, monkeypatch):
  one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two", tuned=False)
  note = {"settings": {"system": "perk", "how": "first", "seed": 3}}
  (two / "sweep.json").write_text(json.dumps(note))
  drawn = {}

  def keep(figure, path):
    for axes in figure.axes:
      for line in axes.lines:
        points = list(zip(*line.get_data(), strict=True))
        drawn[axes.get_ylabel().split()[0], line.get_label()[:4]] = points
    return path

  monkeypatch.setattr(plots, "_save", keep)
  argv = ["plot", "curves", str(one), str(two)]
  assert cli.main([*argv, f"--out={tmp_path / 'c.png'}"]) == 0
  assert drawn["loss", str(one)[:4]] == [(2, 3.0), (4, 2.0)]
  assert drawn["loss", "perk"] == [(2, 3.0)]
  assert drawn["answer", str(one)[:4]] == [(4, 0.5)]
  assert [(4, 2.5)] in drawn.values() and [(4, 0.25)] in drawn.values()
  monkeypatch.undo()
  assert cli.main([*argv, f"--out={tmp_path / 'c.png'}"]) == 0
  assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

  def error(*argv):
    assert cli.main(["plot", "curves", *argv]) == 2
    return capsys.readouterr().err

  assert "RUN is missing" in error("--out=x.png")
  assert "--out is missing" in error(str(one))
  assert "metrics.jsonl has no rows" in error(str(tmp_path), "--out=x.png")
