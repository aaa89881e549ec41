"""Rows that an earlier version wrote, as today's code names and orders them.

`today` is applied to whatever is read, so that old files are understood; the
files of results/ were converted by `convert`:

    python -m mattt_jax.sweeps.labels results/*.jsonl

What was measured stays as it was, digit for digit.
"""

import json
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

from mattt_jax import config as config_lib
from mattt_jax import systems
from mattt_jax.sweeps.sweep import FIELD, hash_today

_IN_TEXT = re.compile(r"(?<=\bsystem=)\w+")


def name(system: str) -> str:
  """Today's name of a system."""
  return systems.RENAMED.get(system, system)


def variant(settings: Mapping[str, Any]) -> str:
  """What a sweep set besides system, seed and what is measured: "how=joint"."""
  left = {
    key: value
    for key, value in settings.items()
    if key not in ("system", "seed") and not key.startswith(f"{FIELD}eval.")
  }
  return " ".join(f"{key}={value}" for key, value in left.items())


def today(row: dict[str, Any]) -> dict[str, Any]:
  """A row under today's names and in the form that `mattt sweep` writes.

  Rows of systems, of sweeps, of collected runs ("run": "SYSTEM/SEED"), of
  `mattt compare` as it was ("switched_off"), of hard recall along its axes
  ("pairs", "value_length"), and of whatever has a text with
  `system=NAME` in "config" or "command"; others are returned as they are.
  """
  row = dict(row)
  for field in ("config", "command"):
    if isinstance(row.get(field), str):
      row[field] = _IN_TEXT.sub(lambda found: name(found[0]), row[field])
  if "switched_off" in row:
    return _compared(row)
  if "system" in row:
    row["system"] = name(row["system"])
  if "pairs" in row:  # as `mattt evaluate` names a task
    pairs, size = row.pop("pairs"), row.pop("value_length")
    row["task"] = (
      f"associative_recall:num_pairs={pairs},updates={pairs // 3},"
      f"value_length={size}"
    )
  for rule, share in row.pop("guessing", {}).items():
    row[f"guess_{rule}"] = share
  settings = row.get("settings")
  if isinstance(settings, dict) and "system" in settings:
    row["settings"] = settings | {"system": name(settings["system"])}
  if settings is None and "evaluation" in row and "/" in row.get("run", ""):
    system, *rest = row["run"].split("/")
    row["run"] = "/".join([name(system), *rest])
    row["settings"] = {"system": name(system), "seed": row["seed"]}
  return row


def _compared(row: dict[str, Any]) -> dict[str, Any]:
  """A row that `mattt compare` wrote when it trained by itself. It read each
  run without its parts, as `eval.parts_off` asks for."""
  config = config_lib.renamed(row["config"])
  config = {**config, "eval": {**config["eval"], "parts_off": True}}
  system, each = name(row["system"]), row["variant"]
  settings = {"system": system}
  if each:
    key, _, value = each.partition("=")
    settings[key] = value
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


def convert(path: pathlib.Path) -> int:
  """Rewrites a JSONL file's old rows; returns how many there were.

  Lines of rows that are as today stay byte for byte.
  """
  lines, changed = path.read_text().splitlines(keepends=True), 0
  for number, line in enumerate(lines):
    row = json.loads(line)
    if today(row) != row:
      lines[number] = json.dumps(today(row)) + "\n"
      changed += 1
  if changed:
    path.write_text("".join(lines))
  return changed


if __name__ == "__main__":
  for argument in sys.argv[1:]:
    print(f"{argument}: {convert(pathlib.Path(argument))} rows converted")
