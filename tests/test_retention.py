"""The study's settings are those that its tuning chose."""

import collections
import json
import pathlib
import statistics

import pytest

from mattt_jax.config import from_config_dict
from mattt_jax.learners.build import make_task
from mattt_jax.registry import load_config, load_experiment
from mattt_jax.sweeps import sweep
from mattt_jax.tasks import _documents

ROWS = pathlib.Path(__file__).parents[1] / "results" / "retention_tune.jsonl"
EXPERIMENT, *_ = load_experiment("retention")


def test_rates_are_the_best_of_a_whole_budget():
  """Lowest loss on the answers, mean of 256 and 1024 tokens."""
  found = collections.defaultdict(dict)
  for row in map(json.loads, ROWS.open()):
    assert (row["seed"], row["evaluation"]["split"]) == (0, "tune")
    said = row["settings"]
    lengths = row["evaluation"]["lengths"]
    assert [*lengths] == ["256", "1024"]
    found[said["system"]][said["rate"], said["inner"]] = statistics.mean(
      at["answer_loss"] for at in lengths.values()
    )
  budget = collections.Counter(
    run.settings["system"] for run in sweep.runs("retention:tune")
  )
  tuned = {name for name, tried in found.items() if len(tried) == budget[name]}
  assert tuned == set(EXPERIMENT.RATES)
  for name in tuned:
    best = min(found[name], key=found[name].__getitem__)
    assert EXPERIMENT.RATES[name] == best, name


def test_reports_are_of_other_seeds():
  for run in sweep.runs("retention"):
    five = run.settings["system"] in EXPERIMENT.HEADLINE
    assert run.tree["seed"] in ((1, 2, 3, 4, 5) if five else (1, 2, 3))
    assert run.tree["eval"]["split"] == "test"


def test_long_changes_the_steps_alone():
  short = {run.label: run.tree for run in sweep.runs("retention")}
  for run in sweep.runs("retention:long"):
    steps = run.tree["train"].pop("steps")
    assert steps == 12.5 * short[run.label]["train"].pop("steps")
    assert run.tree == short[run.label]


@pytest.mark.parametrize("size", EXPERIMENT.SIZES)
def test_at_a_published_size_answers_are_beyond_attention(size):
  for run in sweep.runs(f"retention:size={size}"):
    experiment = from_config_dict(load_config(run.config))
    half = experiment.length * experiment.task.gap_share
    assert _documents.reach(experiment.model) <= half
    assert make_task(experiment).vocab_size == 128256
    assert run.tree["task"]["name"] == "associative_recall"


def test_two_studies_at_once():
  with pytest.raises(ValueError, match="long, size: choose one"):
    load_config("retention:long,size=125m")


def test_a_size_that_is_not_published():
  with pytest.raises(ValueError, match="size='100k' .*125m"):
    load_config("retention:size=100k")
