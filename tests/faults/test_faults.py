"""Whatever happens to a run, the same command ends it as if nothing had.

`make soak` kills more often (MATTT_KILLS), and writes down what it saw
(MATTT_SOAK).
"""

import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import worker
from flax import nnx
from tiny import experiment, rows

from mattt_jax import config
from mattt_jax.devices import meshes
from mattt_jax.training import load, lock, trainer
from mattt_jax.training.preemption import EXIT_CODE

KILLS = int(os.environ.get("MATTT_KILLS", "2"))
SOAK = os.environ.get("MATTT_SOAK")
ONE = meshes.make_mesh(1)
# Saves after every step, so that a kill may come while one is under way.
OFTEN = {"train__checkpoint_every": 1}


def params(workdir, **changes):
  learner, step = load.load_learner(experiment(**changes), workdir)
  assert step == 14
  return nnx.to_pure_dict(nnx.split(learner)[1])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  """What a run without faults ends with: parameters, rows."""
  workdir = tmp_path_factory.mktemp("whole")
  trainer.train(experiment(), workdir, mesh=ONE)
  return params(workdir), rows(workdir)


@pytest.fixture
def ends_the_same(expected, capfd, caplog):
  """Goes on with a run to its end; returns what that said."""

  def go_on(workdir, **changes):
    capfd.readouterr()
    caplog.clear()
    trainer.train(experiment(**changes), workdir, mesh=ONE)
    whole_params, whole_rows = expected
    jax.tree.map(
      np.testing.assert_array_equal, params(workdir, **changes), whole_params
    )
    assert rows(workdir) == whole_rows
    return capfd.readouterr().out + caplog.text

  return go_on


def newest(workdir) -> int:
  saved = (workdir / "checkpoints").glob("[0-9]*")
  return max((int(p.name) for p in saved if p.name.isdecimal()), default=0)


def saving(workdir) -> bool:
  return any((workdir / "checkpoints").glob("*tmp*"))


def killed(workdir, rng) -> dict:
  """Starts a run and kills it: while it starts, trains or saves."""
  before = newest(workdir)
  process = worker.start(workdir, changes=OFTEN, pause=0.05)
  deadline = time.monotonic() + 120

  def wait(until) -> None:
    while not until() and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.002)

  moment = rng.random()
  if moment < 0.8:  # some time after its first step
    wait(lambda: newest(workdir) > before)
  if moment < 0.4:
    wait(lambda: saving(workdir))
  else:
    time.sleep(rng.uniform(0, 0.5))
  process.kill()
  out, _ = process.communicate()
  assert process.returncode in (0, -signal.SIGKILL), out
  after = newest(workdir)
  assert after >= before
  if before and "step " in out:  # no step is lost that had been saved
    assert f"Resuming from the checkpoint of step {before}" in out
  return {
    "killed": process.returncode != 0,
    "while_saving": saving(workdir),
    "saved_before": before,
    "saved_after": after,
  }


def test_kill_at_any_moment(tmp_path, ends_the_same):
  rng = random.Random(0)
  seen: list[dict] = []
  for number in itertools.count():
    workdir = tmp_path / str(number)
    while sum(s["killed"] for s in seen) < KILLS:
      seen.append(killed(workdir, rng))
      if not seen[-1]["killed"] or seen[-1]["saved_after"] == 14:
        break
    ends_the_same(workdir, **OFTEN)
    if sum(s["killed"] for s in seen) >= KILLS:
      break
  if SOAK:
    kills = [s for s in seen if s["killed"]]
    result = {
      "runs": number + 1,
      "kills": len(kills),
      "while_saving": sum(s["while_saving"] for s in kills),
      "before_the_first_checkpoint": sum(not s["saved_after"] for s in kills),
      "equal_to_the_uninterrupted_run": number + 1,
      "each": kills,
    }
    pathlib.Path(SOAK).write_text(json.dumps(result, indent=2) + "\n")


def test_told_to_stop(tmp_path, ends_the_same):
  code, out = worker.run(tmp_path, at=7, signal=signal.SIGTERM)
  assert code == EXIT_CODE, out
  assert "told to stop: step 7 is saved" in out
  assert newest(tmp_path) == 7
  out = ends_the_same(tmp_path)
  assert "Resuming from the checkpoint of step 7" in out


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> pathlib.Path:
  """A run that was killed after its clock had jumped back and forth."""
  workdir = tmp_path_factory.mktemp("interrupted")
  day = 86400.0
  code, out = worker.run(
    workdir, clock=(-day, day, -3 * day), at=13, after=10,
    signal=signal.SIGKILL,
  )  # fmt: skip
  assert code == -signal.SIGKILL, out
  assert not (workdir / "evaluation.json").exists()
  # Steps 1..12 were made; the state of step 10 was saved.
  assert [r["step"] for r in rows(workdir)] == [4, 7, 8, 12]
  return workdir


def test_clock_jumps(interrupted, tmp_path, ends_the_same):
  assert newest(interrupted) == 10
  workdir = shutil.copytree(interrupted, tmp_path / "run")
  assert "checkpoint of step 10" in ends_the_same(workdir)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_checkpoint(interrupted, tmp_path, ends_the_same, damage):
  workdir = shutil.copytree(interrupted, tmp_path / "run")
  state = workdir / "checkpoints" / "10" / "state"
  for path in state.rglob("d/*"):
    content = bytearray(path.read_bytes())
    if damage == "cut":
      content = content[: len(content) // 2]
    else:
      content[len(content) // 2] ^= 1
    path.write_bytes(content)
  out = ends_the_same(workdir)
  assert "cannot be read" in out or "was changed after it was saved" in out
  assert "using the checkpoint of step 5 instead" in out
  assert (workdir / "checkpoints" / "damaged-10").is_dir()


def mount(*arguments) -> bool:
  command = ["mount", *map(str, arguments)]
  return (
    shutil.which("mount") is not None
    and not subprocess.run(command, stderr=subprocess.DEVNULL).returncode
  )


def test_full_disk(tmp_path, ends_the_same):
  """A small file system where one may be mounted; else files stay small."""
  mounted = mount("-t", "tmpfs", "-o", "size=192k", "none", tmp_path)
  small = {} if mounted else {"file_bytes": 4096}
  try:
    code, out = worker.run(tmp_path / "run", changes=OFTEN, **small)
    assert code not in (0, EXIT_CODE)
    message = "No space left on device" if mounted else "File too large"
    assert message in out, out
    if mounted:
      assert mount("-o", "remount,size=64m", tmp_path)
    ends_the_same(tmp_path / "run", **OFTEN)
  finally:
    if mounted:
      subprocess.run(["umount", tmp_path], check=True)


def reads(texts) -> config.Experiment:
  tree = config.template("language_modeling")
  base = config.to_dict(experiment())
  tree.update({k: base[k] for k in ("length", "chunk", "batch_size")})
  tree.model.update(base["model"])
  tree.eval.update(base["eval"])
  tree.train.update({"steps": 4, "checkpoint_every": 2})
  tree.task.source = f"directory:{texts}"
  return config.from_config_dict(tree)


def test_deleted_data(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  texts, workdir = tmp_path / "texts", tmp_path / "run"
  texts.mkdir()
  for name in "abcd":
    (texts / f"{name}.txt").write_text(f"This is the text {name}. " * 40)
  kept = shutil.copytree(texts, tmp_path / "kept")
  trainer.train(reads(texts), workdir, mesh=ONE)
  whole = json.loads((workdir / "evaluation.json").read_text())
  (workdir / "evaluation.json").unlink()
  shutil.rmtree(workdir / "checkpoints" / "4")
  (texts / "a.txt").unlink()
  (texts / "b.txt").write_text("This is another text. " * 40)
  with pytest.raises(ValueError, match=r"\(a.txt missing; b.txt changed"):
    trainer.train(reads(texts), workdir, mesh=ONE)
  shutil.rmtree(texts)
  with pytest.raises(ValueError, match="there is no directory .*texts"):
    trainer.train(reads(texts), workdir, mesh=ONE)
  shutil.copytree(kept, texts)
  again = trainer.train(reads(texts), workdir, mesh=ONE)
  assert again["evaluation"] == whole["evaluation"]


def test_second_run_in_a_directory(tmp_path, ends_the_same):
  code = (
    "import pathlib, sys, time; from mattt_jax.training import lock; "
    "kept = lock.take(pathlib.Path(sys.argv[1])); print('taken', flush=True); "
    "time.sleep(300)"
  )
  holder = subprocess.Popen(
    [worker.sys.executable, "-c", code, str(tmp_path)],
    env=os.environ | {"PYTHONPATH": str(worker.TESTS.parent)},
    stdout=subprocess.PIPE,
  )
  owner = f"in use by process {holder.pid} on .+: wait"
  try:
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(lock.LockedError, match=owner):
      trainer.train(experiment(), tmp_path, mesh=ONE)
  finally:
    holder.kill()
    holder.wait()
  # The lock is the process's: the file that it leaves does not count.
  assert str(holder.pid) in (tmp_path / lock.FILE).read_text()
  ends_the_same(tmp_path)


@pytest.mark.parametrize("under", ["/proc", "a_file"])
def test_nowhere_to_write(under, tmp_path):
  (tmp_path / "a_file").write_text("")
  workdir = pathlib.Path(tmp_path, under, "run")
  with pytest.raises(ValueError, match="run cannot be written .* name a"):
    trainer.train(experiment(), workdir, mesh=ONE)
