"""Two processes of four devices do what one of eight does."""

import json
import signal

import jax
import pytest
import worker

from mattt_jax.devices import processes
from mattt_jax.training import metrics

STEPS = 12  # a notice takes some steps to reach all
CHANGES = {
  "batch_size": 8, "eval__batch_size": 8, "mesh__fsdp": 2,
  "train__steps": STEPS, "train__log_every": 1, "train__eval_every": 0,
  "coordination__inner_off_share": 0.0,  # one program less
}  # fmt: skip
SET = {"changes": CHANGES}


def losses(workdir):
  written = metrics.read_rows(workdir / metrics.METRICS_FILE)
  result = json.loads((workdir / "evaluation.json").read_text())
  (last,) = result["evaluation"]["lengths"].values()
  rows = [(r["step"], r["loss"]) for r in written if r["kind"] == "train"]
  return rows, last["loss"]


def newest(workdir) -> int:
  found = (workdir / "checkpoints").glob("[0-9]*")
  return max(int(path.name) for path in found)


def test_two_processes_then_one_then_two(tmp_path):
  # One process, whose devices sum in the order in which those of two do.
  ((code, out),) = worker.run_together(tmp_path / "one", 1, 8, **SET)
  assert code == 0, out
  moved = tmp_path / "moved"
  # A notice to the second reaches both: they stop after the same step.
  stopped = worker.run_together(
    moved, 2, 4, **SET, at=2, process=1, signal=signal.SIGTERM
  )
  assert [code for code, _ in stopped] == [42, 42], stopped
  first = newest(moved)
  assert 2 <= first <= STEPS - 2
  ((code, out),) = worker.run_together(
    moved, 1, 8, **SET, pause=0.1, at=1, signal=signal.SIGTERM
  )
  assert code == 42, out
  assert f"Resuming from the checkpoint of step {first}" in out
  second = newest(moved)
  assert first < second < STEPS
  # What only one of them may find damaged, neither uses.
  for path in (moved / "checkpoints" / str(second) / "state").rglob("d/*"):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  ended = worker.run_together(moved, 2, 4, **SET)
  assert [code for code, _ in ended] == [0, 0], ended
  # The first process speaks, the second does not.
  assert f"Resuming from the checkpoint of step {first}" in ended[0][1]
  assert "Resuming" not in ended[1][1]
  rows, last = losses(moved)
  assert len(rows) == STEPS
  assert (rows, last) == losses(tmp_path / "one")


# What one of two processes cannot do, neither goes on from; each says why.
FAILS = """
import json, sys

import jax
from tiny import experiment

from mattt_jax.devices import processes
from mattt_jax.training import lock, trainer

workdir = json.loads(sys.argv[1])["workdir"]
processes.join()


def tried(case, call):
  try:
    call()
  except (ValueError, RuntimeError) as error:
    print(case, type(error).__name__, error, flush=True)


def fails(index):
  with processes.first_goes_first():
    if jax.process_index() == index:
      raise ValueError("no disk" + " here" * index)


for index in (0, 1):
  tried(f"case {index}:", lambda: fails(index))
run = lambda **changes: trainer.train(
  experiment(batch_size=8, eval__batch_size=8, **changes), workdir
)
real = trainer.make_task
if jax.process_index() == 1:
  trainer.make_task = lambda experiment: int("texts")
tried("texts:", run)
trainer.make_task = real
if jax.process_index() == 0:
  lock.take = lambda workdir: open("/absent/lock")
tried("lock:", run)
tried("settings:", lambda: run(train__steps=15))
"""


def test_what_fails_in_one_process_fails_in_both(tmp_path):
  program = tmp_path / "fails.py"
  program.write_text(FAILS)
  workdir = tmp_path / "run"
  ended = worker.run_together(workdir, 2, 4, program=program)
  assert [code for code, _ in ended] == [0, 0], ended
  cannot = f"workdir={workdir} cannot be written (No such file or directory)"
  differs = f"workdir={workdir} belongs to a run with other settings"
  for case, index, said in (
    ("case 0:", 0, "no disk"),
    ("case 1:", 1, "no disk here"),
    ("texts:", 1, "invalid literal for int"),
    ("lock:", 0, cannot),
    ("settings:", 0, differs),
  ):
    other = f"{case} OtherProcessError process {index} of the run failed: "
    assert f"\n{case} ValueError {said}" in f"\n{ended[index][1]}"
    assert f"\n{other}{said}" in f"\n{ended[1 - index][1]}"


@pytest.mark.parametrize(
  "environment, message",
  [
    ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two must be a whole"),
    ({}, "--distributed: nothing here says who the others are"),
  ],
)
def test_nobody_to_join(environment, message, monkeypatch):
  def initialize(**settings):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=message):
    processes.join()
