"""LongBench's rules, scored by hand."""

import pytest

from mattt_jax.evaluation import longbench
from mattt_jax.evaluation.own_rules import own_rule

CLASSES = ["Other location", "location", "City", "human individual", "human"]


@pytest.mark.parametrize(
  "answer, reference, score",
  [
    ("City", "City", 1),
    ("a City, human", "City", 1 / 2),
    ("city", "City", 0),  # in its own case
    ("location", "City", 0),
    # "location" is in both, and no other class than the right one.
    ("Other location", "Other location", 1),
    ("Other location", "location", 1 / 2),
    ("human individual or City", "human individual", 1 / 2),
    ("", "City", 0),
    ("\n\nCity\nhuman", "City", 1),  # the first line alone
    (" \nCity", "City", 0),
  ],
)
@pytest.mark.parametrize("name", ["trec", "lsht"])
def test_classification(name, answer, reference, score):
  found = longbench.score(name, answer, [reference], CLASSES)
  assert found == pytest.approx(score)


def test_a_class_after_one_that_is_left_out_is_not_looked_at():
  """As the published loop, which takes from the list that it goes through."""
  parts = ["a", "b", "abc"]
  assert longbench.classification("abc", "abc", parts) == 1 / 2
  assert longbench.classification("abc", "abc", ["a", "abc", "b"]) == 1


@pytest.mark.parametrize(
  "answer, score",
  [
    ("7", 1),
    ("Paragraph 7", 1),
    ("Paragraph 7, not 17 or 8", 1 / 3),
    ("7 7 8 7", 3 / 4),
    ("70", 0),
    ("07", 0),
    ("seven", 0),
    ("", 0),
    ("none\n7", 1),  # every line
  ],
)
def test_numbers(answer, score):
  for name, reference in (
    ("passage_count", "7"),
    ("passage_retrieval_en", "Paragraph 7"),
    ("passage_retrieval_zh", "段落7"),
  ):
    found = longbench.score(name, answer, [reference])
    assert found == pytest.approx(score), name


def test_a_paragraph_without_a_number():
  with pytest.raises(ValueError, match="'7' must have 'Paragraph ' and a num"):
    longbench.score("passage_retrieval_en", "7", ["7"])


@pytest.mark.parametrize(
  "answer, reference, score",
  [
    ("return x", "return x", 1.0),
    ("abcd", "bcde", 0.75),  # 2 * 3 / 8
    ("ab", "abc", 0.8),  # 2 * 2 / 5
    ("abc", "adef", 0.29),  # 2 / 7 = 0.2857
    # difflib matches the longest block, "cd", and nothing around it: 2 * 2 / 8.
    # The longest common subsequence is "abe" or "cde": 2 * 3 / 8.
    ("cdab", "abcd", 0.5),
    ("xacbd", "cxayb", 0.6),  # "xa", then "b": 2 * 3 / 10
    ("", "abc", 0.0),
    ("\n\nabc\nd", "abc", 1.0),
    ("# first\n`a`\na // b\nabc\nd", "abc", 1.0),
    ("# only", "abc", 0.0),
    (" \nabc", "abc", 0.0),  # a line of a space is one
    ("# a\n\nabc", "abc", 0.0),  # and so is an empty one, but at the start
  ],
)
@pytest.mark.parametrize("name", ["lcc", "repobench-p"])
def test_code_similarity(name, answer, reference, score):
  assert longbench.score(name, answer, [reference]) == score


@pytest.mark.parametrize(
  "answer, reference, score",
  [
    ("police killed the gunman", "police kill the gunman", 3 / 4),
    ("The gunman.", "the gunman.", 1 / 2),  # in its own case
    ("a a b", "a b", 1.0),  # different words
    ("b a", "a b", 1 / 2),  # in order
    # Of the sentences c d and a b, each in the order of the other text.
    ("c d. a b", "a b. c d", 1.0),
    ("c d a b", "a b c d", 1 / 2),
    ("a b. x", "a b c d", 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
    # " " is a sentence of one empty word: 3 words, and 2.
    ("a b. ", "a b", 4 / 5),
    # Of x and y, each as long, y is found: with a and b, 3 of 4 words.
    ("y x. y b. a y", "x y. b. a", 3 / 4),
    ("y x", "x y", 1 / 2),
    ("", "a", 0.0),
    ("...", "a", 0.0),
  ],
)
def test_rouge(answer, reference, score):
  found = longbench.score("gov_report", answer, [reference])
  assert found == pytest.approx(score, abs=1e-7)


def test_which_of_two_common_subsequences_counts():
  """As `rouge` goes back: past the answer's last word, not the reference's."""
  assert longbench._common(["x", "y"], ["y", "x"]) == {"y"}
  # x y z in two sentences of the answer: y of the first, and y z of the other.
  found = longbench.rouge("y x. y z", "x y z")
  assert found == pytest.approx(2 / 3, abs=1e-7)


def test_f1_of_words():
  assert longbench.score(
    "qasper", "seven old\narches", ["the seven arches"]
  ) == (pytest.approx(0.8))
  assert longbench.score("qasper", "", ["the"]) == 0  # 1 by SQuAD's rule
  # Few-shot: the first line alone.
  answer = "seven arches\nPassage: more"
  assert longbench.score("triviaqa", answer, ["six", "Seven arches"]) == 1
  assert longbench.score("samsum", "a b\nc", ["a b"]) == pytest.approx(1)
  assert longbench.score("qmsum", "a b\nc", ["a b"]) == pytest.approx(0.8)


def test_the_rule_of_a_record():
  labels = ("City", "human")
  found = own_rule("longbench:trec", "City", ["City"], "What?", labels)
  assert found == {"longbench_trec": 1.0}
  found = own_rule("longbench:lcc", "ab", ["abc"], "", ())
  assert found == {"longbench_lcc": 0.8}


@pytest.mark.parametrize(
  "name, expected",
  [
    ("multifieldqa_zh", "scores multifieldqa_zh by Chinese words, .* jieba"),
    ("vcsum", "leave the file of this task out, or use --answers=forced"),
    ("nq", "no task 'nq': its tasks that can be scored are 2wikimqa, gov_rep"),
  ],
)
def test_tasks_without_a_rule(name, expected):
  for call in (
    lambda: longbench.check(name),
    lambda: longbench.score(name, "a", ["a"]),
    lambda: own_rule(f"longbench:{name}", "a", ["a"], "", ()),
  ):
    with pytest.raises(ValueError, match=expected):
      call()


def test_references_are_a_list():
  with pytest.raises(ValueError, match="must be a list of at least one answer"):
    longbench.score("qasper", "a", [])
