r"""Collects finished runs into one JSONL file, a row a run.

    python -m mattt_jax.scaling.collect runs/recall --out=results/recall.jsonl

A row holds what is needed to make it again and to judge it: the settings and
their hash, the seed, the commit that was checked out when it was collected, the
last training metrics, and the evaluation.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
from typing import Any


def config_hash(config: dict[str, Any]) -> str:
  """The first 12 hex digits of the SHA-256 of the settings."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def commit() -> str:
  """The checkout's commit, with "-dirty" if it was changed, or "unknown"."""
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def collect(root: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of all finished runs below `root`, in order of their names.

  Raises:
    ValueError: there is none.
  """
  rows, at = [], commit()
  for path in sorted(root.glob("**/evaluation.json")):
    config = json.loads((path.parent / "config.json").read_text())
    result = json.loads(path.read_text())
    rows.append(
      {
        "run": str(path.parent.relative_to(root)),
        "config_hash": config_hash(config),
        "commit": at,
        "seed": config["seed"],
        "config": config,
        **result,
      }
    )
  if not rows:
    raise ValueError(f"{root} holds no finished run (evaluation.json)")
  return rows


def main() -> None:
  """Parses the command line and writes the file."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("root", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  try:
    rows = collect(args.root)
  except ValueError as error:
    parser.error(str(error))
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
  print(f"{len(rows)} runs -> {args.out}")


if __name__ == "__main__":
  main()
