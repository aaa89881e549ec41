"""Answers scored by hand, after the published rules."""

import itertools

import numpy as np
import pytest

from mattt_jax.evaluation.own_rules import own_rule
from mattt_jax.evaluation.text_match import (
  exact_match,
  f1,
  normalize,
  only_label,
  rouge_l,
  string_match,
)


@pytest.mark.parametrize(
  "text, normal",
  [
    ("The  Normans,\nin a Hurry!", "normans in hurry"),
    ("an A-team", "ateam"),  # punctuation goes before articles, as published
    ("a.b", "ab"),
    ("Theatre anthem", "theatre anthem"),
    ("U.S.", "us"),
    ("–", "–"),  # not ASCII, so it stays
    ("the", ""),
    ("", ""),
  ],
)
def test_normalize(text, normal):
  assert normalize(text) == normal


def test_exact_match():
  assert exact_match("The seven.", ["six", "Seven"]) == 1.0
  assert exact_match("seven arches", ["seven"]) == 0.0
  assert exact_match("", ["the"]) == 1.0


@pytest.mark.parametrize(
  "answer, references, score",
  [
    ("seven old arches", ["seven arches"], 0.8),  # p = 2/3, r = 1
    ("arches, seven", ["the seven arches"], 1.0),  # order does not count
    ("x x x", ["x x y y"], 4 / 7),  # two shared, as multisets
    ("six", ["seven", "a six of clubs"], 0.5),  # the best: p = 1, r = 1/3
    ("six", ["seven"], 0.0),
    ("", ["seven"], 0.0),
    ("the", ["an"], 1.0),
    ("seven", ["the"], 0.0),
  ],
)
def test_f1(answer, references, score):
  assert f1(answer, references) == pytest.approx(score)
  assert type(f1(answer, references)) is float


def test_string_match():
  assert string_match("it is 12 and ABC.", ["12", "abc", "13", "x"]) == 0.5
  assert string_match("it is 12", ["12", "abc"], any_of=True) == 1.0
  assert string_match("none", ["12", "abc"], any_of=True) == 0.0
  assert string_match("1234", ["23"]) == 1.0  # a part of a word counts


@pytest.mark.parametrize(
  "answer, score",
  [
    ("Kitchen", 1),
    ("She is in the kitchen. Before, in the garden.", 1),
    ("In the garden. No, the kitchen", 0),
    ("the kitchen or the garden", 0),
    ("not the hallway, the kitchen", 1),  # the hallway was in the question
    ("the hallway", 0),
    ("", 0),
  ],
)
def test_only_label(answer, score):
  labels = ["kitchen", "Garden", "hallway"]
  question = "Where was Mary before the Hallway?"
  assert only_label(answer, "kitchen", question, labels) == score


def test_only_label_of_several():
  labels = ["milk", "apple", "football"]
  for answer, score in (("Apple and milk", 1), ("milk", 0),
                        ("milk, apple, football", 0)):  # fmt: skip
    assert only_label(answer, "milk, apple", "What?", labels) == score


@pytest.mark.parametrize(
  "answer, references, score",
  [
    ("police killed the gunman", ["police kill the gunman"], 3 / 4),  # Lin 2004
    ("the gunman police killed", ["police killed the gunman"], 2 / 4),
    ("A b, c.", ["x", "a B c D"], 6 / 7),
    ("a a", ["a"], 2 / 3),
    ("", ["a"], 0.0),
  ],
)
def test_rouge_l(answer, references, score):
  assert rouge_l(answer, references) == pytest.approx(score)


def test_rouge_l_by_brute_force():
  rng = np.random.default_rng(0)
  for _ in range(200):
    a, b = ("".join(rng.choice([*"abc"], rng.integers(1, 7))) for _ in "ab")
    parts = (
      {"".join(p) for n in range(len(x) + 1)
       for p in itertools.combinations(x, n)} for x in (a, b)
    )  # fmt: skip
    longest = max(map(len, set.intersection(*parts)))
    expected = 2 * longest / (len(a) + len(b))
    assert rouge_l(" ".join(a), [" ".join(b)]) == pytest.approx(expected)


def test_the_rule_of_a_set():
  rest = ("in the kitchen", ["kitchen"], "Where?", ["kitchen", "hall"])
  assert own_rule("babilong", *rest) == {"only_label": 1.0}
  assert own_rule("rouge_l", *rest) == {"rouge_l": 0.5}
  assert own_rule("f1", *rest) == own_rule("", *rest) == {}


@pytest.mark.parametrize("score", [exact_match, f1, rouge_l, string_match])
@pytest.mark.parametrize("references", [[], "text"])
def test_references_are_a_list(score, references):
  with pytest.raises(ValueError, match="must be a list of at least one answer"):
    score("text", references)
