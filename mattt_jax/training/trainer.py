"""The training loop: resumes, evaluates, reports, and stops when it diverges.

Metrics stay on the device, so that nothing waits for it, until a row is
written, a state saved, or the learner evaluated.
"""

import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from mattt_jax import config as config_lib
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes, processes, sharding
from mattt_jax.evaluation import final
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.learners.build import abstract_learner, build_learner, make_task
from mattt_jax.tasks import batches
from mattt_jax.training import (
  checkpoint,
  export,
  lock,
  metrics,
  parameters,
  placement,
  preemption,
  progress,
  speed,
)
from mattt_jax.training import workdir as workdir_lib
from mattt_jax.training.load import restore_latest
from mattt_jax.training.optimizer import learning_rate
from mattt_jax.training.train_step import (
  TrainState,
  abstract_training,
  all_finite,
  init_state,
  jit_train_step,
)
from mattt_jax.training.workdir import EVALUATION_FILE
from mattt_jax.ttt.coordination import parts_on
from mattt_jax.ttt.parts import Parts

PROFILE = "profile"


class DivergedError(RuntimeError):
  """The loss or the parameters are no longer finite."""


def train(
  experiment: Experiment,
  workdir: str | os.PathLike,
  *,
  mesh: Mesh | None = None,
  profile: int = 0,
  ideal: Callable[[int], speed.Ideal] | None = None,
  init: Callable[[Experiment], Any] | None = None,
) -> dict[str, Any]:
  """Trains an experiment in `workdir`, or goes on where it stopped.

  Writes config.json, metrics.jsonl, tensorboard/, checkpoints/, the
  tokenizer's file and, at the end, evaluation.json.

  Args:
    experiment: the settings.
    workdir: a new directory, or that of the same experiment.
    mesh: devices to compute on; default: as `experiment.mesh` says.
    profile: number of outer steps to trace, to `workdir`/profile.
    ideal: gives, for a vocabulary size, the seconds of each kind of step at
      the machine's peak, for the utilisation (MFU).
    init: gives the parameters to start from, arrays like
      `nnx.split(learner)[1]`; default: drawn from the seed. Not called where
      there is a checkpoint.

  Returns:
    The content of evaluation.json: `step`, `train` (the last averages), and
    `evaluation` (`final.measure`). A finished run is not trained again.

  Raises:
    ValueError: settings, parameters or workdir that do not fit.
    LockedError: another process trains in `workdir`.
    OtherProcessError: another process of the run raised one of these.
    DivergedError: a loss that is not finite; the last good state is kept.
    PreemptedError: SIGTERM came; the state was saved after the step under way.
  """
  mesh = meshes.mesh_of(experiment.mesh) if mesh is None else mesh
  with processes.together():
    task = make_task(experiment)
    final.check(experiment, task.vocab_size)  # raises before, not after
    if mesh.size > 1:  # what does not fit is named before anything is computed
      placement.place(experiment, task.vocab_size, mesh)
    elif experiment.train.trainable != parameters.ALL:
      _, shapes = abstract_learner(experiment, task.vocab_size)
      parameters.split(shapes, experiment.train.trainable)
  with processes.first_goes_first():
    workdir = workdir_lib.bind(workdir, experiment)
  config_lib.require(
    not (workdir / export.FILE).exists(),
    f"workdir={workdir} holds exported parameters, without what training goes "
    "on from: use the run's own workdir, or another one",
  )
  with contextlib.ExitStack() as stack:
    with processes.together():
      if processes.is_first():
        with workdir_lib.writing("workdir", workdir):
          stack.enter_context(lock.take(workdir))
        workdir_lib.keep_tokenizer(workdir, task)
        workdir_lib.keep_contents(workdir, task)
    finished = workdir_lib.finished(workdir, experiment.train.steps)
    if finished is not None:
      processes.say(f"{workdir} is already trained: see {EVALUATION_FILE}")
      return finished
    run = _Run(experiment, workdir, task, mesh, profile, ideal, init)
    stack.callback(run.close)
    run.train()
    return run.finish()


class _Run:
  """A process's part of a run, from the newest good checkpoint to the end."""

  def __init__(
    self, experiment, workdir, task, mesh: Mesh, profile, ideal, init
  ):
    self.experiment, self.workdir, self.task = experiment, workdir, task
    self.mesh = mesh
    config = experiment.train
    self.graphdef, optimizer, like = abstract_training(
      experiment, task.vocab_size, mesh
    )
    self.learning_rate = learning_rate(experiment.outer, config.steps)
    self.jitted_step = jit_train_step(
      self.graphdef, optimizer, experiment, like, mesh
    )
    self.compiled: dict[tuple[Parts, int], Any] = {}
    self.batches = batches.train_batches(
      task,
      experiment,
      place=lambda batch: sharding.put_batch(batch, mesh),
      rows=sharding.rows_here(mesh, experiment.batch_size),
    )
    self.notice = preemption.Notice()
    self.step = 0
    self.on_device: list[dict[str, Any]] = []  # metrics of the newest steps
    self.since_log: list[dict[str, float]] = []  # those fetched, not written
    self.best: dict[str, Any] | None = None  # its step and loss
    self.checkpoints = checkpoint.Checkpoints(
      workdir / workdir_lib.CHECKPOINTS, config.keep_checkpoints
    )
    if not self._restore(like):
      params = self._first_parameters(init, like.params)
      self.state = init_state(params, optimizer, mesh, config.trainable)
    learner = nnx.merge(self.graphdef, self.state.params)
    state_bytes = learner.state_bytes(experiment.length)
    processes.say(metrics.overview(like.params, state_bytes, config.trainable))
    self.writer = metrics.MetricsWriter(workdir, self.step)
    self.speed = speed.Speed(ideal and ideal(task.vocab_size))
    self.trace = speed.Trace(workdir / PROFILE, profile)
    self.progress = progress.Progress(config.steps, self.step)

  def _first_parameters(self, init, shapes: nnx.State) -> nnx.State:
    if init is None:
      return nnx.split(build_learner(self.experiment, self.task.vocab_size))[1]
    with processes.together():
      return parameters.fitting(init(self.experiment), shapes)

  def _restore(self, like: TrainState) -> bool:
    """Whether there was a checkpoint to go on from."""
    restored = restore_latest(self.checkpoints, like, self.experiment)
    if restored is None:
      return False
    self.checkpoints.set_aside(restored.damaged)
    self.state, self.step = restored.state, restored.step
    self.batches.set_state(restored.data["batches"])
    self.since_log = restored.data["since_log"]
    self.best = restored.data.get("best")
    processes.say(f"Resuming from the checkpoint of step {self.step}")
    return True

  def train(self) -> None:
    """Runs the outer steps that are left."""
    config = self.experiment.train
    while self.step < config.steps:
      self._one_step()
      last = self.step == config.steps
      if last or self.step % config.log_every == 0:
        self._log()
      better = False
      if config.eval_every and self.step % config.eval_every == 0 and not last:
        better = self._evaluate_tune()
      stops = self.notice.stops_after(self.step)
      if last or stops or better or self.step % config.checkpoint_every == 0:
        self._save()
      if stops:
        self.checkpoints.wait()
        raise self._preempted()

  def _preempted(self) -> preemption.PreemptedError:
    return preemption.PreemptedError(
      f"told to stop: step {self.step} is saved in {self.workdir}; the same "
      "command goes on from there"
    )

  def _one_step(self) -> None:
    with self.speed.timed("data"):
      batch = next(self.batches)
    sequences, length = batch["tokens"].shape
    parts = parts_on(self.experiment, self.step)
    kind = parts, length
    step_fn = self.compiled.get(kind)
    if step_fn is None:
      with self.speed.timed("idle", "compile"):
        lowered = self.jitted_step.lower(self.state, batch, parts)
        step_fn = self.compiled[kind] = lowered.compile()
    self.state, values = step_fn(self.state, batch)
    self.step += 1
    self.on_device.append(values)
    self.speed.step(*kind, tokens=sequences * length)
    if self.trace.toggles_after(values):
      with self.speed.timed("idle"):  # writing a trace takes seconds
        self.trace.toggle()
    self.progress.step()

  def _check(self, state_too: bool) -> None:
    """Fetches metrics; raises `DivergedError` if something is not finite."""
    rows = jax.device_get(self.on_device)
    first = self.step - len(rows) + 1
    self.on_device = []
    for step, row in enumerate(rows, first):
      for name in ("loss", "grad_norm"):
        if not math.isfinite(row[name]):
          self._diverged(f"{name}={row[name]} in outer step {step}")
      self.since_log.append({k: v.item() for k, v in row.items()})
    if state_too and not all_finite((self.state.params, self.state.opt_state)):
      self._diverged(
        f"parameters or optimizer state not finite after outer step {self.step}"
      )

  def _diverged(self, what: str) -> None:
    self.checkpoints.wait()
    kept = "No checkpoint had been saved yet"
    if steps := self.checkpoints.steps():
      where = f"{steps[-1]} in {self.checkpoints.directory}"
      kept = f"The checkpoint of step {where} is the last good one"
    raise DivergedError(
      f"training diverged: {what}. {kept}. Lower outer.learning_rate or "
      "inner.learning_rate, or set outer.clip_norm, in a new workdir"
    )

  def _log(self) -> None:
    self._check(state_too=False)
    row = metrics.averages(self.since_log) | self.speed.row()
    row["learning_rate"] = float(self.learning_rate(self.step - 1))
    self.writer.write(self.step, "train", row)
    self.progress.show(self.step, row)
    self.since_log = []

  def _save(self) -> None:
    with self.speed.timed("idle"):
      self._check(state_too=True)
      data = {"batches": self.batches.get_state(), "since_log": self.since_log}
      self.checkpoints.save(
        self.step,
        self.state,
        data | {"best": self.best},
        config_lib.to_dict(self.experiment),
        best=self.best["step"] if self.best else None,
      )

  def _learner(self) -> tuple[nnx.GraphDef, Any]:
    self._check(state_too=True)
    return self.graphdef, self.state.params

  def _evaluate_tune(self) -> bool:
    """Whether this is the best step so far, and is to be kept."""
    with self.speed.timed("idle"):
      result = evaluate(
        self.experiment, self._learner(), self.task, "tune",
        step=self.step, mesh=self.mesh,
      )  # fmt: skip
    self.writer.write(self.step, "evaluation", result)
    loss = next(iter(result["lengths"].values()))["loss"]
    better = loss is not None and (not self.best or loss < self.best["loss"])
    if better and self.experiment.train.keep_best:
      self.best = {"step": self.step, "loss": loss}
      return True
    return False

  def finish(self) -> dict[str, Any]:
    """Evaluates (`evaluation/final.py`) and writes the result."""
    self.checkpoints.wait()
    self.notice.raise_at_once(self._preempted())  # all is saved
    with self.speed.timed("idle"):
      result = final.measure(
        self.experiment, self._learner(), self.task,
        step=self.step, mesh=self.mesh,
      )  # fmt: skip
    rows = metrics.read_rows(self.workdir / metrics.METRICS_FILE)
    trained = [row for row in rows if row["kind"] == "train"] or [{}]
    self.writer.write(self.step, "final", result)
    out = {"step": self.step, "train": trained[-1], "evaluation": result}
    if processes.is_first():
      workdir_lib.write_json(self.workdir / EVALUATION_FILE, out)
    processes.meet("evaluation written")
    return out

  def close(self) -> None:
    self.notice.close()
    self.batches.close()
    self.trace.close()
    self.progress.close()
    self.writer.close()
    self.checkpoints.close()
