"""Reading in segments gives what reading whole gives."""

import numpy as np
import pytest
import tiny
from flax import nnx

from mattt_jax.devices import meshes
from mattt_jax.evaluation import reader
from mattt_jax.learners import build
from mattt_jax.learners._whole import WholeReader
from mattt_jax.tasks import batches
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import tokens_of

LENGTH, CHUNK = 56, 8  # 7 chunks
FULL = dict(model__attention="full", task__out_of_reach=False)
CASES = {
  "window": ("none", {}),
  "full": ("none", dict(inner__enabled=False, coordination__inner_off_share=0.0,
                        **FULL)),
  "episodic": ("episodic", {}),
  "replay": ("associative", dict(coordination__replay=1)),
}  # fmt: skip


def read(case, segment, *shape, parts=None):
  memory, changes = CASES[case]
  experiment = tiny.experiment(
    memory, eval__segment=segment, task__num_fillers=9, **changes
  )
  task = build.make_task(experiment)
  learner = build.build_learner(experiment, task.vocab_size)
  batch = next(batches.eval_batches(task, "tune", LENGTH, 4, 4))
  mesh = meshes.make_mesh(*shape or (1,))
  return reader.Reader(learner, experiment, mesh, parts).read(tokens_of(batch))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("segment, devices", [(16, 1), (30, 2)])
def test_segments_as_whole(case, segment, devices):
  """56 tokens as 16, 16, 16, 8 and as 24, 24, 8."""
  whole, parts = read(case, 0), read(case, segment, devices)
  for field in ("loss_BxL", "correct_BxL", "chunk_loss_Bxn"):
    a, b = getattr(parts, field), getattr(whole, field)
    assert isinstance(a, np.ndarray)
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  assert set(parts.aux) == set(whole.aux)
  for name, value in whole.aux.items():
    np.testing.assert_allclose(parts.aux[name], value, rtol=1e-4, atol=1e-6)


def test_on_a_mesh_that_splits_tokens_heads_and_slots():
  whole, parts = read("episodic", 0), read("episodic", 16, 1, 2, 2, 2)
  for field in ("loss_BxL", "correct_BxL", "chunk_loss_Bxn"):
    a, b = getattr(parts, field), getattr(whole, field)
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_parts_that_are_off_stay_off():
  off = dict(parts=Parts(inner=False, memory=False))
  whole, parts = read("episodic", 0, **off), read("episodic", 16, **off)
  np.testing.assert_allclose(parts.loss_BxL, whole.loss_BxL, rtol=2e-5)
  on = read("episodic", 16)
  assert np.abs(on.loss_BxL - parts.loss_BxL).max() > 1e-4


def test_one_program_serves_all_lengths_of_a_state_of_constant_size():
  experiment = tiny.experiment(eval__segment=16)
  task = build.make_task(experiment)
  learner = nnx.split(build.build_learner(experiment, task.vocab_size))

  def read(length):
    batch = next(batches.eval_batches(task, "tune", length, 2, 2))
    reader.Reader(learner, experiment).read(tokens_of(batch))
    return reader._read_on._cache_size()

  first = read(64)
  assert read(256) == first


@pytest.mark.parametrize(
  "length, most, expected",
  [(64, 0, 64), (64, 64, 64), (64, 63, 32), (96, 64, 48), (56, 16, 16),
   (56, 30, 24), (64, 3, 8)],
)  # fmt: skip
def test_segment_size(length, most, expected):
  assert reader.segment_size(length, CHUNK, most) == expected


def test_what_cannot_stream_is_read_whole(monkeypatch):
  assert not WholeReader.streams
  expected = read("window", 0)
  monkeypatch.setattr(Learner, "streams", False)
  monkeypatch.setattr(reader, "_read_on", None)
  np.testing.assert_array_equal(read("window", 16).loss_BxL, expected.loss_BxL)
