"""Dataclasses that accept no wrong name, type or value without saying so."""

import dataclasses
import sys
import types
import typing
from typing import Any

from mattt_jax import registry


def require(condition: bool, message: str) -> None:
  """Raises `ValueError(message)` unless `condition`."""
  if not condition:
    raise ValueError(message)


def require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises `ValueError` unless `value` is one of `choices`."""
  require(
    value in choices,
    f"{field}={value!r} is not known: use one of {', '.join(choices)}",
  )


def require_at_least(field: str, value: float, least: float) -> None:
  """Raises `ValueError` unless `value >= least` (nan fails)."""
  require(value >= least, f"{field}={value} must be at least {least}")


def require_positive(field: str, value: float) -> None:
  """Raises `ValueError` unless `value > 0` (nan fails)."""
  require(value > 0, f"{field}={value} must be positive")


def require_share(field: str, value: float) -> None:
  """Raises `ValueError` unless `0 <= value < 1`."""
  require(0 <= value < 1, f"{field}={value} must lie in [0, 1)")


def build(cls: Any, values: dict[str, Any], path: str) -> Any:
  """Makes the dataclass `cls` of `values`, strict in names and types.

  Args:
    cls: a dataclass; fields that are dataclasses take nested dicts.
    values: by field name; those with a default may be absent.
    path: in front of the field names in messages ("model.").

  Raises:
    ValueError: names the first field that is wrong, its value and the fix.
  """
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  arguments = {}
  for name, value in values.items():
    if name not in fields:
      raise ValueError(
        f"unknown field {path}{name}{registry.suggest(name, fields)}"
      )
    hint = hints[name]
    if dataclasses.is_dataclass(hint):
      require(
        isinstance(value, dict),
        f"{path}{name}={value!r} must be a ConfigDict of the fields of "
        f"{getattr(hint, '__name__', hint)}",
      )
      arguments[name] = build(hint, value, f"{path}{name}.")
    else:
      arguments[name] = _typed(hint, value, path + name)
  for name, field in fields.items():
    required = field.default is dataclasses.MISSING
    require(name in arguments or not required, f"missing field {path}{name}")
  return cls(**arguments)


def _typed(hint: Any, value: Any, path: str) -> Any:
  """Returns `value` as `hint`; only int -> float and list -> tuple convert."""
  origin = typing.get_origin(hint)
  if hint is Any:
    return value
  if origin in (typing.Union, types.UnionType):
    for option in typing.get_args(hint):
      try:
        return _typed(option, value, path)
      except ValueError:
        continue
  elif hint is type(None) and value is None:
    return None
  elif origin is tuple and isinstance(value, (tuple, list)):
    item, *rest = typing.get_args(hint)
    items = [item] * len(value) if rest == [Ellipsis] else [item, *rest]
    if len(items) == len(value):
      return tuple(
        _typed(h, v, f"{path}[{i}]")
        for i, (h, v) in enumerate(zip(items, value, strict=True))
      )
  elif hint is float and isinstance(value, (int, float)):
    if not isinstance(value, bool):
      fits = abs(value) <= sys.float_info.max  # false for nan too
      require(fits, f"{path}={value} must be a finite number")
      return float(value)
  elif hint in (int, str, bool) and type(value) is hint:
    return value
  expected = hint.__name__ if isinstance(hint, type) else str(hint)
  raise ValueError(
    f"{path}={value!r} has type {type(value).__name__}, expected {expected}"
  )
