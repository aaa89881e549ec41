"""The task against a reader that knows only the format, not the generator."""

import types

import numpy as np
import pytest

from mattt_jax.data import splits
from mattt_jax.tasks import base
from mattt_jax.tasks.associative_recall import (
  FIRST_KEY,
  PAIR,
  QUERY,
  Config,
  Task,
)

SEED = 11


def experiment(
  config,
  length=256,
  chunk=32,
  window=32,
  layers=4,
  attention="window",
  evals=(),
  random_lengths=(),
):
  return types.SimpleNamespace(
    task=config,
    length=length,
    chunk=chunk,
    model=types.SimpleNamespace(
      num_layers=layers, window=window, attention=attention
    ),
    train=types.SimpleNamespace(random_lengths=random_lengths),
    lengths=[
      ("length", length),
      *(("eval.lengths", n) for n in evals),
      *(("train.random_lengths", n) for n in random_lengths),
    ],
  )


def sequence(example):
  return np.append(example["tokens"], example["targets"][-1])


def read(config, example):
  """Scans the sequence with a dict: answers and distances, target by target."""
  seq = sequence(example).tolist()
  k, v = config.key_length, config.value_length
  bound, answers, queries, pairs = {}, {}, 0, []
  for at, token in enumerate(seq):
    key = tuple(seq[at + 1 : at + 1 + k])
    value_at = at + 1 + k
    if token == PAIR:
      pairs.append((key, tuple(seq[value_at : value_at + v])))
      bound[key] = (value_at, pairs[-1][1])
    elif token == QUERY:
      evidence_at, value = bound[key]
      for j in range(v):
        target = value_at + j - 1
        answers[target] = (queries, value[j], value_at - evidence_at)
      queries += 1
  return answers, pairs


def random_configs(number):
  rng = np.random.default_rng(0)
  for _ in range(number):
    pairs = int(rng.integers(1, 12))
    yield Config(
      num_keys=int(rng.integers(12, 20)),
      num_values=int(rng.integers(2, 20)),
      num_fillers=int(rng.integers(1, 9)),
      key_length=int(rng.integers(1, 5)),
      value_length=int(rng.integers(1, 5)),
      num_pairs=pairs,
      num_queries=int(rng.integers(1, pairs + 1)),
      updates=int(rng.integers(0, 12)),
      interference=float(rng.random()),
      gap_share=float(rng.random() * 0.3),
    )


@pytest.mark.parametrize("config", list(random_configs(40)))
def test_a_dict_answers_every_query(config):
  length = 480
  for index in range(3):
    example = Task(config, SEED).example("train", index, length)
    answers, pairs = read(config, example)
    assert len(answers) == config.num_queries * config.value_length
    assert len(pairs) == config.num_pairs + config.updates
    assert len({key for key, _ in pairs}) == config.num_pairs
    expected = {
      name: np.full(length, -1) for name in ("answer", "distance", "targets")
    }
    relevant = np.zeros(length, bool)  # where the answers were to be read
    for target, (query, value, distance) in answers.items():
      relevant[target - distance] = True
      expected["answer"][target] = query
      expected["distance"][target] = distance
      expected["targets"][target] = value
    np.testing.assert_array_equal(example["answer"], expected["answer"])
    np.testing.assert_array_equal(example["distance"], expected["distance"])
    np.testing.assert_array_equal(example["relevant"], relevant)
    assert relevant.sum() == len(answers)
    scored = example["answer"] >= 0
    np.testing.assert_array_equal(
      example["targets"][scored], expected["targets"][scored]
    )
    assert example["distance"][scored].min() >= config.min_distance(length)


def test_queries_ask_for_different_keys_and_stand_at_the_end():
  config = Config(num_pairs=16, num_queries=16, key_length=2, value_length=3)
  example = Task(config, SEED).example("test", 4, 512)
  seq = sequence(example)
  asked = {tuple(seq[i + 1 : i + 3]) for i in np.flatnonzero(seq == QUERY)}
  assert len(asked) == 16
  assert (seq[-16 * 6 :: 6] == QUERY).all()


def test_an_update_binds_another_value():
  config = Config(num_pairs=4, num_queries=4, updates=12, num_values=3)
  for index in range(20):
    example = Task(config, SEED).example("train", index, 256)
    last = {}
    for key, value in read(config, example)[1]:
      assert last.get(key) != value
      last[key] = value


def test_updates_come_at_any_time():
  config = Config(num_pairs=3, num_queries=3, updates=3)
  orders = set()
  for index in range(300):
    example = Task(config, SEED).example("train", index, 256)
    bound = [key for key, _ in read(config, example)[1]]
    names = list(dict.fromkeys(bound))  # by first binding
    orders.add(tuple(names.index(key) for key in bound))
  assert {(0, 1, 2, 0, 1, 2), (0, 0, 1, 1, 2, 2), (0, 1, 2, 2, 2, 2)} <= orders


def test_min_distance_is_attained():
  config = Config(num_pairs=3, num_queries=2, gap_share=0.5)
  length = 28
  seen = []
  for index in range(500):
    distance = Task(config, SEED).example("train", index, length)["distance"]
    seen.append(distance[distance >= 0].min())
  assert min(seen) == config.min_distance(length) == 14 + 3


def test_evidence_is_beyond_the_gap_at_every_length():
  config = Config()
  for length in (256, 512, 4096):
    assert config.min_distance(length) == length // 2 + 3
    config.check(experiment(config, length=length))


def test_pairs_lie_anywhere_before_the_gap():
  config = Config(num_pairs=2, num_queries=1)
  starts = np.concatenate(
    [
      np.flatnonzero(
        Task(config, SEED).example("train", i, 64)["tokens"] == PAIR
      )
      for i in range(400)
    ]
  )
  last = config.areas(64)[0] - 3
  assert set(starts) == set(range(last + 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_interference_is_the_share_of_misleading_filler(share):
  config = Config(num_pairs=4, num_queries=4, interference=share)
  length = 20_000
  example = Task(config, SEED).example("train", 0, length)
  pairs_end, queries_at = config.areas(length)
  filler = example["tokens"][pairs_end:queries_at]
  assert filler.min() >= FIRST_KEY and filler.max() < config.vocab_size
  misleading = filler < FIRST_KEY + config.num_keys + config.num_values
  assert misleading.mean() == pytest.approx(share, abs=0.015)
  if share:
    assert len(np.unique(filler[misleading])) == 128


def test_interference_ramp():
  config = Config(interference=0.8, interference_ramp=(100, 300))
  task = Task(config, SEED)
  assert [config.interference_at(s) for s in (0, 100, 200, 300, 999, None)] == (
    pytest.approx([0, 0, 0.4, 0.8, 0.8, 0.8])
  )
  easy, hard = (
    task.example("train", 0, 256, step)["tokens"] for step in (9, 300)
  )
  first_filler = FIRST_KEY + 128
  gap = slice(config.areas(256)[0], config.areas(256)[1])
  assert (easy[gap] >= first_filler).all()
  assert (hard[gap] < first_filler).mean() > 0.6
  np.testing.assert_array_equal(hard, task.example("train", 0, 256)["tokens"])


def test_length_curriculum():
  config = Config(lengths=(64, 128), lengths_until=(10, 30))
  task = Task(config, SEED)
  lengths = [task.train_length(256, step) for step in (0, 9, 10, 29, 30, 1000)]
  assert lengths == [64, 64, 128, 128, 256, 256]


def test_splits_and_indices_never_share_a_stream():
  numbers = [
    int(base.example_rng(SEED, split, index).integers(2**62))
    for split in splits.SPLITS
    for index in range(200)
  ]
  assert len(set(numbers)) == 600
  assert int(base.example_rng(SEED + 1, "train", 0).integers(2**62)) not in (
    numbers
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_queries": 17}, "num_queries=17 must be <= task.num_pairs=16"),
    ({"num_pairs": 65}, "num_pairs=65 needs as many different keys"),
    ({"num_keys": 2**31, "key_length": 2}, "change task.num_keys"),
    ({"num_values": 2**31, "value_length": 3}, "too many values"),
    ({"key_length": 5}, "task.key_length=5 must lie in 1 .. 4"),
    ({"value_length": 0}, "task.value_length=0 must lie in 1 .. 4"),
    ({"updates": -1}, "task.updates=-1"),
    ({"updates": 1, "num_values": 1}, "task.updates=1 needs another value"),
    ({"interference": 1.5}, "task.interference=1.5 must lie in"),
    ({"interference": float("nan")}, "task.interference=nan must lie in"),
    ({"gap_share": 1.0}, "task.gap_share=1.0 must lie in"),
    ({"answer_weight": 0.0, "context_weight": 0.0}, "nothing to learn"),
    ({"interference_ramp": (300, 100)}, "task.interference_ramp=(300, 100)"),
    ({"lengths": (64,)}, "task.lengths_until=() must be one rising step"),
    (
      {"lengths": (64, 128), "lengths_until": (9, 9)},
      "task.lengths_until=(9, 9) must be one rising step",
    ),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError) as error:
    Config(**change)
  assert message in str(error.value)


@pytest.mark.parametrize(
  "config, sizes, message",
  [
    (Config(), {"length": 128}, "length=128 is too short"),
    (Config(), {"window": 34}, "task.gap_share=0.5 puts answers within 131"),
    (Config(gap_share=0.47), {}, "attention reaches 125"),
    (Config(), {"evals": (256, 160)}, "length=160 is too short"),
    (
      Config(num_pairs=4, num_queries=4),
      {"evals": (128,)},
      "eval.lengths=128, and attention reaches 125",
    ),
    (
      Config(num_pairs=2, num_queries=2, lengths=(128,), lengths_until=(9,)),
      {},
      "task.lengths=128, and attention reaches 125",
    ),
    (
      Config(lengths=(200,), lengths_until=(9,)),
      {},
      "task.lengths=200 must be a multiple of chunk=32",
    ),
  ],
)
def test_sizes_that_do_not_fit(config, sizes, message):
  with pytest.raises(ValueError) as error:
    config.check(experiment(config, **sizes))
  assert message in str(error.value)


def test_the_fixes_that_errors_name_work():
  short = Config(num_pairs=4, num_queries=4)
  with pytest.raises(ValueError, match=r"gap_share >= 0\.77 or length >= 256"):
    short.check(experiment(short, length=160))
  fixed = Config(num_pairs=4, num_queries=4, gap_share=0.77)
  fixed.check(experiment(fixed, length=160))
  with pytest.raises(ValueError, match="length of at least 190"):
    Config().areas(128)
  Config().areas(190)


def test_distance_needs_no_check_where_attention_sees_all():
  config = Config(num_pairs=4, num_queries=4)
  config.check(experiment(config, length=64, attention="full"))


def test_boundary_of_attention():
  """The nearest answer's evidence is one token beyond the last one seen."""
  config = Config(num_pairs=4, num_queries=4, gap_share=0.5)
  distance = config.min_distance(64)
  reach = distance - 1  # as counted from the target: layers 1, window reach
  config.check(experiment(config, length=64, layers=1, window=reach))
  with pytest.raises(ValueError, match="attention reaches"):
    config.check(experiment(config, length=64, layers=1, window=reach + 1))


def test_unknown_split():
  with pytest.raises(ValueError, match="split='validation' must be one of"):
    Task(Config(), SEED).example("validation", 0, 256)
