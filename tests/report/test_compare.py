"""mattt compare: one budget, one table, resumable."""

import json

import jax.numpy as jnp
import pytest

from mattt_jax.learners import build
from mattt_jax.report import compare


def test_two_by_two_is_four_systems():
  names = compare.expand(["2x2:episodic", "swa"])
  assert names == ["swa", "ttt", "swa_episodic", "ttt_episodic"]


@pytest.mark.parametrize(
  "names, error",
  [([], "systems is empty"), (["swa", "nobody"], "system='nobody' is not kn"),
   (["2x2:nothing"], "system='swa_nothing' is not known")],
)  # fmt: skip
def test_unknown_names(names, error, tmp_path):
  with pytest.raises(ValueError, match=error):
    compare.compare("recall", names, [0], tmp_path, arg="tiny")
  assert not list(tmp_path.iterdir())  # found before anything was trained


def test_rows_and_table(tmp_path, monkeypatch):
  def run():
    return compare.compare(
      "recall", ["swa", "ttt_episodic"], [1], tmp_path, arg="tiny", steps=2
    )

  rows = run()
  lines = (tmp_path / compare.ROWS_FILE).read_text().splitlines()
  assert [json.loads(line) for line in lines] == rows
  found = [(row["system"], row["seed"]) for row in rows]
  assert found == [("swa", 1), ("ttt_episodic", 1)]
  swa, both = rows
  assert {row["step"] for row in rows} == {2}
  assert swa["config"]["train"]["steps"] == 2
  assert not swa["switched_off"] and set(both["switched_off"]) == {
    "inner", "memory"
  }  # fmt: skip
  assert both["state_bytes"]["128"]["memory"] > 0
  assert both["flops_per_token"] > swa["flops_per_token"] > 0
  table = (tmp_path / compare.TABLE_FILE).read_text()
  assert "| swa |" in table and "| ttt_episodic |" in table
  assert "2 outer steps, seeds 1" in table

  def fail(*args, **kwargs):
    raise AssertionError("a finished run was trained again")

  monkeypatch.setattr(compare.trainer, "train", fail)
  assert run() == rows


def test_each_value_of_an_argument(tmp_path):
  rows = compare.compare(
    "coordination",
    ["ttt_episodic"],
    [1],
    tmp_path,
    arg="tiny",
    each="how:joint,retention",
    steps=1,
  )
  assert [row["variant"] for row in rows] == ["how=joint", "how=retention"]
  kept = [row["config"]["inner"]["retention"] for row in rows]
  assert kept == [1.0, 0.9]
  assert (tmp_path / "ttt_episodic/how=joint/1/config.json").exists()
  assert "| ttt_episodic how=retention |" in compare.table(rows)


@pytest.mark.parametrize("each", ["how", "how:", ":joint"])
def test_each_without_values(each, tmp_path):
  with pytest.raises(ValueError, match="must be NAME:VALUE,VALUE"):
    compare.compare("coordination", ["ttt"], [1], tmp_path, each=each)


def test_table_shows_mean_and_range():
  rows = [
    {
      "task": "recall", "system": "swa", "variant": "", "seed": seed, "step": 3,
      "parameters": 1000, "flops_per_token": 2000.0,
      "train_tokens_per_second": 10.0, "switched_off": {},
      "state_bytes": {"64": {"cache": 2048}},
      "config": {"length": 64, "task": {"name": "language_modeling"}},
      "lengths": {"64": {"answer_exact_match": accuracy, "other_loss": 1.0}},
    }
    for seed, accuracy in ((1, 0.25), (2, 0.75))
  ]  # fmt: skip
  row = compare.table(rows).splitlines()[-1]
  assert row.startswith("| swa | 0.500 [0.250, 0.750] | - | - | 1.000 [")
  assert "| 1,000 | 2 | 2 |" in row


def test_flops_of_a_plain_transformer():
  """Against the count by hand: projections, MLPs, head; attention in blocks
  can only be more."""
  from mattt_jax import config as config_lib
  from mattt_jax.learners.build import build_learner
  from mattt_jax.registry import load_config

  made = config_lib.from_config_dict(load_config("recall:tiny,system=swa"))
  vocab = build.make_task(made).vocab_size
  flops = compare.flops_per_token(made, build_learner(made, vocab))
  m = made.model
  block = 4 * m.dim**2 + 3 * m.dim * m.mlp_dim
  fast = m.num_suffix * 3 * m.dim * m.fast_mlp_dim
  least = 2 * (m.num_layers * block + fast + m.dim * vocab)
  attention = 2 * m.num_layers * 2 * m.dim * 64  # a block of 64 keys at most
  assert least < flops <= least + attention
  assert jnp.isfinite(flops)
