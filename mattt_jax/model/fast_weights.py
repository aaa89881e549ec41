"""Fast weights: the parameters that the inner loop may change while reading.

They are an NNX Variable type, so one `nnx.split` takes them out of a model. A
setting chooses them: globs over paths like `suffix/fast_mlp/w1`.
"""

import fnmatch
from typing import Any

from flax import nnx

# Prefix blocks and the embedding are read before the inner loop, once over the
# whole sequence, so only what comes after them can change from chunk to chunk.
_MAY_BE_FAST = ("suffix/*", "final_norm/*", "head")


class FastWeight(nnx.Param):
  """A parameter whose value the inner loop updates, starting from W_0."""


def mark(model: nnx.Module, patterns: tuple[str, ...]) -> None:
  """Makes the parameters whose path matches a glob into `FastWeight`s.

  Raises:
    ValueError: a pattern matches more than suffix, final norm and untied head.
  """
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    name = "/".join(map(str, path))
    if not any(fnmatch.fnmatch(name, p) for p in patterns):
      continue
    if not any(fnmatch.fnmatch(name, p) for p in _MAY_BE_FAST):
      raise ValueError(
        f"model.fast={patterns} matches {name}, which cannot be fast: only "
        f"{', '.join(_MAY_BE_FAST)} can (suffix blocks run inside the inner "
        "loop; raise model.num_suffix to have more of them)"
      )
    owner = model
    for key in path[:-1]:
      owner = getattr(owner, str(key))
    setattr(owner, str(path[-1]), FastWeight(variable[...]))


def split(model: Any):
  """Returns (graphdef, fast state, slow state); `nnx.merge` undoes it.

  FastWeight comes first: it is a subclass of Param, and the other order would
  give an empty fast state without a word.
  """
  return nnx.split(model, FastWeight, nnx.Param)
