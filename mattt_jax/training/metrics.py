"""Reports of a run: averages, metrics.jsonl, TensorBoard, counts."""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from clu import parameter_overview
from flax import nnx
from tensorboardX import SummaryWriter

from mattt_jax.devices import processes
from mattt_jax.model.fast_weights import FastWeight
from mattt_jax.training import parameters, trackers
from mattt_jax.training import workdir as workdir_lib

METRICS_FILE = "metrics.jsonl"


def averages(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
  """Averages the metrics of several outer steps.

  `answer_correct` and `answer_tokens` become `answer_accuracy`, over tokens
  and not over steps. None stands for no answer, or a value that is not finite.
  """
  columns: dict[str, list[float]] = {}
  for row in rows:
    for name, value in row.items():
      columns.setdefault(name, []).append(value)
  accuracy = clu_metrics.Average(
    total=jnp.float32(sum(columns.pop("answer_correct", []))),
    count=jnp.int32(sum(columns.pop("answer_tokens", []))),
  )
  means = {
    name: float(clu_metrics.Average.from_model_output(jnp.asarray(x)).compute())
    for name, x in columns.items()
  }
  means["answer_accuracy"] = float(accuracy.compute())
  return {k: v if math.isfinite(v) else None for k, v in means.items()}


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl without a last line that was cut off.

  Raises:
    ValueError: a line before the last is no JSON object.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  rows = []
  lines = path.read_text(errors="replace").splitlines()
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if not isinstance(row, dict) or "step" not in row:
        raise ValueError("no object with a step")
    except ValueError as error:
      if number == len(lines):
        break
      raise ValueError(
        f"{path}, line {number} is damaged ({error}): remove that line"
      ) from error
    rows.append(row)
  return rows


class MetricsWriter:
  """Writes rows {"step": ..., "kind": ..., ...} to JSONL, TensorBoard and the
  tracker; in the first process only.

  Rows of steps after `restored_step`, and of the final evaluation, are dropped
  first: a run that goes on from there writes them again.
  """

  def __init__(self, workdir: pathlib.Path, restored_step: int):
    self._file = self._board = self._tracker = None
    if not processes.is_first():
      return
    self._tracker = trackers.start(workdir)
    path = workdir / METRICS_FILE
    lines = [
      _line(row)
      for row in read_rows(path)
      if row["step"] <= restored_step and row.get("kind") != "final"
    ]
    workdir_lib.write_bytes(path, "".join(lines).encode())
    self._file = path.open("a")
    self._board = SummaryWriter(
      str(workdir / "tensorboard"), purge_step=restored_step + 1
    )

  def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
    """Appends one row; nested dicts become "a/b" in TensorBoard."""
    if self._file is None or self._board is None:
      return
    self._file.write(_line({"step": step, "kind": kind, **values}))
    self._file.flush()
    scalars = dict(_scalars(values, kind))
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)
    if self._tracker is not None:
      self._tracker.log(step, scalars)

  def close(self) -> None:
    for output in (self._file, self._board, self._tracker):
      if output is not None:
        output.close()


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + "\n"


def _scalars(values: Any, name: str) -> Iterator[tuple[str, float]]:
  if isinstance(values, Mapping):
    for key, value in values.items():
      yield from _scalars(value, f"{name}/{key}")
  elif isinstance(values, (int, float)) and math.isfinite(values):
    yield name, float(values)


def parameter_counts(params: nnx.State) -> dict[str, int]:
  """Counts numbers: fast (W_0), memory, inner (learned rates), slow (rest)."""
  counts = dict.fromkeys(("slow", "fast", "memory", "inner"), 0)
  for path, variable in nnx.to_flat_state(params):
    if isinstance(variable, FastWeight):
      kind = "fast"
    elif path[0] in ("inner", "coordination"):
      kind = "inner"
    elif {"memory", "pointer"} & set(path):
      kind = "memory"
    else:
      kind = "slow"
    counts[kind] += variable.get_value().size  # or a shape
  return counts


def overview(
  params: nnx.State,
  state_bytes: Mapping[str, int],
  trainable: tuple[str, ...] = parameters.ALL,
) -> str:
  """Describes a learner: a table, counts, and the bytes of a context's state.

  `state_bytes`: what one sequence carries from chunk to chunk, by part;
  `trainable`: globs of `train.trainable`.
  """
  pure = nnx.to_pure_dict(params)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pure)
  table = parameter_overview.get_parameter_overview(shapes, include_stats=False)
  kinds = parameter_counts(params)
  moved, _ = parameters.split(params, trainable)
  number = sum(parameter_counts(moved).values())
  counts, sizes = (
    ", ".join(f"{n:,} {k}" for k, n in numbers.items())
    for numbers in (kinds, state_bytes)
  )
  return (
    f"{table}\nParameters: {counts}; {number:,} trainable of "
    f"{sum(kinds.values()):,}\nState of one context, bytes: {sizes}, "
    f"{sum(state_bytes.values()):,} in all"
  )
