"""Batches: their order, resuming, and the end of a held-out set."""

import json
import threading
import types

import numpy as np
import pytest

from mattt_jax.devices import meshes, sharding
from mattt_jax.tasks import associative_recall, language_modeling
from mattt_jax.tasks import batches as batches_lib
from mattt_jax.tasks.base import Example

STEPS = 12


def experiment(
  prefetch=4, batch_size=3, length=64, seed=7, random_lengths=(), steps=STEPS
):
  return types.SimpleNamespace(
    seed=seed,
    length=length,
    batch_size=batch_size,
    train=types.SimpleNamespace(
      steps=steps, prefetch=prefetch, random_lengths=random_lengths
    ),
  )


def recall():
  config = associative_recall.Config(
    num_pairs=3, num_queries=2, interference_ramp=(2, 8),
    lengths=(32,), lengths_until=(5,),
  )  # fmt: skip
  return associative_recall.Task(config, 7)


def same(a, b):
  assert a.keys() == b.keys() == set(Example.__annotations__)
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])
    assert a[key].dtype == b[key].dtype


@pytest.fixture(scope="module")
def batches():
  """What the training batches must be, straight from the task."""
  task, out = recall(), []
  for step in range(STEPS):
    length = 32 if step < 5 else 64
    rows = [task.example("train", 3 * step + i, length, step) for i in range(3)]
    out.append({key: np.stack([row[key] for row in rows]) for key in rows[0]})
  return out


@pytest.mark.parametrize("prefetch", [1, 2, 50])
def test_train_batches_in_order(batches, prefetch):
  found = list(batches_lib.train_batches(recall(), experiment(prefetch)))
  assert [b["tokens"].shape for b in found] == [(3, 32)] * 5 + [(3, 64)] * 7
  for a, b in zip(found, batches, strict=True):
    same(a, b)


def test_state_goes_on_where_it_was(batches):
  iterator = batches_lib.train_batches(recall(), experiment())
  for _ in range(5):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  same(next(iterator), batches[5])

  other = batches_lib.train_batches(recall(), experiment(prefetch=1))
  next(other)  # its buffer holds batches of another place
  other.set_state(state)
  for a, b in zip(other, batches[5:], strict=True):
    same(a, b)
  iterator.set_state(state)
  same(next(iterator), batches[5])


def test_threads_place_the_batches(batches):
  """On the devices before they are asked for, whatever place they are at."""
  mesh, threads = meshes.make_mesh(3), set()

  def place(batch):
    threads.add(threading.current_thread())
    return sharding.put_batch(batch, mesh)

  iterator = batches_lib.train_batches(recall(), experiment(), place=place)
  for _ in range(4):
    next(iterator)
  iterator.set_state({"next_index": 2})
  for batch, expected in zip(iterator, batches[2:], strict=True):
    assert {x.sharding for x in batch.values()} == {sharding.split_batch(mesh)}
    same({key: np.asarray(x) for key, x in batch.items()}, expected)
  assert threads and threading.main_thread() not in threads


def test_start_step(batches):
  found = list(batches_lib.train_batches(recall(), experiment(), start_step=9))
  for a, b in zip(found, batches[9:], strict=True):
    same(a, b)
  assert not list(batches_lib.train_batches(recall(), experiment(), STEPS))
  with pytest.raises(ValueError, match="start_step=13 must lie in 0 .. train"):
    batches_lib.train_batches(recall(), experiment(), STEPS + 1)


def test_random_lengths():
  """Of the step alone: the same again, and from any step on."""
  task = recall()
  settings = experiment(random_lengths=(32, 64, 96), steps=60)
  whole = list(batches_lib.train_batches(task, settings))
  lengths = [b["tokens"].shape[1] for b in whole]
  assert all(lengths.count(n) > 10 for n in (32, 64, 96))
  for step in (0, 59):
    rows = [
      task.example("train", 3 * step + i, lengths[step], step) for i in range(3)
    ]
    same(whole[step], batches_lib.stack(rows))

  iterator = batches_lib.train_batches(task, settings, start_step=20)
  same(next(iterator), whole[20])
  state = json.loads(json.dumps(iterator.get_state()))
  other = batches_lib.train_batches(task, settings)
  other.set_state(state)
  for a, b in zip(other, whole[21:], strict=True):
    same(a, b)

  seeded = experiment(random_lengths=(32, 64, 96), steps=60, seed=8)
  other = [batches_lib.train_length(task, seeded, step) for step in range(60)]
  assert set(other) == set(lengths) and other != lengths


def test_an_error_in_a_thread_reaches_the_caller():
  iterator = batches_lib.train_batches(recall(), experiment(length=8))
  with pytest.raises(ValueError, match="length=8 is too short"):
    list(iterator)


@pytest.mark.parametrize(
  "sequences, rows", [(8, [4, 4]), (5, [4, 1]), (3, [3])]
)
def test_eval_batches_are_filled_up(sequences, rows):
  task = recall()
  found = list(batches_lib.eval_batches(task, "test", 64, sequences, 4))
  assert [len(b["tokens"]) for b in found] == [4] * len(rows)
  for number, batch in enumerate(found):
    for row in range(4):
      index = 4 * number + row
      if row < rows[number]:
        example = task.example("test", index, 64)
        for key, array in example.items():
          np.testing.assert_array_equal(batch[key][row], array)
      else:
        assert not batch["inner_weight"][row].any()
        assert not batch["outer_weight"][row].any()
        assert (batch["answer"][row] == -1).all()
        assert (batch["distance"][row] == -1).all()
        assert not batch["tokens"][row].any()
        assert not batch["relevant"][row].any()


@pytest.mark.parametrize("field", ["length", "sequences", "batch_size"])
def test_eval_sizes(field):
  sizes = {"length": 64, "sequences": 4, "batch_size": 2, field: 0}
  with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
    batches_lib.eval_batches(recall(), "test", **sizes)


def test_a_directory_of_texts_end_to_end(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  texts = {}
  for i in range(30):
    text = f"Chapter {i}. " + "".join(f"{i}-{j}, " for j in range(200))
    (tmp_path / f"{i}.txt").write_text(text)
    texts[f"{i}.txt"] = text
  config = language_modeling.Config(source=f"directory:{tmp_path}")
  task = language_modeling.Task(config, 0)

  held_out = {}
  for split in ("tune", "test"):
    number = task.size(split, 64)
    names = [task.document(split, i)[0] for i in range(number)]
    held_out[split] = [texts.pop(name) for name in names]  # each in one split
    rows = [
      (bytes(tokens.tolist()).decode(), weight.all())
      for batch in batches_lib.eval_batches(task, split, 64, 1000, 2)
      for tokens, weight in zip(
        batch["tokens"], batch["inner_weight"], strict=True
      )
    ]
    whole = [text for text, counts in rows if counts]
    assert whole == [text[:64] for text in held_out[split]]
    assert len(rows) == number + number % 2  # and a row of padding

  windows = [
    bytes(tokens.tolist()).decode()
    for batch in batches_lib.train_batches(task, experiment())
    for tokens in batch["tokens"]
  ]
  assert len(windows) == 3 * STEPS
  assert all(any(w in text for text in texts.values()) for w in windows)
