"""Two processes of four devices do what one of eight does."""

import json
import signal

import numpy as np
import pytest
import worker

from mattt_jax import processes
from mattt_jax.training import metrics

STEPS = 14
CHANGES = {"batch_size": 8, "eval__batch_size": 8, "mesh__fsdp": 2}


def losses(workdir):
  written = metrics.read_rows(workdir / metrics.METRICS_FILE)
  found = [(row["step"], row["kind"], row.get("loss")) for row in written]
  result = json.loads((workdir / "evaluation.json").read_text())
  (last,) = result["evaluation"]["lengths"].values()
  return [x[:2] for x in found], [x[2] for x in found if x[2]] + [last["loss"]]


def steps_saved(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*"))


def test_two_processes_then_one_then_two(tmp_path):
  code, out = worker.run(
    tmp_path / "one", environment=worker.with_devices(8), changes=CHANGES
  )
  assert code == 0, out
  moved = tmp_path / "moved"
  # A notice to the second reaches both: they stop after the same step.
  stopped = worker.run_together(
    moved, 2, 4, changes=CHANGES, pause=0.3, at=3, process=1,
    signal=signal.SIGTERM,
  )  # fmt: skip
  assert [code for code, _ in stopped] == [42, 42], stopped
  first = steps_saved(moved)[-1]
  assert 3 <= first < 10
  code, out = worker.run(
    moved, environment=worker.with_devices(8), changes=CHANGES, at=2,
    signal=signal.SIGTERM,
  )  # fmt: skip
  assert code == 42, out
  assert f"Resuming from the checkpoint of step {first}" in out
  second = steps_saved(moved)[-1]
  assert second == first + 2
  ended = worker.run_together(moved, 2, 4, changes=CHANGES)
  assert [code for code, _ in ended] == [0, 0], ended
  # The first process speaks, the second does not.
  assert f"Resuming from the checkpoint of step {second}" in ended[0][1]
  assert "Resuming" not in ended[1][1]
  rows, values = losses(moved)
  expected_rows, expected = losses(tmp_path / "one")
  assert rows == expected_rows
  # Sums over the devices of one process and of two go in another order, and
  # Adam divides by their size what is small: rounding grows to 1e-5 by step 14.
  np.testing.assert_allclose(values, expected, rtol=3e-5)


@pytest.mark.parametrize(
  "environment, message",
  [
    ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two must be a whole"),
    ({}, "--distributed: nothing here says who the others are"),
  ],
)
def test_nobody_to_join(environment, message, monkeypatch):
  for name in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=message):
    processes.join()
