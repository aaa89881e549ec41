"""Runs of a sweep: each once, whatever is killed. Training is a stand-in."""

import collections
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps import state as state_lib
from mattt_jax.sweeps.runner import SweepRunner
from mattt_jax.sweeps.sweep import Run
from mattt_jax.training import lock

HERE = pathlib.Path(__file__)
ROOT = HERE.parents[2]

# A stand-in for training: goes on from its last "step", and writes down what it
# does in EVENTS, one atomic append a line.
TRAIN = """
import json, os, pathlib, signal, sys, time
workdir, tree, events, seconds = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
tree = json.loads(tree)
def say(what):
  fd = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
  os.write(fd, f"{what} {tree['seed']} {os.getpid()}\\n".encode())
def preempted(*_):
  say("saved"); os._exit(42)
signal.signal(signal.SIGTERM, preempted)
say("start")
(workdir / "config.json").write_text(json.dumps(tree))
metrics = workdir / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
if tree.get("fails"):
  print("Loading\\nmattt train: error: %s\\n(more)" % tree["fails"])
  sys.exit(2)
if tree.get("code"):
  sys.exit(tree["code"])
if tree.get("dies"):
  os.kill(os.getpid(), signal.SIGKILL)
if tree.get("late"):
  time.sleep(0.5)
for step in range(done + 1, 5):
  time.sleep(float(seconds) / 4)
  with metrics.open("a") as f:
    f.write(json.dumps({"step": step}) + "\\n")
  say(f"step{step}")
if tree.get("silent"):
  sys.exit(0)
if tree.get("other"):
  (workdir / "config.json").write_text(json.dumps(tree | {"seed": 99}))
partial = workdir / "partial"
partial.write_text(json.dumps({"step": 4, "gpus": os.environ.get(
  "CUDA_VISIBLE_DEVICES")}))
say("finish")
os.replace(partial, workdir / "evaluation.json")
"""


def make_runs(number, **special):
  """`special`: {"fails": 3} gives run 3 fails=True."""
  return [
    Run({"seed": i}, f"fake:seed={i}", (), {
      "seed": i, **{name: value for name, (at, value) in special.items()
                    if at == i}
    })
    for i in range(number)
  ]  # fmt: skip


def fake(events, seconds):
  """A runner, as `SweepRunner` wants one."""

  def command(run, workdir):
    return [
      sys.executable, "-c", TRAIN, str(workdir), json.dumps(run.tree),
      str(events), str(seconds),
    ]  # fmt: skip

  return command


def happened(events):
  """{"start": {seed: times}, ...}"""
  counts = collections.defaultdict(collections.Counter)
  if events.exists():
    for line in events.read_text().splitlines():
      what, seed, _ = line.split()
      counts[what][int(seed)] += 1
  return counts


def wait_for(condition, seconds=30):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it never came"
    time.sleep(0.01)


@pytest.fixture
def place(tmp_path):
  return tmp_path / "out", tmp_path / "events"


def start_elsewhere(out, events, number, workers, seconds=0.4):
  """The same sweep in another process."""
  code = (
    "import pathlib, sys; import test_runner as t;"
    f"from mattt_jax.sweeps.runner import SweepRunner;"
    f"sys.exit(SweepRunner(t.make_runs({number}), pathlib.Path({str(out)!r}),"
    f"workers={workers}, poll=0.05, "
    f"runner=t.fake({str(events)!r}, {seconds}))())"
  )
  path = os.pathsep.join([str(HERE.parent), str(ROOT)])
  return subprocess.Popen(
    [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}
  )


def running(out, runs):
  """(run, pid of the training process, step) of those under way."""
  found = []
  for run in runs:
    at = state_lib.state(run, out)
    if at.name == "running" and at.step is not None:
      found.append(run)
  return found


def pid_of(events, run):
  lines = [line.split() for line in events.read_text().splitlines()]
  pids = [pid for what, seed, pid in lines
          if what == "start" and int(seed) == run.settings["seed"]]  # fmt: skip
  return int(pids[-1])


def test_twelve_runs_on_two_workers_one_of_them_killed(place):
  out, events = place
  runs = make_runs(12)
  killed = []

  def report(line):
    """Kills the fourth run that starts, once it has done a step."""
    if " starts " in line and not killed and len(list(out.iterdir())) == 4:
      run = next(run for run in runs if line.startswith(run.hash))
      wait_for(lambda: happened(events)["step1"][run.settings["seed"]])
      killed.append(run)
      os.kill(pid_of(events, run), signal.SIGKILL)

  doing = SweepRunner(
    runs, out, workers=2, runner=fake(events, 0.2), poll=0.05, report=report
  )
  assert doing() == 0
  assert len(killed) == 1 and not doing.failed
  counts = happened(events)
  assert counts["finish"] == dict.fromkeys(range(12), 1)
  dead = killed[0].settings["seed"]
  assert counts["start"] == dict.fromkeys(range(12), 1) | {dead: 2}
  # It went on where it stopped: no step twice.
  assert counts["step1"] == dict.fromkeys(range(12), 1)
  assert len(rows_lib.update(runs, out, out / "results.jsonl")) == 12
  rows = [json.loads(x) for x in (out / "results.jsonl").open()]
  assert sorted(row["settings"]["seed"] for row in rows) == list(range(12))
  assert [row["config_hash"] for row in rows] == [run.hash for run in runs]


def test_a_machine_that_dies_is_taken_over_from(place):
  """Two sweeps on one directory; one is killed with what it runs."""
  out, events = place
  runs = make_runs(12)
  two = [start_elsewhere(out, events, 12, 1) for _ in range(2)]
  dead = two[0]

  def has(run) -> bool:
    holder = lock.holder(out / run.hash / state_lib.LOCK_FILE)
    return bool(holder and holder.startswith(f"process {dead.pid} "))

  def at_work() -> bool:
    started = happened(events)["start"]
    return len(running(out, runs)) == 2 and any(
      has(run) and started[run.settings["seed"]] for run in runs
    )

  wait_for(at_work)
  for run in runs:
    if has(run):
      os.kill(pid_of(events, run), signal.SIGKILL)
  dead.kill()
  assert dead.wait() == -signal.SIGKILL
  assert two[1].wait() == 0
  counts = happened(events)
  assert counts["finish"] == dict.fromkeys(range(12), 1)
  assert counts["step1"] == dict.fromkeys(range(12), 1)
  assert {state_lib.state(run, out).name for run in runs} == {"finished"}


def test_a_run_that_outlives_its_sweep_is_not_started_again(place):
  out, events = place
  [run] = runs = make_runs(1)
  first = start_elsewhere(out, events, 1, 1, seconds=1.5)
  wait_for(lambda: running(out, runs))
  first.kill()
  first.wait()
  assert state_lib.state(run, out).name == "running"
  lines = []
  again = SweepRunner(
    runs, out, runner=fake(events, 0), poll=0.05, report=lines.append
  )
  assert again() == 0
  assert happened(events)["start"] == {0: 1}
  assert happened(events)["finish"] == {0: 1}
  assert lines == [f"{run.hash}  finished  seed=0"]


def test_what_is_finished_is_not_done_again(place):
  out, events = place
  runs = make_runs(3)
  for _ in range(2):
    assert SweepRunner(runs, out, workers=3, runner=fake(events, 0))() == 0
  assert happened(events)["start"] == dict.fromkeys(range(3), 1)


def test_one_that_fails_is_reported_and_the_others_go_on(place, capsys):
  out, events = place
  runs = make_runs(3, fails=(1, "chunk=7 must divide length=64"))
  doing = SweepRunner(runs, out, runner=fake(events, 0))
  assert doing() == 1
  assert happened(events)["finish"] == {0: 1, 2: 1}
  [error] = doing.failed.values()
  assert error.startswith("exit code 2: mattt train: error: chunk=7 must div")
  assert "Loading" not in error and error in capsys.readouterr().out
  table = state_lib.table(runs, out)
  assert table.splitlines()[1].split()[:2] == [runs[1].hash, "failed"]
  assert "chunk=7" in table and "3 runs: 2 finished, 1 failed" in table
  # Tried again by the next call, but last.
  assert SweepRunner(runs, out, runner=fake(events, 0))() == 1
  assert happened(events)["start"] == {0: 1, 1: 2, 2: 1}


def test_what_another_tried_meanwhile_is_not_tried_again(place):
  out, events = place
  runs = make_runs(2, fails=(1, "no"))

  def report(line):
    if "starts" in line:  # the first: another comes and tries the second
      assert SweepRunner(runs[1:], out, runner=fake(events, 0))() == 1

  doing = SweepRunner(runs, out, runner=fake(events, 0.1), report=report)
  assert doing() == 1
  assert set(doing.failed) == {runs[1].hash}
  assert happened(events)["start"] == {0: 1, 1: 1}


@pytest.mark.parametrize(
  "special, message",
  [
    ({"dies": (0, True)}, "killed by SIGKILL, 2 times"),
    ({"code": (0, 7)}, "exit code 7: "),
    ({"silent": (0, True)}, "evaluation.json is not there"),
    ({"other": (0, True)}, "config.json has other settings"),
  ],
)
def test_ways_to_fail(place, special, message):
  out, events = place
  doing = SweepRunner(
    make_runs(1, **special), out, attempts=2, runner=fake(events, 0)
  )
  assert doing() == 1
  assert message in "".join(doing.failed.values())
  assert happened(events)["start"][0] == (2 if "dies" in special else 1)


def test_sigterm_lets_what_runs_save_and_asks_for_a_restart(place):
  out, events = place
  runs = make_runs(4)
  doing = start_elsewhere(out, events, 4, 2, seconds=20)
  wait_for(lambda: len(happened(events)["start"]) == 2)
  time.sleep(0.2)  # until they listen
  doing.send_signal(signal.SIGTERM)
  assert doing.wait(10) == 42
  assert happened(events)["saved"] == {0: 1, 1: 1}
  assert len(happened(events)["start"]) == 2  # nothing new was begun
  names = [state_lib.state(run, out).name for run in runs]
  assert names == ["broken", "broken", "waiting", "waiting"]


def test_a_preempted_run_stops_the_sweep(place):
  out, events = place
  runs = make_runs(2, code=(0, 42))
  assert SweepRunner(runs, out, runner=fake(events, 0))() == 42
  assert happened(events)["start"] == {0: 1}


def test_hosts_that_do_runs_together(place, monkeypatch):
  """In order, both at once, no locks, stop at the first that fails."""
  out, events = place
  start, commands = subprocess.Popen, []

  def started(command, **settings):
    commands.append(command)
    return start(command, **settings)

  monkeypatch.setattr(subprocess, "Popen", started)
  runs = make_runs(4, late=(0, True), fails=(2, "diverged"))
  with pytest.raises(ValueError, match="workers=2: hosts do runs together"):
    SweepRunner(runs, out, workers=2, together=True)
  out.mkdir()
  path = out / runs[0].hash / state_lib.LOCK_FILE
  path.parent.mkdir()
  with lock.try_lock(path):  # "the other host"
    doing = SweepRunner(runs, out, together=True, runner=fake(events, 0))
    assert doing() == 1
  assert happened(events)["start"] == {0: 1, 1: 1, 2: 1}
  assert {command[-1] for command in commands} == {"--distributed"}
  dying = make_runs(2, dies=(0, True))
  assert SweepRunner(dying, out, together=True, runner=fake(events, 0))() == 42
  assert happened(events)["start"][1] == 1


def test_workers_share_the_gpus_that_are_listed(place, monkeypatch):
  out, events = place
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
  runs = make_runs(2)
  assert SweepRunner(runs, out, workers=2, runner=fake(events, 0.3))() == 0
  seen = [
    json.loads((out / run.hash / "evaluation.json").read_text())["gpus"]
    for run in runs
  ]
  assert seen == ["4,6", "5,7"]


def test_the_lock_is_one_for_all_processes(place):
  out, _ = place
  out.mkdir()
  path = out / state_lib.LOCK_FILE
  held = lock.try_lock(path)
  assert held is not None
  assert lock.try_lock(path) is None
  code = (
    "import fcntl, sys; f = open(sys.argv[1]);"
    "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
  )
  program = [sys.executable, "-c", code, str(path)]
  assert (
    b"BlockingIOError" in subprocess.run(program, capture_output=True).stderr
  )
  assert lock.holder(path).startswith(f"process {os.getpid()} on ")
  held.close()
  assert lock.holder(path) is None
  with lock.try_lock(path) as again:
    fcntl.flock(again, fcntl.LOCK_UN)


def test_status_of_a_sweep_nobody_began(tmp_path):
  runs = make_runs(2)
  table = state_lib.table(runs, tmp_path / "absent")
  assert table.endswith("2 runs: 2 waiting")
  assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
  "change, message",
  [(dict(workers=0), "workers=0"), (dict(attempts=0), "attempts=0")],
)
def test_bad_numbers(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    SweepRunner(make_runs(1), tmp_path, **change)
