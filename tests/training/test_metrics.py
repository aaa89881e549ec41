"""Averages, rows and counts."""

import json
import math

import pytest
from flax import nnx
from tiny import experiment

from mattt_jax.learners import build
from mattt_jax.training import metrics


def test_averages_by_hand():
  rows = [
    {"loss": 1.0, "answer_correct": 1, "answer_tokens": 1},
    {"loss": 4.0, "answer_correct": 0, "answer_tokens": 3, "gate": 0.5},
  ]
  assert metrics.averages(rows) == {
    "loss": 2.5,
    "gate": 0.5,
    "answer_accuracy": 0.25,  # over tokens: not the mean of 1 and 0
  }


def test_averages_of_nothing():
  rows = [{"loss": math.inf, "answer_correct": 0, "answer_tokens": 0}]
  assert metrics.averages(rows) == {"loss": None, "answer_accuracy": None}


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_after_the_restored_step_are_written_again(tmp_path):
  path = tmp_path / metrics.METRICS_FILE
  write(
    path,
    {"step": 5, "loss": 3},
    {"step": 10, "loss": 2},
    {"step": 10, "kind": "evaluation"},
    {"step": 10, "kind": "final"},
    {"step": 15, "loss": 1},
  )
  with path.open("a") as file:
    file.write('{"step": 20, "lo')  # killed while writing
  writer = metrics.MetricsWriter(tmp_path, restored_step=10)
  writer.write(15, "train", {"loss": 1.5})
  writer.close()
  assert metrics.read_rows(path) == [
    {"step": 5, "loss": 3},
    {"step": 10, "loss": 2},
    {"step": 10, "kind": "evaluation"},
    {"step": 15, "kind": "train", "loss": 1.5},
  ]


def test_damaged_line_is_named(tmp_path):
  path = tmp_path / metrics.METRICS_FILE
  path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
  with pytest.raises(ValueError, match="line 2 is damaged"):
    metrics.read_rows(path)


def test_tensorboard_gets_nested_numbers(tmp_path, monkeypatch):
  seen = []

  class Board:
    def __init__(self, directory, purge_step):
      seen.append((directory, purge_step))

    def add_scalar(self, name, value, step):
      seen.append((name, value, step))

    def close(self):
      pass

  monkeypatch.setattr(metrics, "SummaryWriter", Board)
  writer = metrics.MetricsWriter(tmp_path, restored_step=3)
  writer.write(4, "evaluation", {"lengths": {"32": {"loss": 2, "n": None}}})
  writer.close()
  assert seen == [
    (str(tmp_path / "tensorboard"), 4),
    ("evaluation/lengths/32/loss", 2.0, 4),
  ]


def test_parameters_are_counted_by_kind():
  settings = experiment("episodic", inner__learn_rate=True)
  learner = build.build_learner(settings, 20)
  params = nnx.split(learner)[1]
  counts = metrics.parameter_counts(params)
  # fast: the three matrices of the fast MLP; inner: a learned rate for each
  assert counts["fast"] == 3 * 16 * 16
  assert counts["inner"] == 3
  pointer = nnx.split(learner.model.pointer)[1]
  assert counts["memory"] == sum(
    v[...].size for _, v in nnx.to_flat_state(pointer)
  )
  assert sum(counts.values()) == sum(
    v[...].size for _, v in nnx.to_flat_state(params)
  )
  text = metrics.overview(params, {"cache": 1000, "memory": 24})
  assert "768 fast" in text and "1,000 cache" in text
  assert "1,024 in all" in text
  assert "model/suffix/fast_mlp/w1" in text
  total = sum(counts.values())
  assert f"{total:,} trainable of {total:,}" in text
  text = metrics.overview(params, {"cache": 1}, ("suffix/fast_mlp/w?",))
  assert f"768 trainable of {total:,}" in text
