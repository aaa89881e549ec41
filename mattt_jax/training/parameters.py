"""The parameters that training starts from, and those that it moves."""

import difflib
import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mattt_jax.config import require
from mattt_jax.devices.sharding import path_name

ALL = ("*",)


def named(tree: Any) -> dict[str, Any]:
  """Arrays of a tree by their paths, "model/suffix/fast_mlp/w1"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): leaf for path, leaf in leaves}


def fitting(given: Any, like: nnx.State) -> nnx.State:
  """`given` as a tree like `like`, of arrays that training may consume.

  Args:
    given: arrays, NumPy's or JAX's; an `nnx.State` or nested dicts.
    like: the learner's parameters, or their shapes.

  Raises:
    ValueError: a parameter is missing, unknown, or of another shape or dtype.
  """
  there, here = named(given), named(like)
  for name in sorted(there.keys() | here.keys()):
    is_there, wanted = _shape(there.get(name)), _shape(here.get(name))
    require(
      is_there == wanted,
      f"init gives {name} as {is_there}, but the learner of these settings "
      f"wants {wanted}: give parameters of these settings, or change them",
    )

  def own(path, _):
    x = there[path_name(path)]
    return jnp.array(x) if isinstance(x, jax.Array) else x

  return jax.tree_util.tree_map_with_path(own, like)


def _shape(x: Any) -> str:
  return "nothing" if x is None else f"{tuple(x.shape)} {x.dtype}"


def split(
  params: nnx.State, trainable: tuple[str, ...]
) -> tuple[nnx.State, nnx.State]:
  """Splits parameters (or their shapes) into trainable and frozen ones.

  Args:
    params: of a learner; `nnx.merge_state` puts them together again.
    trainable: globs (`train.trainable`) over paths as `model.fast` has them:
      "suffix/fast_mlp/w1"; others begin with their part: "inner/log_rate_T".

  Raises:
    ValueError: as `trainable_paths`.
  """
  chosen = trainable_paths(params, trainable)
  moved, frozen = nnx.split_state(
    params, lambda path, _: _in_model(path) in chosen, ...
  )
  return moved, frozen


def trainable_paths(params: nnx.State, trainable: tuple[str, ...]) -> set[str]:
  """Paths that `split` chooses.

  Raises:
    ValueError: a glob matches nothing.
  """
  paths = [_in_model(path) for path, _ in nnx.to_flat_state(params)]
  chosen = set()
  for glob in trainable:
    matches = fnmatch.filter(paths, glob)
    near = difflib.get_close_matches(glob, paths, n=3, cutoff=0.0)
    require(
      bool(matches),
      f"train.trainable={trainable}: {glob!r} matches no parameter; near it: "
      f"{', '.join(near)}",
    )
    chosen.update(matches)
  return chosen


def _in_model(path: tuple[Any, ...]) -> str:
  return "/".join(map(str, path)).removeprefix("model/")
