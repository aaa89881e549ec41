"""Runs end, stop and go on as they should."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from flax import nnx
from tiny import experiment, rows

from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.tasks import batches
from mattt_jax.training import load, metrics, trainer

ONE = meshes.make_mesh(1)


def train(workdir, **changes):
  return trainer.train(experiment(**changes), workdir, mesh=ONE)


def params(workdir):
  learner, step = load.load_learner(experiment(), workdir)
  return step, nnx.to_pure_dict(nnx.split(learner)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run: its work directory and what `train` returned."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, train(workdir)


def copy(workdir: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(workdir, to))


def test_run_writes_what_it_says(whole):
  workdir, result = whole
  assert json.loads((workdir / "evaluation.json").read_text()) == result
  assert result["step"] == 14
  assert result["evaluation"]["split"] == "test"
  assert result["evaluation"]["lengths"]["32"]["sequences"] == 3
  written = metrics.read_rows(workdir / "metrics.jsonl")
  assert [(r["step"], r["kind"], r.get("split")) for r in written] == [
    (4, "train", None),
    (7, "evaluation", "tune"),
    (8, "train", None),
    (12, "train", None),
    (14, "train", None),
    (14, "final", "test"),
  ]
  for row in written:
    if row["kind"] == "train":
      assert row["tokens_per_second"] > 0
      assert 0 < row["data_wait_share"] < 1
  assert written[0]["compile_seconds"] > 0
  steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
  assert steps == [10, 14]
  assert list((workdir / "tensorboard").glob("events.*"))


def test_trace_and_utilisation(tmp_path):
  """A trace of the steps that were asked for; MFU as the other figures say."""

  def ideal(vocab_size):
    assert vocab_size == build.make_task(experiment()).vocab_size
    return lambda parts, length: 0.25 if parts.inner else 0.5

  trainer.train(
    experiment(train__steps=4), tmp_path, mesh=ONE, profile=2, ideal=ideal
  )
  (trace,) = (tmp_path / trainer.PROFILE).glob("**/*.xplane.pb")
  assert trace.stat().st_size > 0
  (row,) = (
    row
    for row in metrics.read_rows(tmp_path / metrics.METRICS_FILE)
    if row["kind"] == "train"
  )
  # The inner loop is off in half of the four steps.
  assert row["mfu"] * 4 * row["seconds_per_step"] == pytest.approx(1.5)
  assert row["tokens_per_second"] * row["seconds_per_step"] == pytest.approx(
    2 * 32
  )
  assert row["peak_bytes"] > 1e7


def test_finished_run_is_not_trained_again(whole, monkeypatch):
  workdir, result = whole
  monkeypatch.setattr(trainer, "build_learner", None)  # would fail if called
  assert train(workdir) == result


def test_finished_run_without_its_evaluation_is_evaluated(
  whole, tmp_path, monkeypatch
):
  workdir = copy(whole[0], tmp_path / "w")
  (workdir / "evaluation.json").unlink()
  monkeypatch.setattr(trainer._Run, "_one_step", None)
  assert train(workdir)["evaluation"] == whole[1]["evaluation"]
  assert rows(workdir) == rows(whole[0])


def test_damaged_newest_checkpoint_is_passed_over(whole, tmp_path, caplog):
  workdir = copy(whole[0], tmp_path / "w")
  (workdir / "evaluation.json").unlink()
  for file in (workdir / "checkpoints" / "14" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-8])
  assert train(workdir)["evaluation"] == whole[1]["evaluation"]
  assert "checkpoints/14" in caplog.text
  assert "using the checkpoint of step 10" in caplog.text
  assert params(workdir)[0] == 14


def test_workdir_of_other_settings_is_refused_before_anything(
  whole, monkeypatch
):
  monkeypatch.setattr(trainer, "build_learner", None)
  with pytest.raises(ValueError, match="model.dim: 16 -> 32"):
    train(whole[0], model__dim=32)


def test_checkpoint_of_other_settings_is_refused(whole, tmp_path):
  workdir = copy(whole[0], tmp_path / "w")
  tree = json.loads((workdir / "config.json").read_text())
  tree["seed"] = 7
  (workdir / "config.json").write_text(json.dumps(tree))
  (workdir / "evaluation.json").unlink()
  with pytest.raises(ValueError, match="checkpoint .*14.*\n.*seed: 0 -> 7"):
    train(workdir, seed=7)


def test_sizes_that_the_devices_do_not_divide(tmp_path):
  mesh = meshes.make_mesh(8)
  with pytest.raises(ValueError, match="batch_size=2 .* 8 devices"):
    trainer.train(experiment(), tmp_path / "w", mesh=mesh)
  with pytest.raises(ValueError, match="eval.batch_size=2 .* 8 devices"):
    trainer.train(experiment(batch_size=8), tmp_path / "w", mesh=mesh)
  assert not (tmp_path / "w").exists()


def test_nan_loss_stops_names_the_step_and_keeps_the_last_good(
  tmp_path, monkeypatch
):
  make = batches.train_batches

  class Poisoned:
    def __init__(self, *args, **settings):
      self.batches, self.step = make(*args, **settings), 0

    def __next__(self):
      self.step += 1
      batch = dict(next(self.batches))
      if self.step == 8:
        batch["outer_weight"] = batch["outer_weight"] * np.nan
      return batch

    def __getattr__(self, name):
      return getattr(self.batches, name)

  monkeypatch.setattr(batches, "train_batches", Poisoned)
  with pytest.raises(trainer.DivergedError) as error:
    train(tmp_path, train__log_every=100)  # found when step 10 is to be saved
  assert "loss=nan in outer step 8" in str(error.value)
  assert "checkpoint of step 5" in str(error.value)
  names = [p.name for p in (tmp_path / "checkpoints").iterdir()]
  assert names == ["5"]
  assert not (tmp_path / "evaluation.json").exists()


def test_parameters_that_overflow_are_not_saved(tmp_path):
  with pytest.raises(trainer.DivergedError) as error:
    train(
      tmp_path,
      train__steps=1,
      inner__enabled=False,
      coordination__inner_off_share=0.0,
      outer__learning_rate=3e38,  # times more than 1 is infinite in float32
      outer__final_learning_rate=3e38,
      outer__weight_decay=2.0,
    )
  assert "not finite after outer step 1" in str(error.value)
  assert "No checkpoint" in str(error.value)
  assert not list((tmp_path / "checkpoints").iterdir())


def test_load_learner_needs_a_run(tmp_path):
  with pytest.raises(ValueError, match="holds no run"):
    load.load_learner(experiment(), tmp_path / "w")
  assert not (tmp_path / "w").exists()
