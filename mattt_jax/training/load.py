"""Loading what training left in a workdir: its state, or a learner."""

import os
import pathlib

from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes
from mattt_jax.learners.build import make_task
from mattt_jax.training import checkpoint, export
from mattt_jax.training import workdir as workdir_lib
from mattt_jax.training.train_step import TrainState, abstract_training
from mattt_jax.ttt.learner import Learner


def load_learner(
  experiment: Experiment, workdir: str | os.PathLike, *, best: bool = False
) -> tuple[Learner, int]:
  """Loads the learner of the newest good checkpoint, or of an export.

  `best`: of the lowest loss on the tuning split instead (`train.keep_best`).

  Returns:
    The learner and its outer step.

  Raises:
    ValueError: `workdir` belongs to another experiment or has no checkpoint.
  """
  config_lib.require(
    (pathlib.Path(workdir) / workdir_lib.CONFIG_FILE).is_file(),
    f"workdir={workdir} holds no run ({workdir_lib.CONFIG_FILE} is missing): "
    "train first, or name another",
  )
  workdir = workdir_lib.bind(workdir, experiment)
  task = make_task(experiment)
  graphdef, _, state = abstract_training(
    experiment, task.vocab_size, meshes.make_mesh(1)
  )
  if (workdir / export.FILE).exists():
    params, step = export.read(workdir, state.params)
    return nnx.merge(graphdef, params), step
  checkpoints = checkpoint.Checkpoints(workdir / workdir_lib.CHECKPOINTS)
  try:
    restored = restore_latest(checkpoints, state, experiment)
    if best and restored is not None:
      kept = restored.data.get("best")
      config_lib.require(
        kept is not None,
        f"workdir={workdir} has no best checkpoint: train with "
        "train.keep_best=True and train.eval_every, or read the newest",
      )
      restored = checkpoints.restore(kept["step"], state)
  finally:
    checkpoints.close()
  if restored is None:
    raise ValueError(f"workdir={workdir} has no checkpoint yet: train first")
  return nnx.merge(graphdef, restored.state.params), restored.step


def restore_latest(
  checkpoints: checkpoint.Checkpoints, like: TrainState, experiment: Experiment
) -> checkpoint.Restored | None:
  """The newest good checkpoint, placed as `like` is; None if there is none.

  Raises:
    ValueError: it is of other settings.
  """
  restored = checkpoints.restore_latest(like)
  if restored is not None:
    workdir_lib.require_same_config(
      f"checkpoint {checkpoints.directory / str(restored.step)}",
      restored.config,
      experiment,
    )
  return restored
