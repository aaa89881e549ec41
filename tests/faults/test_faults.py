"""Whatever happens to a run, the same command ends it as if nothing had.

`make soak` kills more often (MATTT_KILLS).
"""

import os
import pathlib
import random
import signal
import time

import jax
import numpy as np
import pytest
import worker
from flax import nnx
from tiny import experiment

from mattt_jax import sharding
from mattt_jax.training import lock, preemption, trainer

KILLS = int(os.environ.get("MATTT_KILLS", "2"))
# Saves after every step, so that a kill may come while one is under way.
OFTEN = {"train__checkpoint_every": 1}


def params(workdir, **changes):
  learner, step = trainer.load_learner(experiment(**changes), workdir)
  assert step == 14
  return nnx.to_pure_dict(nnx.split(learner)[1])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  """The parameters that a run without faults ends with."""
  workdir = tmp_path_factory.mktemp("whole")
  trainer.train(experiment(), workdir, mesh=sharding.make_mesh(1))
  return params(workdir)


def ends_the_same(workdir, expected, **changes):
  code, out = worker.run(workdir, changes=changes)
  assert code == 0, out
  jax.tree.map(
    np.testing.assert_array_equal, params(workdir, **changes), expected
  )
  return out


def newest(workdir) -> int:
  saved = (workdir / "checkpoints").glob("[0-9]*")
  return max((int(p.name) for p in saved if p.name.isdecimal()), default=0)


def test_kill_at_any_moment(tmp_path, expected):
  rng = random.Random(0)
  kills = 0
  while kills < KILLS and not (tmp_path / "evaluation.json").exists():
    before = newest(tmp_path)
    process = worker.start(tmp_path, changes=OFTEN, pause=0.1)
    # While it starts, trains or saves: some time after its first step.
    deadline = time.monotonic() + 120
    while newest(tmp_path) <= before and time.monotonic() < deadline:
      time.sleep(0.01)
      if process.poll() is not None:
        break
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
    out, _ = process.communicate()
    kills += process.returncode == -signal.SIGKILL
    if before:
      # No step is lost that had been saved.
      assert f"Resuming from the checkpoint of step {before}" in out
  assert kills >= min(KILLS, 2)
  ends_the_same(tmp_path, expected, **OFTEN)


def test_told_to_stop(tmp_path, expected):
  code, out = worker.run(tmp_path, at=7, signal=signal.SIGTERM)
  assert code == preemption.EXIT_CODE
  assert "told to stop: step 7 is saved" in out
  assert newest(tmp_path) == 7
  assert "Resuming from the checkpoint of step 7" in ends_the_same(
    tmp_path, expected
  )


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_checkpoint(tmp_path, expected, damage):
  code, _ = worker.run(tmp_path, at=12, signal=signal.SIGKILL)
  assert code == -signal.SIGKILL
  state = tmp_path / "checkpoints" / str(newest(tmp_path)) / "state"
  largest = max(
    (p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
  )
  content = bytearray(largest.read_bytes())
  if damage == "cut":
    content = content[: len(content) // 2]
  else:
    content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  out = ends_the_same(tmp_path, expected)
  assert "cannot be read" in out or "was changed after it was saved" in out
  assert "using the checkpoint of step 5 instead" in out


def test_full_disk(tmp_path, expected):
  code, out = worker.run(tmp_path, file_bytes=4096)
  assert code not in (0, preemption.EXIT_CODE)
  assert "File too large" in out or "EFBIG" in out, out
  ends_the_same(tmp_path, expected)


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_clock_jumps(tmp_path, expected, seconds):
  code, _ = worker.run(
    tmp_path, clock=seconds, at=12, signal=signal.SIGKILL, pause=0.02
  )
  assert code == -signal.SIGKILL
  assert newest(tmp_path) in (5, 10)
  ends_the_same(tmp_path, expected)


def test_deleted_data(tmp_path):
  texts = tmp_path / "texts"
  texts.mkdir()
  for name in "abc":
    (texts / f"{name}.txt").write_text(f"This is the text {name}. " * 40)
  from mattt_jax import config

  def settings():
    tree = config.template("language_modeling")
    base = config.to_dict(experiment())
    tree.update({k: base[k] for k in ("length", "chunk", "batch_size")})
    tree.model.update(base["model"])
    tree.train.steps = 4
    tree.train.checkpoint_every = 2
    tree.task.source = f"directory:{texts}"
    return config.from_config_dict(tree)

  mesh = sharding.make_mesh(1)
  trainer.train(settings(), tmp_path / "run", mesh=mesh)
  (tmp_path / "run" / "evaluation.json").unlink()
  for file in texts.iterdir():
    file.unlink()
  with pytest.raises((ValueError, OSError), match="texts"):
    trainer.train(settings(), tmp_path / "run", mesh=mesh)
  for name in "abc":
    (texts / f"{name}.txt").write_text(f"This is the text {name}. " * 40)
  assert trainer.train(settings(), tmp_path / "run", mesh=mesh)["step"] == 4


def test_second_run_in_a_directory(tmp_path, expected):
  with lock.take(tmp_path):
    code, out = worker.run(tmp_path)
    assert code
    assert f"is in use by process {os.getpid()} on " in out
  # The lock is the process's: the file alone does not count.
  assert (tmp_path / lock.FILE).exists()
  ends_the_same(tmp_path, expected)


@pytest.mark.parametrize("under", ["/proc", "a_file"])
def test_nowhere_to_write(under, tmp_path):
  (tmp_path / "a_file").write_text("")
  workdir = pathlib.Path(tmp_path, under, "run")
  with pytest.raises(ValueError, match="run cannot be written .* name a"):
    trainer.train(experiment(), workdir, mesh=sharding.make_mesh(1))
