"""The rules that link no two facts, on a story told by hand."""

import pytest

from mattt_jax.tasks import _babi_rules as rules
from mattt_jax.tasks import _babi_world as worlds
from mattt_jax.tasks import babi, base

STORY = tuple(
  tuple(sentence.split())
  for sentence in (
    "John went to the kitchen .",
    "Mary went to the garden .",
    "Mary took the milk .",
    "Mary went to the office .",
    "John went to the kitchen .",
    "Mary dropped the milk .",
    "John went to the park .",
  )
)
WHERE, BEFORE = "where is the milk ?", "where was the milk before the kitchen ?"


@pytest.mark.parametrize(
  ("rule", "question", "answer"),
  [
    ("last_place", WHERE, "park"),
    ("most_named", WHERE, "kitchen"),
    ("most_named", BEFORE, "garden"),  # not the one in the question
    ("before_thing", WHERE, "kitchen"),
    ("before_thing", "where is Mary ?", ""),
    ("before_place", BEFORE, "office"),
    ("before_place", WHERE, ""),
  ],
)
def test_a_rule(rule, question, answer):
  asked = worlds.Question(tuple(question.split()), answer="", evidence=())
  assert rules.RULES[rule](rules.names(STORY), asked) == answer


def test_shares_are_of_the_questions_of_the_first_examples(monkeypatch):
  task = babi.Task(babi.Config(kind="qa2"), seed=0)
  asked = [
    worlds.Question(tuple(WHERE.split()), answer, ())
    for answer in ("park", "kitchen")
  ]
  stories = [babi.Story(STORY, (question,)) for question in asked]
  monkeypatch.setattr(task, "story", lambda split, index: stories[index])
  shares = {"last_place": 0.5, "most_named": 0.5, "before_thing": 0.5}
  assert isinstance(task, base.GuessingTask)
  assert task.guessing("test", 256, 2) == shares | {"before_place": 0.0}
  assert task.guessing("test", 256, 1)["last_place"] == 1.0


@pytest.mark.parametrize("kind", ["qa4", "qa5"])
def test_answers_that_are_no_places_gone_to_have_no_rules(kind):
  assert babi.Task(babi.Config(kind=kind), seed=0).guessing("test", 9, 2) == {}
