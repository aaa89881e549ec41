"""Who has learned a task: more than guessing explains."""

import itertools
import json

import numpy as np
import pytest

from mattt_jax.report import compare, guess, study
from mattt_jax.tasks import associative_recall

RECALL = {
  "name": "associative_recall", "num_values": 64, "value_length": 1,
  "num_pairs": 16, "num_queries": 8,
}  # fmt: skip


def share(**changes):
  return guess.share(RECALL | changes)


def test_with_different_values_it_crosses_out_one_after_the_other():
  """1/8, then 1/7, ... where no two values are the same."""
  many = dict(num_values=10**6, num_pairs=8)
  assert share(**many) == pytest.approx(sum(1 / n for n in range(1, 9)) / 8)
  one = share(num_values=10**6, num_pairs=16)
  assert one == pytest.approx(sum(1 / n for n in range(9, 17)) / 8)


def test_values_that_are_the_same_help_the_guesser():
  """Three keys, two values, one question: of the 8 bindings 2 have one value
  three times, 6 have one twice."""
  found = share(num_values=2, num_pairs=3, num_queries=1)
  exact = np.mean(
    [
      max(map(values.count, values)) / 3
      for values in itertools.product((0, 1), repeat=3)
    ]
  )
  assert found == pytest.approx(exact, abs=0.03)
  assert share(num_values=1) == 1.0


def test_it_is_what_the_best_guess_gets_in_the_task_itself():
  task = associative_recall.Task(
    associative_recall.Config(num_pairs=16, num_queries=8), seed=3
  )
  right = []
  for index in range(100):
    example = task.example("test", index, 1024)
    pairs = np.flatnonzero(example["tokens"] == associative_recall.PAIR)
    left = list(example["tokens"][pairs + 2])
    answers = example["targets"][example["answer"] >= 0]
    for answer in answers:
      right.append(max(left, key=left.count) == answer)
      left.remove(answer)
  # 800 answers: within three standard errors.
  assert np.mean(right) == pytest.approx(guess.share(RECALL), abs=0.04)


def test_other_tasks():
  rule = {"name": "rule_recall", "num_pairs": 48, "num_queries": 16,
          "num_symbols": 8}  # fmt: skip
  assert 1 / 8 < guess.share(rule) < 0.25  # more than a symbol at random
  records = {
    "name": "student_records", "question": "recall", "num_students": 8,
    "num_questions": 8, "fields": ["grade"], "num_grades": 16,
  }  # fmt: skip
  assert guess.share(records) == share(num_pairs=8, num_values=16)
  assert guess.share(records | {"question": "relation"}) == 0.5
  assert guess.share({"name": "babi", "kind": "qa2", "num_places": 8}) == 1 / 8
  assert guess.share({"name": "language_modeling"}) is None


def row(system, seed, right, **more):
  """A row as `mattt sweep` writes it, of a run of 240 steps at 256 tokens."""
  summary = {"answer_exact_match": right, "answers": 128, "other_loss": 2.0}
  return {
    "run": "", "config_hash": "", "commit": "", "seed": seed, "step": 240,
    "settings": {"system": system, "seed": seed},
    "config": {"length": 256, "task": RECALL, "train": {"steps": 240}},
    "evaluation": {"lengths": {"256": summary, "1024": summary | more}},
  }  # fmt: skip


def table(tmp_path, rows, measure="answer_exact_match"):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(x) + "\n" for x in rows))
  found = study.curves(study.read(path), measure)
  return study.table("", "system", found).splitlines()[4:]


def test_who_is_at_chance_gets_no_number(tmp_path):
  line = guess.share(RECALL)
  rows = [
    # At the line, and a seed above it by less than its answers explain.
    row("titans", 1, line),
    row("titans", 2, line + 0.02),
    # Learned, and at chance further away: that is a result.
    row("perk", 1, 0.9, answer_exact_match=0.01),
    # Not learned where it was trained, and yet more than guessing elsewhere.
    row("rag", 1, 0.05, answer_exact_match=0.5),
  ]
  assert table(tmp_path, rows) == [
    "| titans | not learned in 240 steps | not learned in 240 steps |",
    "| perk | 0.900 | 0.010 |",
    "| rag | not learned in 240 steps | 0.500 |",
  ]
  assert table(tmp_path, rows[:1], "other_loss") == [
    "| titans | 2.000 | 2.000 |"
  ]


def test_the_line_stands_beside_them(tmp_path):
  rows = [{"task": RECALL, "length": 256}, {"task": {}, "length": 512}]
  found = study.guessing(rows)
  assert found == {"guessing": {256: study.estimate([guess.share(RECALL)])}}
  assert study.guessing(rows[1:]) == {}


def test_the_table_of_compare_says_so_too():
  rows = [row("rag", 1, 0.1), row("perk", 1, 0.9)]
  for one in rows:
    one["train"] = {"tokens_per_second": 10.0}
    one["flops_per_token"] = 2000.0
    one["config"]["eval"] = {}
    del one["evaluation"]["lengths"]["1024"]
  line = f"{guess.share(RECALL):.3f}"
  assert compare.table(rows).splitlines()[4:] == [
    f"| guessing | {line} | - | - | - | - | - | - | - |",
    "| rag | not learned in 240 steps | - | - | - | - | - | 2 | 10 |",
    "| perk | 0.900 | - | - | 2.000 | - | - | 2 | 10 |",
  ]
