"""Metrics in Weights & Biases, if asked for.

The environment variable MATTT_TRACKER or `--tracker` asks ("wandb"; default
"none"), not a setting of the experiment, since it changes nothing of a run.
wandb has its own variables: WANDB_PROJECT, WANDB_MODE, WANDB_API_KEY, ...
"""

import json
import logging
import os
import pathlib
import re
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from mattt_jax.strict import require_choice

VARIABLE = "MATTT_TRACKER"
NAMES = ("none", "wandb")
ID_FILE = "wandb_id"  # in the work directory: a resumed run stays one run
_log = logging.getLogger(__name__)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


def choose(name: str | None) -> None:
  """Checks the choice and makes it this process's, and its children's; None
  leaves the environment's.

  Raises:
    ValueError: there is no such tracker, or its package is not installed.
  """
  if name is not None:
    os.environ[VARIABLE] = name
  if _chosen() == "wandb":
    _import_wandb()


def start(workdir: pathlib.Path) -> "Wandb | None":
  """Starts the chosen tracker for the run in `workdir`; None if there is none.

  Raises:
    RuntimeError: it cannot start.
  """
  return Wandb(workdir) if _chosen() == "wandb" else None


def _chosen() -> str:
  name = os.environ.get(VARIABLE) or "none"
  require_choice("tracker", name, NAMES)
  return name


def _import_wandb() -> Any:
  try:
    import wandb
  except ImportError as error:
    raise ValueError(
      "tracker='wandb' needs the package wandb: pip install "
      "'mattt-jax[wandb]', or leave the tracker out"
    ) from error
  return wandb


def without_secrets(text: str) -> str:
  """Replaces values of variables that are called a key or so by their names."""
  for name, value in os.environ.items():
    if _SECRET.search(name) and len(value) >= 6:
      text = text.replace(value, f"<{name}>")
  return text


class Wandb:
  """What goes wrong after the start is a warning: the run matters more."""

  def __init__(self, workdir: pathlib.Path):
    wandb = _import_wandb()
    path = workdir / ID_FILE
    if not path.exists():
      path.write_text(secrets.token_hex(8) + "\n")
    config = workdir / "config.json"
    try:
      self._run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "mattt",
        id=path.read_text().strip(),
        resume="allow",
        name="/".join(workdir.absolute().parts[-2:]),
        dir=str(workdir),
        config=json.loads(config.read_text()) if config.exists() else {},
      )
      # Steps that a resumed run does again must not be refused as out of order.
      self._run.define_metric("outer_step")
      self._run.define_metric("*", step_metric="outer_step")
    except Exception as error:
      raise RuntimeError(
        f"wandb could not start: {without_secrets(str(error))}. Check "
        "WANDB_API_KEY (or `wandb login`), set WANDB_MODE=offline, or leave "
        "the tracker out"
      ) from None  # its traceback may hold what must not be shown
    self._on = True

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Sends `values` after outer step `step`, named as "train/loss"."""
    if not self._on:
      return
    try:
      self._run.log({"outer_step": step, **values})
    except Exception as error:
      self._on = False
      text = without_secrets(str(error))
      _log.warning("wandb is left out from step %d on: %s", step, text)

  def close(self) -> None:
    """Sends what is left."""
    try:
      # Called while an exception is on its way, the run is marked as failed.
      self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
    except Exception as error:
      _log.warning("wandb did not end well: %s", without_secrets(str(error)))
