"""Several tasks and lengths of one learner: rows, resumption, bad input."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest
import tiny

from mattt_jax import config
from mattt_jax.data import tokenizer
from mattt_jax.devices import memory_use
from mattt_jax.evaluation import suite
from mattt_jax.evaluation.evaluator import evaluate, evaluate_with
from mattt_jax.evaluation.reader import Reader
from mattt_jax.evaluation.task_text import task_experiment
from mattt_jax.learners import build
from mattt_jax.tasks import associative_recall
from mattt_jax.ttt.parts import Parts

NAME = "associative_recall"
MORE = f"{NAME}:num_pairs=4,num_queries=1"
EXPERIMENT = tiny.experiment("episodic")


@pytest.fixture(scope="module")
def learner():
  task = build.make_task(EXPERIMENT)
  return build.build_learner(EXPERIMENT, task.vocab_size)


def run(
  learner, out, texts=(NAME, MORE), lengths=(32, 64), parts=None, split="tune",
  **kinds,
):  # fmt: skip
  return suite.run(
    Reader(learner, EXPERIMENT, parts=parts),
    suite.Suite(texts, lengths, split, **kinds),
    out,
    {"seed": 0},
  )


def test_peak_memory():
  """At least what is resident now, and it stays when that is given back."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  resident = pages * os.sysconf("SC_PAGE_SIZE")
  before = memory_use.peak_bytes()
  assert resident <= 1.1 * before
  large = np.ones(before // 8, np.float64)  # as much again
  assert memory_use.peak_bytes() > 1.2 * before
  del large
  assert memory_use.peak_bytes() > 1.2 * before
  if sys.platform == "linux":
    memory_use.restart_peak()
    assert memory_use.peak_bytes() < 1.2 * before


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_peak_of_a_row_is_its_own(learner, tmp_path, monkeypatch):
  """What a longer one before it needed does not count."""
  size = 2**28

  def hungry(reader, task, split, lengths):
    (length,) = lengths
    large = np.ones(size // 8 if length == 64 else 1)
    del large
    return {"lengths": {str(length): {}}}

  monkeypatch.setattr(suite, "evaluate_with", hungry)
  rows = run(learner, tmp_path / "rows.jsonl", (NAME,), (64, 32))
  assert rows[0]["peak_bytes"] > rows[1]["peak_bytes"] + 0.9 * size


def test_a_row_for_each_task_and_length(learner, tmp_path, monkeypatch):
  out = tmp_path / "rows.jsonl"
  rows = run(learner, out, lengths=(64, 128))
  assert rows == [json.loads(line) for line in out.open()]
  assert [(r["task"], r["length"]) for r in rows] == [
    (NAME, 64), (NAME, 128), (MORE, 64), (MORE, 128)
  ]  # fmt: skip
  assert [r["answers"] for r in rows] == [6, 6, 3, 3]
  assert rows[1]["state_bytes"] == learner.state_bytes(128)
  read = task_experiment(EXPERIMENT, MORE, (64, 128))
  assert config.from_config_dict(config.ConfigDict(rows[2]["config"])) == read
  expected = evaluate(
    EXPERIMENT, learner, build.make_task(EXPERIMENT), "tune", (128,)
  )["lengths"]["128"]
  for name in ("loss", "other_loss", "answer_loss"):
    assert rows[1][name] == pytest.approx(expected[name], rel=1e-6)

  # What is there is not measured again; what is not, is.
  calls = []

  def counted(reader, task, split, lengths):
    calls.append(lengths)
    return evaluate_with(reader, task, split, lengths)

  monkeypatch.setattr(suite, "evaluate_with", counted)
  again = run(learner, out, lengths=(128, 192))
  assert calls == [(192,), (192,)]
  assert again[0] == rows[1] and again[2] == rows[3]
  # Another way of reading is another row.
  (off,) = run(learner, out, (NAME,), (64,), Parts(inner=False))
  assert not off["inner"] and off["memory"] and len(calls) == 3


@pytest.mark.parametrize("kinds", [("forced",), ("choice",)])
def test_guessing_is_always_reported(learner, tmp_path, monkeypatch, kinds):
  def guessing(self, split, length, sequences):
    assert (split, sequences) == ("tune", EXPERIMENT.eval.sequences)
    return {"majority": length / 1000, "nearest_mention": None}

  monkeypatch.setattr(
    associative_recall.Task, "guessing", guessing, raising=False
  )
  for name, made in (
    ("require_questions", None),
    ("collect", [[]]),
    ("measure", {"sequences": 3, "loss": 1.0, "intervals": {}}),
  ):
    monkeypatch.setattr(suite.answers, name, lambda *_, made=made, **__: made)
  rows = run(learner, tmp_path / "rows.jsonl", (NAME,), kinds=kinds)
  assert [row["guess_majority"] for row in rows] == [0.032, 0.064]
  assert [row["guess_nearest_mention"] for row in rows] == [None, None]
  _, header, cells, _ = suite.table([row | {"step": 1} for row in rows]).split(
    "\n"
  )
  shown = dict(zip(header.split(), cells.split(), strict=True))
  assert shown["guess_majority"] == "0.0320"
  assert shown["guess_nearest_mention"] == "-"


def test_another_task_starts_from_its_own_defaults():
  made = task_experiment(EXPERIMENT, "rule_recall:num_pairs=9", (256,))
  assert type(made.task).__module__.endswith("rule_recall")
  assert (made.task.num_pairs, made.task.num_keys) == (9, 256)
  own = task_experiment(EXPERIMENT, f"{NAME}:num_pairs=3", (256,))
  assert (own.task.num_pairs, own.task.num_keys) == (3, 8)  # 8: as trained


def test_another_task_has_the_tokenizer_of_the_model(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path))
  tree = config.template("long_qa")
  tree.task.tokenizer = str(tmp_path / "small.json")
  tokenizer.train_file("stdlib", 300, tmp_path / "small.json")
  trained = config.from_config_dict(tree)
  made = task_experiment(trained, "language_modeling", (256,))
  assert made.task.tokenizer == tree.task.tokenizer
  assert made.task.tokenizer_sha256 == trained.task.tokenizer_sha256 != ""
  text = "language_modeling:tokenizer=bytes"
  made = task_experiment(trained, text, (256,))
  assert made.task.tokenizer == "bytes"


@pytest.mark.parametrize(
  "texts, lengths, error",
  [
    (["recal"], (64,), "recal"),
    ([f"{NAME}:pairs=3"], (64,), "unknown field task.pairs"),
    ([f"{NAME}:num_pairs"], (64,), "'num_pairs' must be field=value"),
    ([f"{NAME}:num_pairs=40,num_keys=64"], (64,), "length=64 is too short"),
    ([f"{NAME}:num_keys=99"], (64,), "has 118 tokens, the model 27"),
    ([NAME], (64, 65), "chunk=8 must divide eval.lengths=65"),
  ],
)
def test_bad_input_is_found_before_anything_is_read(
  learner, tmp_path, texts, lengths, error
):
  out = tmp_path / "rows.jsonl"
  with pytest.raises(ValueError, match=error):
    run(learner, out, [NAME, *texts], lengths)
  assert not out.exists()


def test_of_several_tasks_the_bad_one_is_named(learner, tmp_path):
  bad = f"{NAME}:num_pairs=40,num_keys=64"
  with pytest.raises(ValueError, match=f"^task '{bad}': length=64 is too sho"):
    run(learner, tmp_path / "rows.jsonl", [NAME, bad], (64,))
  with pytest.raises(ValueError, match="^length=64 is too short"):
    run(learner, tmp_path / "rows.jsonl", [bad], (64,))


def test_table():
  row = {
    "split": "test", "step": 3, "inner": False, "memory": True, "length": 64,
    "task": "mqar:num_pairs=4", "sequences": 4, "loss": 1.25, "seconds": 2.0,
    "other_loss": None, "answer_accuracy": 0.5, "answer_exact_match": 0.0,
  }  # fmt: skip
  title, header, cells = suite.table([row]).splitlines()
  assert title == "test split, step 3, inner loop off, memory on"
  assert dict(zip(header.split(), cells.split(), strict=True)) == {
    "task": "mqar:num_pairs=4", "length": "64", "sequences": "4",
    "loss": "1.2500", "other_loss": "-", "answer_accuracy": "0.5000",
    "answer_exact_match": "0.0000", "seconds": "2.0",
  }  # fmt: skip


def test_table_of_longbench():
  row = {
    "split": "test", "step": 3, "inner": False, "memory": True, "length": 64,
    "task": "long_qa", "sequences": 4, "written_f1": 0.25, "seconds": 2.0,
    "written_longbench_trec": 0.5, "written_longbench_lcc": 0.75,
  }  # fmt: skip
  _, header, cells = suite.table([row]).splitlines()
  assert header.split()[3:-1] == [
    "written_f1", "written_longbench_lcc", "written_longbench_trec",
  ]  # fmt: skip
  assert cells.split()[3:-1] == ["0.2500", "0.7500", "0.5000"]
