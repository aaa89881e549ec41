"""Whole books: gathers what was evaluated.

    make books

Every run of runs/books/SYSTEM/SEED has an evaluate.jsonl (see Makefile). Writes
books.jsonl: its rows, and how often guessing without reading names the right
one (needs data/books); rows of runs that are not here stay.
notebooks/03_real_text.ipynb makes books.md and books.png of it.
"""

import functools
import json
import pathlib

from mattt_jax import config as config_lib
from mattt_jax.registry import load_config
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.tasks import name_cloze

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parent / "runs" / "books"
FILE = HERE / "books.jsonl"
SYSTEMS = ("sliding_window", "full_attention", "ttt_e2e", "swa_episodic",
           "ttt_memory", "ttt_memory_scheduled")  # fmt: skip
NAMES = "name_cloze"


def gather() -> list[dict]:
  """The rows of every run, with the settings that made them."""
  rows, at = [], rows_lib.commit()
  for system in SYSTEMS:
    for path in sorted((RUNS / system).glob("*/evaluate.jsonl")):
      settings = json.loads((path.parent / "config.json").read_text())
      for line in path.open():
        row = json.loads(line)
        row["workdir"] = f"runs/books/{system}/{path.parent.name}"
        rows.append({"system": system, "commit": at, **row})
        if row["task"].startswith(NAMES):
          asked = row["split"], row["length"], row["asked_sequences"]
          rows[-1]["guessing"] = guessing(*asked)
      rows[-1]["config"] = settings
  here = {row["workdir"] for row in rows}
  known = [row for row in rows_lib.read(FILE) if row["workdir"] not in here]
  return known + rows


@functools.cache
def guessing(split: str, length: int, sequences: int) -> dict:
  """How often guessing without reading is right in the same windows."""
  settings = load_config("books")
  settings.task = config_lib.entry("task", NAMES)
  settings.task.update(
    source="directory:data/books", tokenizer="data/books.json", beyond=256
  )
  experiment = config_lib.from_config_dict(settings)
  task = name_cloze.Task(experiment.task, 0)
  return task.guessing(split, length, sequences)


def main() -> None:
  """Gathers and writes."""
  rows = gather()
  rows_lib.write(rows, FILE)
  print(f"{len(rows)} rows -> {FILE.name}")


if __name__ == "__main__":
  main()
