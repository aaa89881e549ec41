"""What every registered task must do, whatever it is about."""

import subprocess
import sys

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.data import splits
from mattt_jax.tasks import base

LENGTH = 256
NAMES = registry.names("mattt_jax.tasks")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(scope="module", params=NAMES)
def name(request):
  return request.param


@pytest.fixture(scope="module")
def task(name, cache):
  module = registry.load("mattt_jax.tasks", name)
  return module.Task(module.Config(), 3)


def test_defaults_fit_the_default_experiment(name):
  config_lib.from_config_dict(config_lib.template(name))


@pytest.mark.parametrize("split", splits.SPLITS)
@pytest.mark.parametrize("length", [LENGTH, 4 * LENGTH])
def test_arrays(task, split, length):
  example = task.example(split, 1, length)
  assert set(example) == set(base.Example.__annotations__)
  for key, array in example.items():
    kind = {"inner_weight": np.float32, "outer_weight": np.float32,
            "relevant": bool}.get(key, np.int32)  # fmt: skip
    assert array.dtype == kind and array.shape == (length,), key
  np.testing.assert_array_equal(example["tokens"][1:], example["targets"][:-1])
  for key in ("tokens", "targets"):
    assert 0 <= example[key].min() <= example[key].max() < task.vocab_size
  for key in ("inner_weight", "outer_weight"):
    assert np.isfinite(example[key]).all() and example[key].min() >= 0
  assert example["outer_weight"].sum() > 0
  answered = example["answer"] >= 0
  np.testing.assert_array_equal(answered, example["distance"] >= 0)
  positions = np.arange(length)[answered] + 1
  assert (example["distance"][answered] <= positions).all()


def test_the_order_of_asking_does_not_matter(task):
  first = task.example("train", 2, LENGTH, step=7)
  for split in splits.SPLITS:
    task.example(split, 0, LENGTH)
  again = task.example("train", 2, LENGTH, step=7)
  for key, array in first.items():
    np.testing.assert_array_equal(array, again[key])


def test_what_is_read_has_checksums(name, task):
  if not isinstance(task, base.ReadingTask):
    assert name not in ("language_modeling", "documents_qa", "long_qa")
    return
  contents = task.contents()
  assert len(contents) >= 3 and len(set(contents.values())) == len(contents)
  again = registry.load("mattt_jax.tasks", name)
  assert again.Task(again.Config(), 4).contents() == contents


def test_indices_and_splits_give_different_examples(task):
  seen = {
    task.example(split, index, LENGTH)["tokens"].tobytes()
    for split in splits.SPLITS
    for index in range(min(task.size(split, LENGTH) or 5, 5))
  }
  sizes = [min(task.size(split, LENGTH) or 5, 5) for split in splits.SPLITS]
  assert len(seen) == sum(sizes)


def test_train_length(task):
  for step in (0, 10, 10**6):
    assert task.train_length(LENGTH, step) == LENGTH


def test_unknown_split_and_index(task):
  for call in (
    lambda: task.example("validation", 0, LENGTH),
    lambda: task.size("validation", LENGTH),
  ):
    with pytest.raises(ValueError, match="split='validation' must be one of"):
      call()
  with pytest.raises(ValueError, match="index=-1"):
    task.example("train", -1, LENGTH)


def test_weights(name):
  module = registry.load("mattt_jax.tasks", name)
  if not hasattr(module.Config, "answer_weight"):
    assert name == "language_modeling"
    return
  config = module.Config(answer_weight=2.0, context_weight=0.25)
  example = module.Task(config, 3).example("train", 1, LENGTH)
  weight, read = example["outer_weight"], example["inner_weight"] > 0
  answered = example["answer"] >= 0
  assert (weight[answered] == 2.0).all() and (weight[~read] == 0.0).all()
  other = weight[read & ~answered]
  if name == "rule_recall":  # scores queries of the rule alone, too
    other = other[other != 2.0]
  assert len(other) > 0 and (other == 0.25).all()


def test_another_process_makes_the_same_example(name, task):
  """On a host that needs no device, too: it imports no jax."""
  code = (
    f"import sys, mattt_jax.tasks.{name} as module; "
    "task = module.Task(module.Config(), 3); "
    f"print(task.example('tune', 1, {LENGTH})['tokens'].tobytes().hex()); "
    "sys.exit('jax' in sys.modules)"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert run.returncode == 0, run.stderr.decode()
  expected = task.example("tune", 1, LENGTH)["tokens"].tobytes()
  assert bytes.fromhex(run.stdout.decode()) == expected
