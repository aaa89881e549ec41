"""The rules of results/shortcuts.py, on stories told by hand."""

import pathlib
import runpy

import pytest

from mattt_jax.tasks import _babi_world as worlds
from mattt_jax.tasks import babi

PATH = pathlib.Path(__file__).parents[1] / "results" / "shortcuts.py"
RULES = runpy.run_path(str(PATH), run_name="shortcuts")["RULES"]
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
    ("the last place", WHERE, "park"),
    ("the place named most", WHERE, "kitchen"),
    ("the place named most", BEFORE, "garden"),  # not the one in the question
    ("the place before the object", WHERE, "kitchen"),
    ("the place before the object", "where is Mary ?", ""),
    ("the place before the place", BEFORE, "office"),
    ("the place before the place", WHERE, ""),
  ],
)
def test_a_rule(rule, question, answer):
  asked = worlds.Question(tuple(question.split()), answer="", evidence=())
  assert RULES[rule](babi.Story(STORY, (asked,)), asked) == answer
