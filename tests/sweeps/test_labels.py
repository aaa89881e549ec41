"""Rows of earlier versions are read under today's names."""

import json
import pathlib

import pytest

from mattt_jax import systems
from mattt_jax.registry import load_config
from mattt_jax.sweeps import labels, sweep
from mattt_jax.sweeps import rows as rows_lib

RESULTS = pathlib.Path(__file__).parents[2] / "results"
SUMMARY = {"answer_exact_match": 0.5}


def compared(**changes):
  """As `mattt compare` wrote it when it trained by itself."""
  config = load_config("rule:tiny,system=ttt_e2e,seed=2").to_dict()
  config["baseline"] = {"name": "none"}  # and older settings
  del config["learner"]
  config["inner"] |= {"remat": True, "start_step": 0, "off_share": 0.0}
  return {
    "task": "rule", "system": "ttt", "variant": "", "seed": 2,
    "config_hash": "old", "commit": "abc", "step": 4, "parameters": 7,
    "flops_per_token": 3.0, "train_tokens_per_second": 5.0,
    "state_bytes": {"128": {"cache": 1}}, "lengths": {"128": SUMMARY},
    "switched_off": {"inner": SUMMARY}, "config": config, **changes,
  }  # fmt: skip


def test_a_compared_row_is_that_of_a_sweep(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(compared()) + "\n")
  settings = {"system": "ttt_e2e", "seed": 2, "config.eval.parts_off": True}
  [run] = sweep.runs("rule:tiny", [settings])
  [(hash_, row)] = rows_lib.known(path).items()
  assert hash_ == run.hash == row["config_hash"]
  assert row["settings"] == {"system": "ttt_e2e", "seed": 2}
  assert row["evaluation"] == {
    "lengths": {"128": SUMMARY}, "parameters": 7, "tasks": {},
    "state_bytes": {"128": {"cache": 1}}, "parts_off": {"inner": SUMMARY},
  }  # fmt: skip
  assert (row["flops_per_token"], row["train"]["tokens_per_second"]) == (3, 5)
  row = labels.today(compared(variant="how=joint"))
  assert row["settings"] == {"system": "ttt_e2e", "how": "joint", "seed": 2}
  assert row["run"] == "ttt_e2e/how=joint/2"
  assert labels.variant(row["settings"]) == "how=joint"


@pytest.mark.parametrize(
  "old, new",
  [
    ({"system": "ttt_episodic"}, {"system": "ttt_memory"}),
    ({"settings": {"system": "ttt"}}, {"settings": {"system": "ttt_e2e"}}),
    ({"system": "swa_slots"}, {"system": "swa_slots"}),
    ({"guessing": {"nearest": 0.5}}, {"guess_nearest": 0.5}),
    (
      {"system": "ttt", "pairs": 16, "value_length": 4},
      {"system": "ttt_e2e", "task": "associative_recall:num_pairs=16,updates=5,"
       "value_length=4"},
    ),
    (
      {"config": "rule:system=ttt,seed=1", "command": "system=ttt -a"},
      {"config": "rule:system=ttt_e2e,seed=1", "command": "system=ttt_e2e -a"},
    ),
    (
      {"run": "swa/1", "seed": 1, "evaluation": {}},
      {"run": "sliding_window/1", "seed": 1, "evaluation": {},
       "settings": {"system": "sliding_window", "seed": 1}},
    ),
  ],
)  # fmt: skip
def test_names(old, new):
  assert labels.today(old) == new
  assert labels.today(new) == new


@pytest.mark.parametrize("path", sorted(RESULTS.glob("**/*.jsonl")), ids=str)
def test_what_is_committed_is_as_today(path):
  for row in rows_lib.read(path):
    assert labels.today(row) == row
    assert row.get("system") not in systems.RENAMED


# The results that are of a sweep, and how many of its runs they have.
@pytest.mark.parametrize(
  "file, config, finished",
  [
    ("recall", "recall", 12), ("hard", "recall:hard", 12),
    ("easy", "recall:easy", 18), ("induction", "recall:easy,induction", 3),
    ("rule", "rule", 12), ("coordination", "coordination", 39),
    ("write", "coordination:write", 21), ("records", "student_records", 3),
    ("retention", "retention", 83), ("retention_tune", "retention:tune", 90),
    ("retention_long", "retention:long", 3), ("frontier", "frontier", 25),
    ("reasoning", "reasoning", 81), ("context", "context_scaling", 53),
  ],
)  # fmt: skip
def test_every_row_is_recognised_by_its_sweep(file, config, finished):
  known = rows_lib.known(RESULTS / f"{file}.jsonl")
  assert sum(run.hash in known for run in sweep.runs(config)) == finished
