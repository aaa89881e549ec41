"""What a question asks for is what its example says."""

import collections

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.data import qa_sets, tokenizer
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks import _cloze, documents_qa
from mattt_jax.tasks.base import QuestionTask

NAMES = [
  name
  for name in registry.names(config_lib.TASKS)
  if hasattr(registry.load(config_lib.TASKS, name).Task, "questions")
]


@pytest.mark.parametrize("name", NAMES)
def test_the_right_choice_is_in_its_place(name, tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path))
  module = registry.load(config_lib.TASKS, name)
  task, total = module.Task(module.Config(), 0), 0
  assert isinstance(task, QuestionTask)
  for split in SPLITS:
    for index in range(min(5, task.size(split, 1024) or 5)):
      example = task.example(split, index, 1024)
      asked = task.questions(split, index, 1024, 4)
      assert len(asked) == example["answer"].max() + 1
      again = task.questions(split, index, 1024, 4)
      for number, (question, same) in enumerate(zip(asked, again, strict=True)):
        at = np.flatnonzero(example["answer"] == number)
        assert at[0] == question.at and len(at) <= len(question.choices[0])
        np.testing.assert_array_equal(
          example["targets"][at[0] :][: len(question.choices[0])],
          question.choices[0],
        )
        said = task.tokenizer.decode(question.choices[0])
        assert said.endswith(question.end)
        assert said.removesuffix(question.end).strip() in question.references
        assert len(question.choices[0]) <= question.room
        choices = [tuple(choice.tolist()) for choice in question.choices]
        assert len(set(choices)) == len(choices) <= 4
        assert [tuple(c.tolist()) for c in same.choices] == choices
        total += len(choices) > 1
  assert total > 3


def test_wrong_answers_answer_questions_of_the_same_kind():
  task = documents_qa.Task(documents_qa.Config(), 0)
  rows, drawn = qa_sets.load("town")[1], set()
  parts = qa_sets.split(rows, 20, "town")
  for split in ("tune", "test"):
    for index in range(task.size(split, 1024)):
      row = task.question(split, index, 1024)
      (question,) = task.questions(split, index, 1024, 3)
      right, *wrong = (
        bytes(c).decode().removesuffix("\n") for c in question.choices
      )
      assert right == row["answers"][0] and right not in wrong
      assert 1 <= len(wrong) <= 2
      others = {r["answers"][0]: r["question"] for r in parts[split].questions}
      del others[right]
      who = {a for a, asks in others.items() if asks.startswith("Who ")}
      if who and row["question"].startswith("Who "):
        assert set(wrong) <= who
      assert set(wrong) <= set(others)
      drawn.add(tuple(wrong))
  assert len(drawn) > 4


def test_kinds():
  for text, kind in (
    ("Who built it?", "who"),
    ("To whom is it?", "whom"),
    ("In how many days?", "how many"),
    ("It is on which hill?", "which"),
    ("Were Anna and Ben Danes?", ""),
    ("Somehow?", ""),
  ):
    assert documents_qa._kind({"question": text}) == kind


MENTIONS = np.array([0, 0, 0, 1, 2, 3, 1])  # a was met most, b last


def name_question(right, most, at=9):
  cloze = _cloze.Cloze(at, tuple("abcd"), right, MENTIONS, " ")
  question = cloze.question(tokenizer.Bytes(), most)
  names = [bytes(c).decode() for c in question.choices]
  assert all(name[0] == " " for name in names)
  return "".join(name[1] for name in names), question.guesses


@pytest.mark.parametrize("right", range(4))
def test_all_names(right):
  names, guesses = name_question(right, 9)
  assert names[0] == "abcd"[right] and sorted(names) == list("abcd")
  assert guesses == {"majority": right == 0, "nearest_mention": right == 1}


@pytest.mark.parametrize("most", [2, 3])
def test_wrong_names_are_drawn(most):
  """Neither the nearest nor the farthest: all of them, as often."""
  drawn = collections.Counter()
  for at in range(300):
    names, guesses = name_question(2, most, at)
    assert names == name_question(2, most, at)[0]
    assert names[0] == "c" and len(set(names)) == len(names) == most
    wrong = [k for k in range(4) if "abcd"[k] in names[1:]]
    # c was met once: it is no majority but of c and d, and c came first.
    assert guesses["majority"] == (wrong == [3])
    # Only b and d were met after c.
    assert guesses["nearest_mention"] == (not {1, 3} & set(wrong))
    drawn.update(names[1:])
  share = (most - 1) / 3
  assert all(abs(drawn[k] / 300 - share) < 0.1 for k in "abd")
