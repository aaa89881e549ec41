"""Sweeps: the runs that an experiment consists of.

An experiment file lists them beside its `get_config`:

    def sweep(arg=""):
      return product(
        param("system", ["ttt_e2e", "sliding_window"]),
        param("seed", [1, 2, 3]),
      )

A sweep is a list of settings, a dict for each run, of arguments of `get_config`
and of fields of what it returns ("config.outer.learning_rate"). `product`,
`zip_` and `chain` combine sweeps. `mattt sweep` runs them (sweeps/runner.py).
"""

import dataclasses
import hashlib
import inspect
import itertools
import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import require

Settings = dict[str, Any]
FIELD = "config."  # in front of the name of a field


def param(name: str, values: Iterable[Any]) -> list[Settings]:
  """Makes a run for each of `values` of one argument or field.

  Raises:
    ValueError: there are no values.
  """
  made = [{name: value} for value in values]
  require(bool(made), f"param({name!r}) has no values: give it at least one")
  return made


def product(*sweeps: Sequence[Settings]) -> list[Settings]:
  """Joins every run of a sweep with every run of the others, last one fastest.

  Raises:
    ValueError: two of them set the same name.
  """
  return [_merge(parts) for parts in itertools.product(*sweeps)]


def zip_(*sweeps: Sequence[Settings]) -> list[Settings]:
  """Joins the first runs, the second ones, and so on.

  Raises:
    ValueError: they have different numbers of runs, or set the same name.
  """
  sizes = [len(sweep) for sweep in sweeps]
  require(
    len(set(sizes)) <= 1,
    f"zip_ of sweeps of {', '.join(map(str, sizes))} runs: give all as many",
  )
  return [_merge(parts) for parts in zip(*sweeps, strict=True)]


def chain(*sweeps: Sequence[Settings]) -> list[Settings]:
  """The runs of one sweep, then those of the next."""
  return list(itertools.chain(*sweeps))


def _merge(parts: Iterable[Settings]) -> Settings:
  merged: Settings = {}
  for part in parts:
    twice = merged.keys() & part.keys()
    require(
      not twice,
      f"{', '.join(sorted(twice))} is set twice, to {merged} and to {part}: "
      "one of the combined sweeps must leave it alone",
    )
    merged |= part
  return merged


def config_hash(config: dict[str, Any]) -> str:
  """The first 12 hex digits of the SHA-256 of the settings but the mesh."""
  text = json.dumps(config_lib.identity(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def hash_today(config: dict[str, Any]) -> str | None:
  """`config_hash` that settings saved earlier have today, if they can be
  restored (`config.restore`)."""
  experiment = config_lib.restore(config)
  if experiment is None:
    return None
  return config_hash(config_lib.to_dict(experiment))


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep, its settings resolved and checked."""

  settings: Settings  # what the sweep said
  config: str  # "recall:tiny,system=ttt_e2e"
  overrides: tuple[str, ...]  # "--config.outer.learning_rate=0.003"
  tree: dict[str, Any]  # the whole configuration, plain

  @property
  def hash(self) -> str:
    """Names its directory."""
    return config_hash(self.tree)

  @property
  def label(self) -> str:
    """Settings in a line."""
    return " ".join(f"{k}={_text(v)}" for k, v in self.settings.items())

  @property
  def arguments(self) -> list[str]:
    """Arguments of `mattt train`."""
    return [f"--config={self.config}", *self.overrides]


def runs(config: str, swept: Iterable[Settings] | None = None) -> list[Run]:
  """Resolves and checks the runs of "NAME:ARG" or "FILE:ARG".

  Args:
    config: the experiment; ARG goes to `sweep`, and to `get_config` in front
      of each run's own arguments.
    swept: settings of each run; default: what its `sweep` says.

  Raises:
    ValueError: no such experiment, no sweep, no runs, settings that do not fit,
      or two runs that are the same.
  """
  module, name, arg = registry.load_experiment(config)
  if swept is None:
    require(
      hasattr(module, "sweep"),
      f"config={config}: {name} has no function sweep(arg), which says "
      "what its runs are: see mattt_jax/sweeps/sweep.py",
    )
    takes_arg = bool(inspect.signature(module.sweep).parameters)
    swept = module.sweep(arg or "") if takes_arg else module.sweep()
  made: dict[str, Run] = {}
  for settings in swept:
    run = _resolve(module, name, arg or "", settings)
    twin = made.setdefault(run.hash, run)
    require(
      twin is run,
      f"config={config}: two runs of its sweep are the same (hash "
      f"{run.hash}): {twin.label!r} and {run.label!r}",
    )
  require(bool(made), f"config={config}: its sweep has no runs")
  return list(made.values())


def share(every: Sequence[Run], index: int, of: int) -> list[Run]:
  """Takes share number `index`, from 0 on, of `of` shares.

  Raises:
    ValueError: there is no such share.
  """
  require(of >= 1, f"of={of} must be at least 1")
  require(0 <= index < of, f"index={index} must lie in 0 .. of - 1 = {of - 1}")
  return list(every[index::of])


def _resolve(module, name: str, arg: str, settings: Any) -> Run:
  require(
    isinstance(settings, dict) and all(isinstance(k, str) for k in settings),
    f"{name}: sweep gave {settings!r}: each run must be a dict of settings by "
    "name, as param, product, zip_ and chain make them",
  )
  fields, arguments = {}, [arg] if arg else []
  for key, value in settings.items():
    if key.startswith(FIELD):
      fields[key.removeprefix(FIELD)] = value
    else:
      arguments.append(_argument(key, value))
  try:
    text = ",".join(arguments)
    config = module.get_config(*([text] if text else []))
    for key, value in fields.items():
      _set(config, key, value)
    tree = config_lib.to_dict(config_lib.from_config_dict(config))
  except ValueError as error:
    raise ValueError(f"run {settings} of {name}: {error}") from error
  overrides = tuple(f"--{FIELD}{k}={_text(v)}" for k, v in fields.items())
  shown = f"{name}:{text}" if text else name
  plain = json.loads(json.dumps(tree, allow_nan=False))
  return Run(settings, shown, overrides, plain)


def _argument(name: str, value: Any) -> str:
  if value is True:
    return name
  text = _text(value)
  require(
    not isinstance(value, (tuple, list)) and "," not in text,
    f"{name}={value!r}: an argument of an experiment is one value, without "
    "commas",
  )
  return f"{name}={text}"


def _set(config: ConfigDict, path: str, value: Any) -> None:
  node: Any = config
  keys = path.split(".")
  for number, key in enumerate(keys, 1):
    parent, known = node, node if isinstance(node, ConfigDict) else {}
    hint = registry.suggest(key, known)
    require(key in known, f"unknown field {'.'.join(keys[:number])}{hint}")
    node = parent[key]
  try:
    parent[key] = value
  except TypeError as error:
    raise ValueError(f"{path}={value!r}: {error}") from error


def _text(value: Any) -> str:
  if isinstance(value, (tuple, list)):
    return repr(tuple(value))
  require(
    isinstance(value, (bool, int, float, str)),
    f"{value!r} cannot be a setting of a sweep: use a number, a text, a bool, "
    "or a tuple of them",
  )
  return str(value).lower() if isinstance(value, bool) else str(value)


def command(run: Run, workdir: object) -> str:
  """Shell command that does this run alone."""
  return shlex.join(["mattt", "train", *run.arguments, f"--workdir={workdir}"])
