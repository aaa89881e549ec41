"""RULER's kinds against a reader that knows only the format."""

import collections
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.tasks.ruler import ITEMS, NEEDLE, QUERY, Config, Task

SEED, LENGTH = 5, 400
NIAH = tuple(kind for kind in ITEMS if kind.startswith("niah"))
WORDS = ("common_words", "frequent_words")
# Sizes at which every kind fits LENGTH.
SIZES = dict(repeats=9, rare_repeats=4, num_keys=96, gap_share=0.3)


def whole(example):
  return np.append(example["tokens"], example["targets"][-1]).tolist()


def statements(config, seq):
  """[(place, key, value tokens)] before the question, and its place."""
  found, at = [], 0
  while seq[at] != QUERY:
    if seq[at] == NEEDLE:
      value = tuple(seq[at + 2 : at + 2 + config.value_length])
      found.append((at, seq[at + 1], value))
      at += 1 + config.value_length
    at += 1
  return found, at


def solve(config, seq):
  """[(place of an answer, its tokens, places of its evidence)]."""
  found, at = statements(config, seq)
  size, answers = config.value_length, []
  if config.kind in WORDS:
    keys = range(3, 3 + config.num_keys)
    counts = collections.Counter(w for w in seq[:at] if w in keys)
    ranked = [*counts.most_common(), (None, 0)]
    assert ranked[config.items - 1][1] > ranked[config.items][1]
    top = {word for word, _ in ranked[: config.items]}
    for word in dict.fromkeys(w for w in seq[:at] if w in top):
      places = [i for i in range(at) if seq[i] == word]
      answers.append((at + 1 + len(answers), (word,), places))
    return answers
  if config.kind == "variable_tracking":
    asked, bound, used = (seq[at + 1],), {}, []
    for place, variable, value in found:
      bound[variable] = bound.get(value[0], value)
      if bound[variable] == asked:
        used += [place + 1, place + 2]
        answers.append((at + 2 + len(answers), (variable,), list(used)))
    return answers
  while at < len(seq):
    assert seq[at] == QUERY
    matches = [(p, value) for p, key, value in found if key == seq[at + 1]]
    at += 2
    for place, value in matches:
      evidence = range(place + 2, place + 2 + size)
      answers.append((at, value, list(evidence)))
      at += size
  return answers


def configs(number):
  rng = np.random.default_rng(0)
  for i in range(number):
    kind = tuple(ITEMS)[i % len(ITEMS)]
    depth = None
    if kind not in WORDS and i // len(ITEMS) % 2:
      depth = float(rng.choice([0.0, rng.random(), 1.0]))
    yield Config(
      kind=kind,
      num_items=0 if kind == "niah_single" else int(rng.integers(2, 6)),
      num_values=int(rng.integers(2, 20)),
      num_fillers=int(rng.integers(1, 9)),
      value_length=1 if "track" in kind else int(rng.integers(1, 5)),
      power=float(rng.choice([1.5, 2.0])),
      interference=float(rng.choice([0.4, rng.random() * 0.4 + 0.2])),
      depth=depth,
      **SIZES,
    )


@pytest.mark.parametrize("config", list(configs(56)))
def test_a_reader_answers_every_question(config):
  for index in range(3):
    example = Task(config, SEED).example("train", index, LENGTH)
    seq = whole(example)
    answers = solve(config, seq)
    multikey = config.kind == "niah_multikey"
    assert len(answers) == (1 if multikey else config.items)
    answer, distance = np.full(LENGTH, -1), np.full(LENGTH, -1)
    relevant = np.zeros(LENGTH + 1, bool)
    for number, (at, tokens, evidence) in enumerate(answers):
      span = slice(at - 1, at - 1 + len(tokens))
      assert tuple(example["targets"][span]) == tokens
      answer[span], distance[span] = number, at - min(evidence)
      assert at - max(evidence) >= config.min_distance(LENGTH)
      relevant[evidence] = True
    np.testing.assert_array_equal(example["answer"], answer)
    np.testing.assert_array_equal(example["distance"], distance)
    np.testing.assert_array_equal(example["relevant"], relevant[1:])
    # The last answer ends the sequence, and the question has one mark a query.
    assert at + len(tokens) == LENGTH + 1
    queries = config.items if config.kind == "niah_multiquery" else 1
    assert seq.count(QUERY) == queries


@pytest.mark.parametrize("kind", [k for k in ITEMS if k not in WORDS])
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("interference", [0.0, 0.5, 1.0])
def test_depth_is_where_the_needles_lie(kind, depth, interference):
  config = Config(kind=kind, depth=depth, interference=interference)
  end, _ = config.areas(256)
  for index in range(5):
    seq = whole(Task(config, SEED).example("train", index, 256))
    places = [min(evidence) for _, _, evidence in solve(config, seq)]
    if kind == "variable_tracking":
      first, number = min(places) - 1, config.items
    else:
      first, number = min(places) - 2, len(places)
      back_to_back = [first + 2 + 3 * i for i in range(number)]
      assert sorted(places) == back_to_back
    assert first == round(depth * (end - 3 * number))


def test_without_a_depth_needles_lie_anywhere_before_the_gap():
  config = Config(num_fillers=1, interference=0.0, out_of_reach=False)
  places = {
    statements(config, whole(Task(config, 0).example("train", i, 64)))[0][0][0]
    for i in range(400)
  }
  end, question_at = config.areas(64)
  assert places == set(range(end - 2)) and question_at - end == 32


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_interference_of_filler(share):
  """Of 8,000 draws: a standard deviation of at most 0.0056."""
  for kind in ("niah_single", "niah_multivalue", "niah_multiquery"):
    config = Config(kind=kind, interference=share)
    seq = np.array(whole(Task(config, SEED).example("train", 0, 8000)))
    filler = seq[config.areas(8000)[0] : config.areas(8000)[1]]
    assert filler.min() > QUERY
    misleading = (filler < config.first_filler).mean()
    assert misleading == pytest.approx(share, abs=0.025)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("depth", [None, 0.4])
@pytest.mark.parametrize("length", [301, 1024])
@pytest.mark.parametrize("kind", ["niah_multikey", "variable_tracking"])
def test_interference_of_needles(kind, length, share, depth):
  """They fill their share of both sides of the gap's beginning; other filler
  holds no key and no value, and no distractor answers the question."""
  config = Config(kind=kind, interference=share, depth=depth)
  seq = whole(Task(config, SEED).example("train", 0, length))
  found, at = statements(config, seq)
  end, _ = config.areas(length)
  asked = (4 if kind == "niah_multikey" else 5) * 3
  group = 3 if kind == "niah_multikey" else 15
  before = 3 * sum(place < end for place, _, _ in found) - asked
  behind = 3 * sum(place >= end for place, _, _ in found)
  assert behind == group * int(share * (at - end) / group)
  # At a depth, needles on its two sides waste up to two tokens each.
  waste = 0 if depth is None else 4
  rooms = range(end - asked - waste, end - asked + 1)
  assert before in {group * int(share * room / group) for room in rooms}
  plain = set(seq[:at]) - {NEEDLE, *(k for _, k, _ in found)}
  plain -= {token for *_, value in found for token in value}
  assert min(plain, default=config.first_filler) >= config.first_filler


def test_every_chain_is_in_order_and_whole():
  """With so many variables that no two chains share one."""
  config = Config(
    kind="variable_tracking", num_keys=10**6, num_values=10**6, interference=1.0
  )
  for depth in (None, 0.5):
    tree = dataclasses.replace(config, depth=depth)
    found, _ = statements(config, whole(Task(tree, 1).example("train", 0, 999)))
    bound, mixed = {}, 0
    for (_, variable, (value,)), following in zip(
      found, [*found[1:], found[0]], strict=True
    ):
      bound[variable] = bound.get(value, value)
      mixed += bound.get(following[2][0]) != bound[variable]
    assert min(bound.values()) >= config.first_value  # each is a value at last
    sizes = collections.Counter(bound.values())
    assert set(sizes.values()) == {5} and len(sizes) > 60
    assert mixed > len(found) / 2  # chains are interleaved


def test_common_words():
  config = Config(kind="common_words", interference=0.5, **SIZES)
  seq = whole(Task(config, SEED).example("train", 0, LENGTH))
  haystack = np.array(seq[: LENGTH + 1 - 11])
  counts = collections.Counter(haystack[haystack < 3 + 96].tolist())
  rest = len(haystack) - 10 * 9
  others = int(0.5 * rest / 4)
  assert sorted(counts.values()) == [4] * others + [9] * 10
  # Those that are not asked for are in the gap, too.
  end, at = config.areas(LENGTH)
  asked = set(seq[-10:])
  assert not asked & set(seq[end:at])
  assert any(token < 3 + 96 for token in seq[end:at])


def test_frequent_words_follow_the_power_law():
  config = Config(kind="frequent_words", interference=0.4, power=2.0)
  length = 8000
  seq = whole(Task(config, SEED).example("train", 0, length))
  counts = collections.Counter(t for t in seq[:-4] if t < 3 + 64)
  found = np.array(sorted(counts.values(), reverse=True))
  ideal = 1 / np.arange(2, 66) ** 2
  ideal *= 0.4 * (length - 3) / ideal.sum()
  # Rounded down: up to one less than the law, and so 64 less in all.
  assert ((ideal - 1 < found) & (found <= ideal)).all()
  assert 0.4 * (length - 3) - 64 <= found.sum() <= 0.4 * (length - 3)


def test_answers_are_in_order_of_appearance():
  orders = set()
  for index in range(40):
    config = Config(kind="frequent_words")
    seq = whole(Task(config, SEED).example("train", index, 256))
    first = [seq.index(word) for word in seq[-3:]]
    assert first == sorted(first)
    orders.add(tuple(np.argsort([-seq[:-4].count(w) for w in seq[-3:]])))
  assert len(orders) > 1  # it is not the order of frequency


def test_queries_come_in_any_order():
  config = Config(kind="niah_multiquery", num_items=3)
  orders = set()
  for index in range(60):
    seq = whole(Task(config, SEED).example("train", index, 256))
    answers = solve(config, seq)
    orders.add(tuple(np.argsort([min(e) for *_, e in answers])))
  assert len(orders) == 6


def test_weights():
  for kind in ("niah_multivalue", "variable_tracking", "frequent_words"):
    config = Config(kind=kind, answer_weight=2.0, context_weight=0.25)
    example = Task(config, SEED).example("train", 0, 256)
    weight = np.where(example["answer"] >= 0, 2.0, 0.25)
    np.testing.assert_array_equal(example["outer_weight"], weight)
    assert (example["inner_weight"] == 1).all()


def test_another_process_makes_the_same_examples():
  code = (
    "from mattt_jax.tasks.ruler import *\n"
    "for kind in ITEMS:\n"
    "  task = Task(Config(kind=kind, repeats=5, num_keys=96), 5)\n"
    "  print(task.example('tune', 5, 400)['tokens'].tobytes().hex())"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout.split()
  for kind, found in zip(ITEMS, out, strict=True):
    task = Task(Config(kind=kind, repeats=5, num_keys=96), SEED)
    task.example("train", 0, 512)  # what was asked before does not matter
    expected = task.example("tune", 5, 400)["tokens"].tobytes()
    assert bytes.fromhex(found) == expected


@pytest.mark.parametrize("kind", [k for k in ITEMS if k != "common_words"])
def test_the_default_experiment(kind):
  tree = config_lib.template("ruler")
  tree.task.kind = kind
  assert config_lib.from_config_dict(tree).task.min_distance(256) == 130


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(kind="qa"), "task.kind='qa' is not known: use one of niah_single"),
    (dict(num_items=2), "task.num_items=2 must be 0 or 1"),
    (dict(depth=1.5), r"task.depth=1.5 must lie in \[0, 1\]"),
    (dict(kind="common_words", depth=0.5), "task.depth=0.5 .* use None"),
    (dict(kind="variable_tracking", num_items=1), "num_items=1 >= 2"),
    (dict(kind="variable_tracking", value_length=2), "value_length=2 == 1"),
    (dict(kind="variable_tracking", num_values=1), "num_values=1 >= 2"),
    (dict(kind="variable_tracking", num_keys=9), "num_keys=9 must be .* 10"),
    (dict(kind="niah_multikey", num_keys=3), "num_keys=3 must be at least 4"),
    (
      dict(kind="niah_multikey", num_items=1, num_keys=1),
      "num_keys=1 must be at least 2",
    ),
    (dict(kind="niah_multiquery", num_keys=3), "num_keys=3 must be at least 4"),
    (dict(kind="common_words", repeats=3), "task.repeats=3 must be > task.rar"),
    (dict(kind="common_words"), "too short for 300 tokens .* at least 620"),
    (
      dict(kind="common_words", num_items=4, repeats=20, num_keys=20),
      "num_keys=20 must be at least 32 .* 28 words .* of 252 tokens",
    ),
    (
      dict(kind="frequent_words", num_items=9),
      "word 9 appears 1 times .* next one 1 times",
    ),
    (
      dict(kind="frequent_words", interference=0.9),
      "interference=0.9 makes 152 of the 253 .* only 125 .* task.gap_share=0.5",
    ),
    (dict(power=0.0), "task.power=0.0 must be positive"),
    (dict(kind="niah_multivalue", num_items=60), "too short .* at least 482"),
    (dict(gap_share=0.48), "puts answers within 125 tokens .* reaches 125"),
    (dict(interference=1.5), "task.interference=1.5 must lie in"),
    (dict(answer_weight=0.0, context_weight=0.0), "leave nothing to learn"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  tree = config_lib.template("ruler")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


def test_the_least_lengths_that_errors_name():
  Config(kind="niah_multivalue", num_items=60).areas(482)
  Config(kind="common_words", num_keys=500).areas(620)
  tight = Config(kind="niah_multikey", depth=0.5, gap_share=0.0)
  with pytest.raises(ValueError, match="of at least 16"):
    tight.areas(15)
  for index in range(50):  # needles fit on both sides wherever the depth is
    for share in np.linspace(0, 1, 12):
      config = Config(kind="niah_multikey", depth=share, gap_share=0.0)
      seq = whole(Task(config, SEED).example("train", index, 16))
      assert len(statements(config, seq)[0]) == 4
