"""The evaluator's numbers against plain loops over the same arrays."""

import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mattt_jax.evaluation import evaluator
from mattt_jax.learners import build
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.read_batch import read_batch
from mattt_jax.ttt.tokens import tokens_of


def arrays(seed: int, sequences: int, length: int):
  """Answers of 1 to 3 tokens, uneven weights, and a row of padding."""
  rng = np.random.default_rng(seed)
  shape = (sequences, length)
  answer = np.full(shape, -1)
  distance = np.full(shape, -1)
  for row in range(sequences - 1):
    at = 3
    for number in range(3):
      size = int(rng.integers(1, 4))
      answer[row, at : at + size] = number
      distance[row, at : at + size] = rng.integers(0, length + 1)
      at += size + int(rng.integers(0, 3))
  batch = {
    "answer": answer,
    "distance": distance,
    "inner_weight": rng.integers(0, 2, shape).astype(np.float32),
    "outer_weight": rng.choice([0.0, 0.5, 2.0], shape).astype(np.float32),
  }
  for name in ("inner_weight", "outer_weight"):
    batch[name][-1] = 0
  out = types.SimpleNamespace(
    loss_BxL=rng.exponential(size=shape).astype(np.float32),
    correct_BxL=rng.random(shape) < 0.7,
    aux={"gate": np.float32(rng.random())},
  )
  return batch, out


def mean(values):
  return sum(values) / len(values) if values else None


@pytest.mark.parametrize("length,buckets", [(20, 4), (21, 5), (16, 32)])
def test_numbers_by_hand(length, buckets):
  batches = [arrays(seed, 5, length) for seed in (0, 1)]
  totals = evaluator.Totals(length, buckets)
  for batch, out in batches:
    totals.add(batch, out)
  summary = totals.summary()

  weighted = weight = 0.0
  other, answered, whole = [], [], {}
  for number, (batch, out) in enumerate(batches):
    for row in range(5):
      for t in range(length):
        w = float(batch["outer_weight"][row, t])
        loss = float(out.loss_BxL[row, t])
        weighted, weight = weighted + w * loss, weight + w
        if batch["answer"][row, t] >= 0:
          right = bool(out.correct_BxL[row, t])
          answered.append((int(batch["distance"][row, t]), right, loss))
          key = (number, row, int(batch["answer"][row, t]))
          whole[key] = whole.get(key, True) and right
        elif w > 0 or batch["inner_weight"][row, t] > 0:
          other.append(loss)
  assert summary["sequences"] == 8
  assert summary["loss"] == pytest.approx(weighted / weight)
  assert summary["weight"] == pytest.approx(weight)
  assert summary["other_loss"] == pytest.approx(mean(other))
  assert summary["other_tokens"] == len(other)
  assert summary["answer_tokens"] == len(answered)
  assert summary["answer_accuracy"] == pytest.approx(
    mean([a[1] for a in answered])
  )
  assert summary["answer_loss"] == pytest.approx(mean([a[2] for a in answered]))
  assert summary["answers"] == len(whole) == 24
  assert summary["answer_exact_match"] == pytest.approx(mean([*whole.values()]))
  # Some answers are half right, or the two measures could not be told apart.
  assert summary["answer_exact_match"] < summary["answer_accuracy"]

  spans = summary["by_distance"]
  assert [s["from"] for s in spans[1:]] == [s["to"] for s in spans[:-1]]
  assert (spans[0]["from"], spans[-1]["to"]) == (0, length)
  for span in spans:
    # An answer as far back as the sequence is long counts in the last.
    last = span["to"] == length
    inside = [a for a in answered if span["from"] <= a[0] < span["to"] + last]
    assert span["tokens"] == len(inside)
    assert span["accuracy"] == pytest.approx(mean([a[1] for a in inside]))
    assert span["loss"] == pytest.approx(mean([a[2] for a in inside]))

  spans = summary["by_position"]
  assert len(spans) == min(buckets, length)
  for span in spans:
    inside = [
      float(out.loss_BxL[row, t])
      for batch, out in batches
      for row in range(5)
      for t in range(span["from"], span["to"])
      if batch["outer_weight"][row, t] > 0 or batch["inner_weight"][row, t] > 0
    ]
    assert span["tokens"] == len(inside)
    assert span["loss"] == pytest.approx(mean(inside))
  assert summary["diagnostics"] == {}  # both batches have a padded row


def test_answers_without_a_distance_are_counted_apart():
  totals = evaluator.Totals(8, 2)
  batch, out = arrays(0, 2, 8)
  batch["answer"][:] = -1
  batch["answer"][0, :2], batch["distance"][0, :2] = [0, 1], [-1, 5]
  totals.add(batch, out)
  spans = totals.summary()["by_distance"]
  assert [(s["from"], s["to"], s["tokens"]) for s in spans] == [
    (0, 4, 0), (4, 8, 1), (None, None, 1),
  ]  # fmt: skip


def test_no_answers_and_losses_that_are_not_finite():
  totals = evaluator.Totals(4, 2)
  ones = np.ones((1, 4), np.float32)
  batch = {"answer": -ones, "distance": -ones}
  batch |= {"inner_weight": ones, "outer_weight": ones}
  loss = np.array([[1.0, 2.0, math.inf, 3.0]])
  out = types.SimpleNamespace(loss_BxL=loss, correct_BxL=loss > 0)
  out.aux = {"gate": 0.25}
  totals.add(batch, out)
  summary = totals.summary()
  json.dumps(summary, allow_nan=False)
  assert summary["non_finite_tokens"] == 1
  assert summary["loss"] is None
  assert summary["answer_accuracy"] is summary["answer_exact_match"] is None
  assert [s["loss"] for s in summary["by_position"]] == [1.5, None]
  assert summary["diagnostics"] == {"gate": 0.25}


def make():
  settings = tiny.experiment(inner__warmup_steps=10)
  task = build.make_task(settings)
  return settings, build.build_learner(settings, task.vocab_size), task


def test_evaluate_is_reading_each_sequence_alone():
  settings, learner, task = make()
  result = evaluator.evaluate(settings, learner, task, "tune", lengths=(32, 24))
  assert (result["split"], result["inner"]) == ("tune", True)
  assert list(result["lengths"]) == ["32", "24"]
  losses, right = [], []
  for index in range(3):  # the second batch is half padding
    example = task.example("tune", index, 32)
    batch = {k: jnp.asarray(v)[None] for k, v in example.items()}
    out = read_batch(learner, tokens_of(batch))
    keep = example["outer_weight"] > 0
    losses += np.asarray(out.loss_BxL)[0, keep].tolist()
    asked = example["answer"] >= 0
    right += np.asarray(out.correct_BxL)[0, asked].tolist()
  summary = result["lengths"]["32"]
  assert summary["sequences"] == 3
  assert summary["loss"] == pytest.approx(mean(losses), rel=1e-5)
  assert summary["answer_accuracy"] == pytest.approx(mean(right))
  assert summary["answer_tokens"] == len(right)


def test_inner_loop_and_its_warm_up_are_as_asked():
  settings, learner, task = make()

  def loss(**kwargs):
    result = evaluator.evaluate(settings, learner, task, "tune", **kwargs)
    return result["lengths"]["32"]["loss"]

  on = loss()
  assert loss(parts=Parts(inner=False)) != on
  assert loss(step=0) != on  # the warm-up has only begun
  assert loss(step=10) == on


def test_the_memory_is_on_as_asked():
  settings = tiny.experiment("episodic", memory__null_bias=0.0)
  task = build.make_task(settings)
  learner = build.build_learner(settings, task.vocab_size)

  def result(settings=settings, **kwargs):
    found = evaluator.evaluate(settings, learner, task, "tune", **kwargs)
    return found["memory"], found["lengths"]["32"]["loss"]

  example = task.example("tune", 0, 32)
  batch = {k: jnp.asarray(v)[None] for k, v in example.items()}
  one = tiny.experiment("episodic", memory__null_bias=0.0, eval__sequences=1)
  without = tiny.experiment(
    "episodic", memory__null_bias=0.0, eval__memory=False
  )
  on, off = result(), result(parts=Parts(memory=False))
  assert on[0] and not off[0] and abs(on[1] - off[1]) > 1e-3
  assert result(without) == off and result(without, parts=ALL) == on
  for memory in (True, False):
    parts = Parts(memory=memory)
    out = read_batch(learner, tokens_of(batch), parts)
    expected = np.average(out.loss_BxL[0], weights=example["outer_weight"])
    found = result(one, parts=parts)
    assert found == (memory, pytest.approx(expected, rel=1e-5))


def test_bad_arguments():
  settings, learner, task = make()
  with pytest.raises(ValueError, match="split='dev'"):
    evaluator.evaluate(settings, learner, task, "dev")
  with pytest.raises(ValueError, match="chunk=8 must divide lengths=20"):
    evaluator.evaluate(settings, learner, task, "tune", lengths=(20,))
