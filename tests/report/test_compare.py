"""mattt compare: a sweep of systems, and a table of finished runs."""

import json

import pytest

from mattt_jax import config as config_lib
from mattt_jax.commands import cli
from mattt_jax.learners import build
from mattt_jax.planning import cost_model
from mattt_jax.registry import load_config
from mattt_jax.report import compare
from mattt_jax.sweeps import sweep

# The smallest model that there is: one block, one step.
SMALL = """
from mattt_jax.registry import load_config

def get_config(arg=""):
  config = load_config(f"recall:tiny,steps=1,{arg}")
  config.train.checkpoint_every = 1
  config.model.update(num_layers=1, num_suffix=1)
  config.update(batch_size=8)
  config.eval.update(lengths=(64,), sequences=2, batch_size=8)
  return config
"""
SUMMARY = {"answer_exact_match": 0.5, "other_loss": 1.0}


def row(seed, right, **settings):
  """As `mattt sweep` writes it."""
  said = {"system": "perk", **settings, "seed": seed}
  return {
    "run": "0123456789ab", "config_hash": "0123456789ab", "commit": "",
    "seed": seed, "settings": said, "step": 3, "flops_per_token": 2000.0,
    "config": {"task": {"name": "mqar"}, "eval": {"split": "tune"}},
    "train": {"tokens_per_second": 10.0},
    "evaluation": {
      "lengths": {"64": SUMMARY | {"answer_exact_match": right}},
      "parameters": 1000, "state_bytes": {"64": {"cache": 2048}},
      "parts_off": {"inner": SUMMARY}, "tasks": {},
    },
  }  # fmt: skip


def test_two_by_two_is_four_systems():
  names = compare.expand(["2x2:episodic", "sliding_window"])
  assert names == ["sliding_window", "ttt_e2e", "swa_episodic", "ttt_memory"]
  assert compare.expand(["2x2:slots"])[2:] == ["swa_slots", "ttt_slots"]


def test_settings_are_a_sweep():
  made = compare.settings(["rag", "perk"], [1, 2], "how:a,b")
  assert len(made) == 8
  assert made[1] == {
    "system": "rag", "how": "a", "seed": 2, "config.eval.parts_off": True,
  }  # fmt: skip


@pytest.mark.parametrize(
  "names, each, error",
  [
    ([], "", "systems is empty"),
    (["perk", "nobody"], "", "system='nobody' is not known"),
    (["2x2:nothing"], "", "system='swa_nothing' is not known"),
    (["swa"], "", "system='swa' has another name: use system=sliding_window"),
    (["perk"], "how", "must be NAME:VALUE,VALUE"),
    (["perk"], "how:", "must be NAME:VALUE,VALUE"),
    (["perk"], ":joint", "must be NAME:VALUE,VALUE"),
  ],
)
def test_mistakes(names, each, error):
  with pytest.raises(ValueError, match=error):
    compare.settings(names, [0], each)


def test_table_shows_mean_and_range():
  found = [row(1, 0.25), row(2, 0.75), row(1, 0.5, how="first")]
  text = compare.table(found).splitlines()
  assert text[0].startswith("mqar: answers right (every token of them) on the")
  assert "tune split" in text[0] and "3 outer steps, seeds 1, 2." in text[0]
  assert text[-2].startswith(
    "| perk | 0.500 [0.250, 0.750] | 0.500 [0.500, 0.500] | - | 1.000 ["
  )
  assert "| 1,000 | 2 | 2 |" in text[-2]
  assert text[-1].startswith("| perk how=first | 0.500 | 0.500 | - | 1.000 |")


def test_a_sweep_then_its_runs(tmp_path, capsys):
  """The real command: two runs of a step, their table, and again without."""
  path, out = tmp_path / "mine.py", tmp_path / "out"
  path.write_text(SMALL)
  results = tmp_path / "rows.jsonl"
  argv = ["compare", f"--config={path}", f"--out={out}", "--seeds=1",
          "--systems=sliding_window,swa_episodic",
          f"--results={results}"]  # fmt: skip
  assert cli.main(argv) == 0
  said = capsys.readouterr().out
  assert "2 of 2 runs finished" in said
  rows = list(map(json.loads, results.open()))
  expected = sweep.runs(
    str(path),
    compare.settings(["sliding_window", "swa_episodic"], [1]),
  )
  assert [x["config_hash"] for x in rows] == [run.hash for run in expected]
  window, memory = rows
  assert not window["evaluation"]["parts_off"]
  assert set(memory["evaluation"]["parts_off"]) == {"memory"}
  table = (out / "compare.md").read_text()
  assert table in said and "| sliding_window |" in table
  flops = compare.flops_per_token(memory), compare.flops_per_token(window)
  assert flops[0] > flops[1] > 0

  assert cli.main(argv) == 0  # nothing is trained again
  assert "starts" not in capsys.readouterr().out
  runs = [str(out / run.hash) for run in expected]
  for words in (runs, [str(results)]):
    assert cli.main(["compare", *words]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
  "words, message",
  [
    ([], "--config is missing: add --config=recall:hard"),
    (["--config=recall"], "--systems is missing"),
    (["--config=recall", "x"], "trains, x is a finished run"),
    (["absent"], "absent is not there"),
    (["."], ". holds no finished run (evaluation.json)"),
    (["--config=recall", "--systems=perk", "--seeds=a"], "--seeds='a' must be"),
    (["--config=recall:tyni", "--systems=perk"], "unknown config argument"),
  ],
)
def test_errors(words, message, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert cli.main(["compare", *words]) == 2
  assert message in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_flops_of_a_plain_transformer():
  """Against the count by hand: projections, MLPs, head; attention in blocks
  can only be more."""
  made = config_lib.from_config_dict(
    load_config("recall:tiny,system=sliding_window")
  )
  vocab = build.make_task(made).vocab_size
  flops = cost_model.flops_per_token(made, vocab)
  m = made.model
  block = 4 * m.dim**2 + 3 * m.dim * m.mlp_dim
  fast = m.num_suffix * 3 * m.dim * m.fast_mlp_dim
  least = 2 * (m.num_layers * block + fast + m.dim * vocab)
  attention = 2 * m.num_layers * 2 * m.dim * 64  # a block of 64 keys at most
  assert least < flops <= least + attention
