"""Prints the settings of an experiment, and which are not the defaults."""

import json
from collections.abc import Iterator
from typing import Any

from absl import flags

from mattt_jax import config as config_lib
from mattt_jax.commands import launch
from mattt_jax.sweeps.sweep import config_hash


def _run(values: flags.FlagValues) -> None:
  launch.required(values, "config", "recall:tiny")
  tree = _plain(config_lib.from_config_dict(values.config))
  default = config_lib.template(
    *(tree[part]["name"] for part in ("task", "memory", "learner"))
  )
  try:
    usual = _plain(config_lib.from_config_dict(default))
  except ValueError:  # a task whose defaults fit no experiment as they are
    usual = json.loads(json.dumps(default.to_dict()))
  print(f"Settings (hash {config_hash(tree)}):")
  print("\n".join(f"  {line}" for line in _lines(tree)))
  print("\nNot the defaults (default -> here):")
  print("\n".join(f"  {x}" for x in config_lib.differences(usual, tree)))


def _plain(experiment: config_lib.Experiment) -> dict[str, Any]:
  return json.loads(json.dumps(config_lib.to_dict(experiment)))


def _lines(tree: dict[str, Any], path: str = "") -> Iterator[str]:
  """ "model.dim = 64" of every field."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _lines(value, f"{path}{key}.")
    else:
      yield f"{path}{key} = {value!r}"


COMMAND = launch.Command(
  example="--config=recall:hard,system=ttt_memory --config.model.window=64",
  run=_run,
  takes_config=True,
)
