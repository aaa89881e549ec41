"""Export of a learner's parameters, to be read elsewhere.

Beside the settings and the tokenizer's file lies `parameters.npz`: an array
for each parameter, by its path ("prefix/blocks/..."), and `step`. It holds no
code, and its own checksums tell damage.
"""

import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from mattt_jax import config as config_lib
from mattt_jax.devices.sharding import path_name
from mattt_jax.training import workdir as workdir_lib
from mattt_jax.training.parameters import named

FILE = "parameters.npz"
_STEP = "step"


def write(
  workdir: str | os.PathLike, params: Any, step: int, out: str | os.PathLike
) -> pathlib.Path:
  """Writes the parameters of the run in `workdir` to the new directory `out`;
  returns the path of the arrays.

  Raises:
    ValueError: `out` is not empty, or cannot be written.
  """
  workdir, out = pathlib.Path(workdir), pathlib.Path(out)
  config_lib.require(
    not out.exists() or (out.is_dir() and not any(out.iterdir())),
    f"out={out} is there already: name a new directory",
  )
  path = out / FILE
  with workdir_lib.writing("out", out):
    out.mkdir(parents=True, exist_ok=True)
    for name in (workdir_lib.CONFIG_FILE, workdir_lib.TOKENIZER_FILE):
      if (workdir / name).exists():
        shutil.copyfile(workdir / name, out / name)
    arrays: dict[str, Any] = named(jax.device_get(params)) | {_STEP: step}
    np.savez(path, allow_pickle=False, **arrays)
  return path


def read(directory: str | os.PathLike, like: Any) -> tuple[Any, int]:
  """Reads the parameters in `directory`, a tree like `like`, and their step.

  Raises:
    ValueError: the file is damaged, or its names or shapes are others.
  """
  path = pathlib.Path(directory) / FILE
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
  except Exception as error:  # damage surfaces as almost any type
    raise ValueError(
      f"{path} cannot be read ({type(error).__name__}: {error}): export it "
      "once more"
    ) from error
  step = arrays.pop(_STEP, None)
  there, here = (
    {(name, x.shape) for name, x in tree.items()}
    for tree in (arrays, named(like))
  )
  wrong = sorted(there ^ here)
  config_lib.require(
    step is not None and not wrong,
    f"{path} is not of these settings: {wrong[0][0] if wrong else _STEP} is "
    "missing, unknown or of another shape: export it once more",
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jax.numpy.asarray(arrays[path_name(path)], x.dtype), like
  ), int(step)
