"""The best checkpoint stays, and parameters can be read without a run."""

import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import experiment

from mattt_jax.commands import cli
from mattt_jax.devices import meshes
from mattt_jax.training import export, load, preemption, trainer

ONE = meshes.make_mesh(1)
SETTINGS = {
  "train__keep_best": True,
  "train__keep_checkpoints": 1,
  "train__eval_every": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """A run that was best at step 4, told to stop at 8, and went on."""
  workdir = tmp_path_factory.mktemp("run")
  evaluate = trainer.evaluate

  def scripted(*args, step, **settings):
    result = evaluate(*args, step=step, **settings)
    for values in result["lengths"].values():
      values["loss"] = 1.0 if step == 4 else 2.0
    if step == 8:
      os.kill(os.getpid(), signal.SIGTERM)
    return result

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trainer, "evaluate", scripted)
    with pytest.raises(preemption.PreemptedError, match="step 8 is saved"):
      trainer.train(experiment(**SETTINGS), workdir, mesh=ONE)
    assert steps(workdir) == [4, 8]
    trainer.train(experiment(**SETTINGS), workdir, mesh=ONE)
  return workdir


def steps(workdir) -> list[int]:
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def params(workdir, **which):
  learner, step = load.load_learner(experiment(**SETTINGS), workdir, **which)
  return step, nnx.to_pure_dict(nnx.split(learner)[1])


def test_best_and_newest_are_kept(run):
  assert steps(run) == [4, 14]
  (best_step, best), (step, newest) = params(run, best=True), params(run)
  assert (best_step, step) == (4, 14)
  assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, best, newest)))


def test_no_best_one(tmp_path):
  trainer.train(experiment(train__steps=2), tmp_path, mesh=ONE)
  with pytest.raises(
    ValueError, match="no best checkpoint: train with train.k"
  ):
    load.load_learner(experiment(train__steps=2), tmp_path, best=True)


def test_notice_after_the_last_step(run, tmp_path, monkeypatch):
  workdir = shutil.copytree(run, tmp_path / "run")
  before = signal.getsignal(signal.SIGTERM)
  (workdir / "evaluation.json").unlink()

  def told(*args, **settings):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("goes on")

  monkeypatch.setattr(trainer.final, "measure", told)
  with pytest.raises(preemption.PreemptedError, match="step 14 is saved"):
    trainer.train(experiment(**SETTINGS), workdir, mesh=ONE)
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def exported(run, tmp_path) -> pathlib.Path:
  out = tmp_path / "exported"
  arguments = [f"--workdir={run}", f"--out={out}"]
  assert cli.main(["export", "--best", *arguments]) == 0
  assert cli.main(["export", *arguments]) == 2  # it is there already
  return out


def test_exported_parameters(run, exported, capsys):
  step, there = params(exported)
  assert step == 4
  jax.tree.map(np.testing.assert_array_equal, there, params(run, best=True)[1])
  # Nothing but what `evaluate` needs.
  assert {p.name for p in exported.iterdir()} == {"config.json", export.FILE}
  assert cli.main(["evaluate", f"--workdir={exported}"]) == 0
  assert (exported / "evaluate.jsonl").exists()
  capsys.readouterr()
  with pytest.raises(ValueError, match="holds exported parameters, without"):
    trainer.train(experiment(**SETTINGS), exported, mesh=ONE)


def test_damage_to_exported_parameters(exported):
  file = exported / export.FILE
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  with pytest.raises(ValueError, match="npz cannot be read .*: export it once"):
    params(exported)


def test_parameters_of_another_model(exported):
  with np.load(exported / export.FILE) as file:
    arrays = dict(file)
  name = next(name for name, x in arrays.items() if x.ndim == 2)
  arrays[name] = arrays[name][:, :-1]
  np.savez(exported / export.FILE, **arrays)
  with pytest.raises(ValueError, match=f"settings: {name} is missing, unknown"):
    params(exported)
