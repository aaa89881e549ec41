"""Whole books: gathers what was evaluated, writes the table and the figure.

    make books

Every run of runs/books/SYSTEM/SEED has an evaluate.jsonl (see Makefile). Writes
books.jsonl (its rows), books.md and books.png (loss by position).
"""

import json
import pathlib
import statistics
from collections.abc import Sequence

from mattt_jax import config as config_lib
from mattt_jax.registry import load_config
from mattt_jax.scaling import collect, plots, tables
from mattt_jax.tasks import name_cloze

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parent / "runs" / "books"
LABELS = {
  "sliding_window": "sliding window",
  "full_attention": "full attention",
  "ttt_e2e": "TTT-E2E",
  "swa_episodic": "window + episodic",
  "ttt_memory": "TTT + episodic",
}
TEXT, NAMES = "language_modeling", "name_cloze"
SHORT, LONG = 2048, 32768


def gather() -> list[dict]:
  """The rows of every run, with the settings that made them."""
  rows, at = [], collect.commit()
  for system in LABELS:
    for path in sorted((RUNS / system).glob("*/evaluate.jsonl")):
      settings = json.loads((path.parent / "config.json").read_text())
      for line in path.open():
        row = json.loads(line)
        row["workdir"] = f"runs/books/{system}/{path.parent.name}"
        rows.append({"system": system, "commit": at, **row})
      rows[-1]["config"] = settings
  return rows


def values(
  rows: Sequence[dict], system: str, task: str, length: int, name: str
):
  """One measure of every seed."""
  return [
    row[name]
    for row in rows
    if (row["system"], row["task"].partition(":")[0], row["length"])
    == (system, task, length)
  ]


def positions(rows: Sequence[dict], system: str) -> list[tuple[int, list]]:
  """(middle of a bucket, loss of every seed) at `LONG` tokens."""
  by_seed = values(rows, system, TEXT, LONG, "by_position")
  return [
    ((buckets[0]["from"] + buckets[0]["to"]) // 2, [b["loss"] for b in buckets])
    for buckets in zip(*by_seed, strict=True)
  ]


def guesses(row: dict) -> dict[str, float | None]:
  """How often guessing without reading is right in the same windows."""
  settings = load_config("books")
  settings.task = config_lib.entry("task", NAMES)
  settings.task.update(
    source="directory:data/books", tokenizer="data/books.json", beyond=256
  )
  experiment = config_lib.from_config_dict(settings)
  task = name_cloze.Task(experiment.task, 0)
  return {"answers": row["answers"]} | task.guessing(
    row["split"], row["length"], row["asked_sequences"]
  )


def report(rows: Sequence[dict]) -> list[str]:
  """The lines of books.md."""

  def cells(system):
    def cell(task, length, name, digits=3):
      return tables.summary(values(rows, system, task, length, name), digits)

    state = values(rows, system, TEXT, LONG, "state_bytes")
    seconds = values(rows, system, TEXT, LONG, "seconds")
    return [
      cell(TEXT, SHORT, "loss"),
      cell(TEXT, LONG, "loss"),
      cell(TEXT, LONG, "answer_loss"),
      cell(TEXT, LONG, "other_loss"),
      cell(NAMES, SHORT, "answer_loss"),
      cell(NAMES, LONG, "answer_loss"),
      cell(NAMES, LONG, "answer_exact_match"),
      f"{sum(state[0].values()) / 1024:,.0f}",
      f"{statistics.mean(seconds):.0f}",
    ]

  columns = (
    f"loss at {SHORT}", f"at {LONG}", "distant repeats", "first occurrences",
    f"names at {SHORT}", f"names at {LONG}", f"names right at {LONG}",
    f"state at {LONG}, KiB", "seconds to read",
  )  # fmt: skip
  there = [s for s in LABELS if values(rows, s, TEXT, LONG, "loss")]
  seeds = sorted({row["seed"] for row in rows})
  name_row = next(
    r for r in rows if r["task"].startswith(NAMES) and r["length"] == LONG
  )
  guessed = ", ".join(
    f"{name} {value:.3f}" if isinstance(value, float) else f"{value} {name}"
    for name, value in guesses(name_row).items()
  )
  repeats = values(rows, there[0], TEXT, LONG, "answer_tokens")[0]
  return [
    "Pride and Prejudice, read from its beginning by models that were trained "
    f"on {SHORT} tokens of five other novels: loss in nats a token, mean "
    f"[lowest, highest] of seeds {', '.join(map(str, seeds))}.",
    "",
    *tables.markdown("system", columns, {LABELS[s]: cells(s) for s in there}),
    "",
    f"Distant repeats: {repeats} tokens that end an n-gram of 6 tokens, last "
    "seen more than 256 tokens ago, beyond what attention reaches (253; full "
    "attention: everything). Names: those last mentioned more than 256 tokens "
    "ago, their loss a token and how often all of their tokens are right; "
    f"without reading: {guessed}. Seconds include compilation. A single "
    "number is of seed 1 alone.",
  ]


def main() -> None:
  """Gathers, writes, draws."""
  rows = gather()
  (HERE / "books.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  text = report(rows)
  (HERE / "books.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))
  curves = {
    label: positions(rows, system)
    for system, label in LABELS.items()
    if values(rows, system, TEXT, LONG, "loss")
  }
  # Full attention fails beyond the length it was trained at: it would set the
  # scale.
  curves.pop(LABELS["full_attention"], None)
  plots.lines(
    HERE / "books.png",
    {k: [(x, statistics.mean(ys)) for x, ys in v] for k, v in curves.items()},
    bands={k: [(min(ys), max(ys)) for _, ys in v] for k, v in curves.items()},
    x="tokens of the book read before",
    y="loss (nats a token)",
    title="Pride and Prejudice",
  )


if __name__ == "__main__":
  main()
