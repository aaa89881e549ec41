"""`depth`: where what is asked for lies; every task of made-up facts has it."""

import collections

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.tasks import (
  associative_recall,
  babi,
  rule_recall,
  student_records,
)

LENGTH = 512
# What starts an item, the tokens of one, and how many there are.
ITEMS = {
  associative_recall: ({associative_recall.PAIR}, 3, 16 + 5),
  rule_recall: ({rule_recall.PAIR, rule_recall.RULE}, 3, 16 + 2 * 8),
  student_records: ({student_records.STUDENT}, 7, 8),
}
SETTINGS = {associative_recall: {"updates": 5}}


def make(module, **changes):
  return module.Task(
    module.Config(**SETTINGS.get(module, {}) | changes), seed=3
  )


def starts(module, tokens, end):
  marks, size, number = ITEMS[module]
  at = np.flatnonzero(np.isin(tokens[:end], list(marks)))
  assert len(at) == number
  return at, size, number


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("module", ITEMS)
def test_items_lie_back_to_back_at_their_depth(module, depth):
  task = make(module, depth=depth)
  end, _ = task.config.areas(LENGTH)
  for index in range(5):
    example = task.example("train", index, LENGTH)
    at, size, number = starts(module, example["tokens"], end)
    expected = round(depth * (end - number * size))
    assert at.tolist() == [expected + i * size for i in range(number)]
    distance = example["distance"][example["answer"] >= 0]
    assert distance.min() >= task.config.min_distance(LENGTH)
    assert not example["relevant"][: max(0, expected - 1)].any()


@pytest.mark.parametrize("module", ITEMS)
def test_without_a_depth_items_lie_anywhere_before_the_gap(module):
  task, seen = make(module), collections.Counter()
  end, _ = task.config.areas(LENGTH)
  for index in range(40):
    tokens = task.example("train", index, LENGTH)["tokens"]
    seen.update((4 * starts(module, tokens, end)[0] // end).tolist())
  share = np.array([seen[quarter] for quarter in range(4)]) / sum(seen.values())
  assert abs(share - 0.25).max() < 0.06


@pytest.mark.parametrize("kind", ["qa1", "qa3", "qa4", "qa5"])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_facts_lie_back_to_back_at_their_depth(kind, depth):
  """A sentence with a verb is a fact; filler has none."""
  task = make(babi, kind=kind, depth=depth)
  words = np.array(task.config.vocabulary)
  for index in range(5):
    example = task.example("train", index, LENGTH)
    end, _ = task.config.areas(LENGTH)
    sentences = " ".join(words[example["tokens"][:end]]).split(" .")[:-1]
    fact = np.array([
      bool({"went", "took", "dropped", "gave", "is"} & set(s.split()))
      for s in sentences
    ])  # fmt: skip
    at = np.flatnonzero(fact)
    assert np.diff(at).tolist() == [1] * 6 and len(at) == 7
    assert at[0] == pytest.approx(depth * (len(fact) - 7), abs=1)


@pytest.mark.parametrize("depth", [-0.1, 1.1])
@pytest.mark.parametrize("name", ["associative_recall", "rule_recall",
                                  "student_records", "babi"])  # fmt: skip
def test_a_depth_out_of_range(name, depth):
  tree = config_lib.template(name)
  tree.task.depth = depth
  with pytest.raises(ValueError, match=f"task.depth={depth} must lie in"):
    config_lib.from_config_dict(tree)
  tree.task.depth = 0.5
  assert config_lib.from_config_dict(tree).task.depth == 0.5
