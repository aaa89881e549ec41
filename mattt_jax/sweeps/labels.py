"""Rows that an earlier version wrote, as today's code names and orders them."""

import re
from collections.abc import Mapping
from typing import Any

from mattt_jax import config as config_lib
from mattt_jax import systems
from mattt_jax.sweeps.sweep import FIELD, hash_today

_IN_TEXT = re.compile(r"(?<=\bsystem=)\w+")


def _name(system: str) -> str:
  return systems.RENAMED.get(system, system)


def variant(settings: Mapping[str, Any]) -> str:
  """What a sweep set besides system, seed and what is measured: "how=joint"."""
  return " ".join(
    f"{key}={value}"
    for key, value in settings.items()
    if key not in ("system", "seed") and not key.startswith(f"{FIELD}eval.")
  )


def today(row: dict[str, Any]) -> dict[str, Any]:
  """Brings a row under today's names and into the form that `mattt sweep`
  writes; what was measured stays digit for digit.

  Rows of systems, of sweeps, of collected runs ("run": "SYSTEM/SEED"), of
  `mattt compare` as it was ("switched_off"), of hard recall along its axes
  ("pairs", "value_length"), and with `system=NAME` in "config" or "command".
  """
  row = dict(row)
  for field in ("config", "command"):
    if isinstance(row.get(field), str):
      row[field] = _IN_TEXT.sub(lambda match: _name(match[0]), row[field])
  if "switched_off" in row:
    return _compared(row)
  if "system" in row:
    row["system"] = _name(row["system"])
  if "pairs" in row:  # as `mattt evaluate` names a task
    pairs, size = row.pop("pairs"), row.pop("value_length")
    lengths = f"updates={pairs // 3},value_length={size}"
    row["task"] = f"associative_recall:num_pairs={pairs},{lengths}"
  for rule, share in row.pop("guessing", {}).items():
    row[f"guess_{rule}"] = share
  settings = row.get("settings")
  if isinstance(settings, dict) and "system" in settings:
    row["settings"] = settings | {"system": _name(settings["system"])}
  if settings is None and "evaluation" in row and "/" in row.get("run", ""):
    system, *rest = row["run"].split("/")
    row["run"] = "/".join([_name(system), *rest])
    row["settings"] = {"system": _name(system), "seed": row["seed"]}
  return row


def _compared(row: dict[str, Any]) -> dict[str, Any]:
  """Converts a row of `mattt compare` from when it trained by itself, and read
  each run without its parts, as `eval.parts_off` asks for."""
  config = config_lib.renamed(row["config"])
  config = {**config, "eval": {**config["eval"], "parts_off": True}}
  system, each = _name(row["system"]), row["variant"]
  settings = {"system": system}
  if each:
    settings |= [each.split("=", 1)]
  return {
    "run": "/".join(filter(None, [system, each, str(row["seed"])])),
    "config_hash": hash_today(config) or row["config_hash"],
    "commit": row["commit"],
    "seed": row["seed"],
    "settings": settings | {"seed": row["seed"]},
    "config": config,
    "step": row["step"],
    "train": {"tokens_per_second": row["train_tokens_per_second"]},
    "flops_per_token": row["flops_per_token"],
    "evaluation": {
      "lengths": row["lengths"],
      "parameters": row["parameters"],
      "state_bytes": row["state_bytes"],
      "parts_off": row["switched_off"],
      "tasks": {},
    },
  }
