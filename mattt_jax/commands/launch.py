"""What all commands share: flags, settings, help, errors, the exit code.

JAX is imported when there is work for it: help and most errors come at once.
"""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.data import cache
from mattt_jax.training import trackers


def _define(
  kind: Callable[..., object],
  values: flags.FlagValues,
  default: Any = None,
  **about: str,
) -> None:
  """Adds flags of one kind and default, name=help ("_" becomes "-")."""
  for name, text in about.items():
    kind(name.replace("_", "-"), default, text, flag_values=values)


strings = functools.partial(_define, flags.DEFINE_string)
booleans = functools.partial(_define, flags.DEFINE_bool)
integers = functools.partial(_define, flags.DEFINE_integer)
floats = functools.partial(_define, flags.DEFINE_float)


class UsageError(ValueError):
  """The command line is wrong."""


@dataclasses.dataclass(frozen=True)
class Command:
  """A `COMMAND` of a file here, whose docstring says what it does."""

  example: str  # arguments
  # Gets the values of the flags, then the words; an integer is the exit code.
  run: Callable[..., object]
  define: Callable[[flags.FlagValues], object] = lambda values: None
  takes_config: bool = False
  words: tuple[str, ...] = ()  # after a last "NAME..." there may be any number


def launch(command: Command, program: str, argv: Sequence[str]) -> int:
  """Runs a command with the arguments `argv`; returns the exit code, for an
  error 2 after one message on stderr (with `--debug` a traceback)."""
  values = flags.FlagValues()
  booleans(
    values,
    False,
    help="print this",
    debug="show tracebacks and more of the log",
  )
  command.define(values)
  if {"--help", "-help", "-h"} & set(argv):
    print(_help(command, program, values))
    return 0
  argv = list(argv)
  debug = "--debug" in argv  # reading the flags may be what fails
  try:
    if command.takes_config:
      argv = _define_config(values, argv)
    words = values([program, *argv])[1:]
    single = [word for word in command.words if not word.endswith("...")]
    if len(words) > len(single) and single == [*command.words]:
      raise UsageError(f"unexpected argument {words[len(single)]!r}")
    if len(words) < len(single):
      raise UsageError(f"{single[len(words)]} is missing")
    flags.FLAGS.mark_as_parsed()  # grain's workers ask for absl's own flags
    if debug:
      logging.set_verbosity(logging.INFO)
    code = command.run(values, *words)
  except (flags.Error, ValueError, OSError, RuntimeError) as error:
    if debug:
      raise
    more = "--debug shows the traceback"
    if isinstance(error, (flags.Error, UsageError)):
      more = f"{program} --help shows an example"
    text = trackers.without_secrets(str(error))
    print(f"{program}: error: {text}\n({more})", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"{program}: interrupted", file=sys.stderr)
    return 130
  return code if isinstance(code, int) else 0


def define_tracker(values: flags.FlagValues) -> None:
  """Adds `--tracker`."""
  strings(
    values,
    tracker="wandb: metrics go to Weights & Biases too; default: "
    f"${trackers.VARIABLE}, or none",
  )


def define_checkpoint(values: flags.FlagValues) -> None:
  """Adds `--workdir` and `--best`."""
  strings(values, workdir="directory of the run")
  booleans(
    values,
    False,
    best="the checkpoint of the lowest loss on the tuning split "
    "(train.keep_best), not the newest",
  )


def run_settings(
  values: flags.FlagValues,
) -> tuple[dict, config_lib.Experiment]:
  """The settings of the run in --workdir, or what --config says they are."""
  from mattt_jax.training import workdir as workdir_lib

  if values.config:
    experiment = config_lib.from_config_dict(values.config)
    return config_lib.to_dict(experiment), experiment
  tree = workdir_lib.read_config(values.workdir)
  own = workdir_lib.with_own_tokenizer(tree, values.workdir)
  return tree, config_lib.from_config_dict(ConfigDict(own))


def required(values: flags.FlagValues, name: str, example: str) -> str:
  """Returns the value of a flag; raises `UsageError` if it is not given."""
  value = values[name].value
  if not value:
    raise UsageError(f"--{name} is missing: add --{name}={example}")
  return value


def keep_compiled_programs() -> None:
  """Turns on JAX's compilation cache (before JAX is imported), unless the
  environment says where; a small run compiles longer than it trains."""
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.home() / "jax"))


def _define_config(values: flags.FlagValues, argv: list[str]) -> list[str]:
  """Adds `--config` and its overrides; returns `argv` without `--config`."""
  text, rest = None, []
  queue = iter(argv)
  for arg in queue:
    name, equals, value = arg.partition("=")
    if name in ("--config", "-config"):
      text = value if equals else next(queue, "")
    else:
      rest.append(arg)
  matches = [re.match(r"--?(?:no)?config\.([^=]+)", arg) for arg in rest]
  overrides = [match[1] for match in matches if match]
  if text is None:
    if overrides:
      raise UsageError(
        f"--config.{overrides[0]} needs --config=NAME to override"
      )
    flags.DEFINE_string("config", None, "", flag_values=values)
    return rest
  config = registry.load_config(text)
  for path in overrides:
    _require_field(config, path)
  config_flags.DEFINE_config_dict(
    "config", config, flag_values=values, lock_config=True, sys_argv=rest
  )
  return rest


def _require_field(config: ConfigDict, path: str) -> None:
  """Raises `UsageError` unless `config` has the field "a.b" of `path`."""
  node, done = config, ""
  for key in path.split("."):
    if not isinstance(node, ConfigDict):
      raise UsageError(f"unknown field {path}: {done[:-1]} has no fields")
    if key not in node:
      raise UsageError(
        f"unknown field {done}{key}{registry.suggest(key, node)}"
      )
    node, done = node[key], f"{done}{key}."


def _help(command: Command, program: str, values: flags.FlagValues) -> str:
  example = f"  {program} {command.example}".rstrip()
  about = sys.modules[command.run.__module__].__doc__
  lines = [about or "", "", "Example:", example, "", "Flags:"]
  if command.takes_config:
    lines += [
      "  --config=NAME:ARG    an experiment, or its file: see `mattt list`",
      "  --config.a.b=VALUE   sets a field of it",
    ]
  for name in sorted(values):
    shown = f"--[no]{name}" if values[name].boolean else f"--{name}=..."
    lines.append(f"  {shown:<20} {values[name].help}")
  return "\n".join(lines)
