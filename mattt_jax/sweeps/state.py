"""States of the runs of a sweep, and who holds them.

A run's directory is OUT/<hash of its settings>. Whoever does the run holds the
lock (training/lock.py) on `sweep.lock` there. The training process inherits
it, so that it is held for as long as anything of the run is alive.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps.sweep import Run, config_hash
from mattt_jax.training import lock

LOCK_FILE = "sweep.lock"


@dataclasses.dataclass(frozen=True)
class State:
  """Where a run stands."""

  name: str  # finished, running, failed, broken (off) or waiting
  detail: str = ""
  step: int | None = None  # of the last row of its metrics


def state(run: Run, out: pathlib.Path) -> State:
  """Finds where a run stands, without locking it."""
  workdir = out / run.hash
  step = _last_step(workdir / "metrics.jsonl")
  if rows_lib.is_finished(workdir):
    return State("finished", step=step)
  holder = lock.holder(workdir / LOCK_FILE)
  if holder is not None:
    return State("running", holder, step)
  note = rows_lib.read_json(workdir / rows_lib.SWEEP_FILE)
  if note.get("error"):
    return State("failed", note["error"], step)
  return State("broken" if note or step is not None else "waiting", step=step)


def table(
  runs: Sequence[Run], out: pathlib.Path, known: Collection[str] = ()
) -> str:
  """Shows a line for each run, then counts of states; runs whose hash is in
  `known` are finished elsewhere."""
  states = [
    State("finished", step=run.tree["train"]["steps"])
    if run.hash in known
    else state(run, out)
    for run in runs
  ]
  width = max(len(run.label) for run in runs)
  lines = []
  for run, at in zip(runs, states, strict=True):
    steps = run.tree.get("train", {}).get("steps", "?")
    done = "" if at.step is None else f"{at.step}/{steps}"
    first = at.detail.partition("\n")[0]
    line = f"{run.hash}  {at.name:<8}  {done:>13}  {run.label:<{width}}"
    lines.append(f"{line}  {first}".rstrip())
  names = [at.name for at in states]
  counts = [
    f"{names.count(name)} {name}"
    for name in ("finished", "running", "failed", "broken", "waiting")
    if name in names
  ]
  return "\n".join([*lines, f"{len(runs)} runs: {', '.join(counts)}"])


def wrong_result(run: Run, workdir: pathlib.Path) -> str:
  """Error of a run that says it is finished; "" if there is none."""
  if not rows_lib.is_finished(workdir):
    return f"exit code 0, but {workdir / rows_lib.RESULT_FILE} is not there"
  there = config_hash(rows_lib.read_json(workdir / "config.json"))
  if there != run.hash:
    return f"{workdir / 'config.json'} has other settings (hash {there})"
  return ""


def write_note(
  run: Run, workdir: pathlib.Path, more: Mapping[str, Any]
) -> None:
  """Writes what the sweep set, and `more`, beside the run."""
  content = {"settings": run.settings, "arguments": run.arguments, **more}
  path = workdir / rows_lib.SWEEP_FILE
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  partial.write_text(json.dumps(content, indent=2) + "\n")
  os.replace(partial, path)


def _last_step(path: pathlib.Path) -> int | None:
  """Step of the last whole row of a metrics.jsonl."""
  try:
    with path.open("rb") as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
      lines = file.read().splitlines()
  except FileNotFoundError:
    return None
  for line in reversed(lines):
    try:
      return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
      continue  # cut off by a kill, or still being written
  return None
