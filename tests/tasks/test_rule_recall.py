"""The rule task: its answers, worked out again from the tokens alone."""

import numpy as np
import pytest

from mattt_jax import config
from mattt_jax.tasks import rule_recall
from mattt_jax.tasks.rule_recall import Config, Task

LENGTH = 512


def example(length=LENGTH, index=3, **changes):
  settings = Config(**changes)
  return settings, Task(settings, seed=1).example("train", index, length)


def whole(found):
  return np.append(found["tokens"], found["targets"][-1])


@pytest.mark.parametrize("rule", ["permutation", "shift", "identity"])
@pytest.mark.parametrize("length", [LENGTH, 2048])
def test_answers_follow_from_what_was_read(rule, length):
  settings, found = example(length, rule=rule)
  seq, symbol = whole(found), settings.first_symbol
  _, queries_at = settings.areas(length)
  bound, shown, pair_at = {}, {}, {}
  for at in range(queries_at):
    if seq[at] == rule_recall.PAIR:
      bound[seq[at + 1]], pair_at[seq[at + 1]] = seq[at + 2], at
    if seq[at] == rule_recall.RULE:
      shown.setdefault(seq[at + 1], set()).add(seq[at + 2])
  assert len(bound) == settings.num_pairs
  # The rule is a permutation, shown for all symbols and never otherwise.
  assert len(shown) == settings.num_symbols
  assert all(len(images) == 1 for images in shown.values())
  rule_of = {x: images.pop() for x, images in shown.items()}
  assert sorted(rule_of.values()) == sorted(rule_of)
  if rule != "permutation":
    shifts = {(y - x) % settings.num_symbols for x, y in rule_of.items()}
    assert len(shifts) == 1 and (rule == "shift" or shifts == {0})

  answers = set()
  for at in range(queries_at, length + 1, 3):
    mark, key, value = seq[at : at + 3]
    target = at + 1  # index of the value among the targets
    assert found["outer_weight"][target] == settings.answer_weight
    if mark == rule_recall.RULE:
      assert value == rule_of[key] and found["answer"][target] == -1
      continue
    assert mark == rule_recall.QUERY and value == rule_of[bound[key]]
    answers.add(int(found["answer"][target]))
    assert found["distance"][target] == at - pair_at[key]
    assert found["relevant"][pair_at[key] + 1]
  assert answers == set(range(settings.num_queries))
  assert found["relevant"].sum() == settings.num_queries
  assert (found["answer"] >= 0).sum() == settings.num_queries
  assert seq.max() < settings.vocab_size and symbol > 3


def test_each_document_has_its_rule():
  rules = set()
  for index in range(8):
    settings, found = example(index=index)
    seq = whole(found)
    shown = {
      (seq[at + 1], seq[at + 2])
      for at in range(LENGTH - 1)
      if seq[at] == rule_recall.RULE
    }
    rules.add(tuple(y for _, y in sorted(shown)))
  assert len(rules) == 8


@pytest.mark.parametrize(
  "changes, error",
  [
    (dict(rule="sum"), "task.rule='sum' is not known: use one of perm"),
    (dict(num_pairs=300), "task.num_pairs=300 <= task.num_keys=256 must"),
    (dict(num_queries=33), "task.num_queries=33 <= task.num_pairs=16"),
    (
      dict(demonstrations=18),
      "too short for .*, 480 tokens .* 24 .* least 1006",
    ),
    (dict(gap_share=0.0), "task.gap_share=0.0 puts answers within 3 tokens"),
    (dict(interference=1.5), "task.interference=1.5 must lie in"),
  ],
)
def test_settings_that_do_not_fit(changes, error):
  tree = config.template("rule_recall")
  tree.length = LENGTH
  tree.task.update(changes)
  with pytest.raises(ValueError, match=error):
    config.from_config_dict(tree)
