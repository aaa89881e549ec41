"""MQAR against a reader that knows only the format, and its power law."""

import math

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.tasks.mqar import Config, Task

SEED = 7


def whole(example):
  return np.append(example["tokens"], example["targets"][-1]).tolist()


def read(config, example):
  """{index of a value asked for: (query, value, index of its evidence)}: pairs
  start at their depth; a key of theirs, anywhere later, is a query."""
  seq, bound, answers = whole(example), {}, {}
  first = round(config.depth * round(config.gap_share * (len(seq) - 1)))
  last = first + 2 * config.num_pairs
  for at in range(first, last, 2):
    bound[seq[at]] = seq[at + 1], at + 1
  assert len(bound) == config.num_pairs
  assert not bound.keys() & set(seq[:first])
  for at in range(last, len(seq)):
    if seq[at] in bound:
      answers[at + 1] = len(answers), *bound[seq[at]]
  return answers, bound


def configs(number):
  rng = np.random.default_rng(0)
  for _ in range(number):
    pairs = int(rng.integers(1, 20))
    yield Config(
      num_pairs=pairs,
      num_keys=pairs + int(rng.integers(3)),
      num_values=pairs + int(rng.integers(3)),
      num_fillers=int(rng.integers(1, 5)),
      power=float(rng.choice([0.01, 0.5, 1.0, 2.0])),
      interference=float(rng.choice([0.0, 0.5, 1.0])),
      gap_share=float(rng.random() * 0.4) + 1e-6,
      depth=float(rng.choice([0.0, 0.0, 0.3, 1.0])),
    )


@pytest.mark.parametrize("config", list(configs(30)))
@pytest.mark.parametrize("length", [127, 128])
def test_a_dict_answers_every_query(config, length):
  start, _ = config.queries(length)
  for index in range(3):
    example = Task(config, SEED).example("train", index, length)
    answers, bound = read(config, example)
    assert len(answers) == config.num_pairs
    answer, distance = np.full(length, -1), np.full(length, -1)
    relevant = np.zeros(length, bool)
    for at, (query, value, evidence) in answers.items():
      assert at > start and example["targets"][at - 1] == value
      answer[at - 1], distance[at - 1] = query, at - evidence
      relevant[evidence - 1] = True
    np.testing.assert_array_equal(example["answer"], answer)
    np.testing.assert_array_equal(example["distance"], distance)
    np.testing.assert_array_equal(example["relevant"], relevant)
    assert len({value for value, _ in bound.values()}) == config.num_pairs
    assert distance[answer >= 0].min() >= config.min_distance(length)


@pytest.mark.parametrize("power", [0.01, 1.0])
@pytest.mark.parametrize("pairs", [1, 8])
def test_gaps_follow_the_power_law(power, pairs):
  """A slot is drawn for the first pair first, so it is exactly p(g) ~
  g^(power - 1), however many others exclude each other after it."""
  config = Config(power=power, num_pairs=pairs)
  length, number = 2 * pairs + 39, 4000
  task, seen = Task(config, SEED), np.zeros(20)
  for index in range(number):
    example = task.example("train", index, length)
    seq = whole(example)
    query = seq.index(seq[0], 2 * pairs)
    assert query % 2 == 0
    seen[(query - 2 * pairs) // 2] += 1
  g = np.arange(1, 21)
  expected = number * g ** (power - 1) / (g ** (power - 1)).sum()
  # Chi-square with 19 degrees of freedom: mean 19, variance 38. Five standard
  # deviations above the mean is a chance of 2e-4; places drawn with `power`
  # changed by 0.2 would add 85 or more.
  chi2 = ((seen - expected) ** 2 / expected).sum()
  assert chi2 < 19 + 5 * math.sqrt(38)


@pytest.mark.parametrize("depth, least", [(0.0, 18), (0.5, 10), (1.0, 2)])
def test_the_nearest_case_occurs(depth, least):
  config = Config(num_pairs=2, gap_share=0.25, depth=depth)
  seen = [
    Task(config, SEED).example("tune", index, 64)["distance"]
    for index in range(100)
  ]
  nearest = min(distance[distance >= 0].min() for distance in seen)
  assert nearest == config.min_distance(64) == least


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_interference_is_the_share_of_misleading_filler(share):
  config = Config(interference=share, num_pairs=4)
  example = Task(config, SEED).example("train", 0, 20_000)
  answers, _ = read(config, example)
  filler = np.delete(
    whole(example), [*range(8), *answers, *(at - 1 for at in answers)]
  )
  misleading = filler[filler < config.first_filler]
  # Of 20,000 draws: a standard deviation of at most 0.0036.
  assert len(misleading) / len(filler) == pytest.approx(share, abs=0.015)
  if share:  # from the 60 keys that are not bound, and all values
    assert len(np.unique(misleading)) == 60 + 64


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(num_pairs=65, num_values=65), "use task.num_keys=64 >= 65"),
    (dict(num_pairs=65, num_keys=65), "use task.num_values=64 >= 65"),
    (dict(num_pairs=0), "task.num_pairs=0 must be at least 1"),
    (dict(power=0.0), "task.power=0.0 must be positive"),
    (dict(interference=-0.1), r"task.interference=-0.1 must lie in \[0, 1\]"),
    (dict(depth=1.5, gap_share=0.1), r"task.depth=1.5 must lie in \[0, 1\]"),
    (dict(depth=0.5), "depth=0.5 is a share of the gap, and task.gap_share=0"),
    (dict(out_of_reach=True, gap_share=0.49, depth=0.2), "within 102 tokens"),
    (dict(answer_weight=0.0, context_weight=0.0), "leave nothing to learn"),
    (dict(num_pairs=64, gap_share=0.1), "too short .* length of at least 284"),
    (dict(out_of_reach=True), "within 2 tokens .* reaches 125"),
    (dict(out_of_reach=True, gap_share=0.48), "within 125 tokens"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  tree = config_lib.template("mqar")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


def test_what_the_errors_advise():
  Config(num_pairs=64, gap_share=0.1).queries(284)
  tree = config_lib.template("mqar")
  tree.task.update(out_of_reach=True, gap_share=0.49)
  assert config_lib.from_config_dict(tree).task.min_distance(256) == 127
