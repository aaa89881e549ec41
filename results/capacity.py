"""Hard recall along each of its axes, away from what was trained.

    make results && python results/capacity.py [SEED ...]

The models of runs/hard were trained on 768 tokens with 48 keys, values of 4
tokens and 16 overwritten bindings. Here they read, one axis at a time, 1x to
64x that length, 16 to 512 keys (a third as many bindings overwritten) and
values of 1 to 4 tokens. Writes capacity.jsonl (a row as soon as it is measured;
rows that are there are not measured again), capacity.md and capacity.png. About
5 minutes a model.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence

from mattt_jax import config as config_lib
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.registry import load_config
from mattt_jax.scaling import collect, plots, tables
from mattt_jax.tasks.associative_recall import Task
from mattt_jax.training import trainer

HERE = pathlib.Path(__file__).parent
ROWS_FILE = HERE / "capacity.jsonl"
LABELS = {
  "ttt": "TTT alone",
  "swa_episodic": "window + episodic",
  "ttt_episodic": "TTT + episodic",
}
SEEDS = (1, 2, 3)
TRAINED = {"length": 768, "pairs": 48, "value_length": 4}
FAR = 16 * TRAINED["length"]  # where 512 keys have room
AXES = {
  "length": [TRAINED | {"length": 768 * n} for n in (1, 4, 16, 64)],
  "pairs": [TRAINED | {"length": FAR, "pairs": n} for n in (16, 48, 128, 512)],
  "value_length": [
    TRAINED | {"length": FAR, "value_length": n} for n in (1, 2, 4)
  ],
}
TITLES = {
  "length": "tokens of context (48 keys, values of 4 tokens)",
  "pairs": f"keys ({FAR} tokens of context, values of 4 tokens)",
  "value_length": f"tokens of a value ({FAR} tokens of context, 48 keys)",
}
SEQUENCES, SEQUENCES_FAR = 8, 2  # the second beyond `FAR`


def read_rows() -> list[dict]:
  """What has been measured."""
  if not ROWS_FILE.exists():
    return []
  return [json.loads(line) for line in ROWS_FILE.open()]


def measure(seeds: Sequence[int]) -> None:
  """One row a system, seed and point; a point may lie on several axes."""
  points = [point for axis in AXES.values() for point in axis]
  points = [p for i, p in enumerate(points) if p not in points[:i]]
  for seed in seeds:
    for system in LABELS:
      about = {"system": system, "seed": seed}
      done = [
        {k: row[k] for k in TRAINED}
        for row in read_rows()
        if about.items() <= row.items()
      ]
      left = [point for point in points if point not in done]
      if left:
        _measure_model(about, left)


def _measure_model(about: dict, points: list[dict]) -> None:
  arg = f"recall:hard,system={about['system']},seed={about['seed']}"
  experiment = config_lib.from_config_dict(load_config(arg))
  workdir = HERE.parent / "runs" / "hard" / about["system"] / str(about["seed"])
  learner, step = trainer.load_learner(experiment, workdir)
  for point in points:
    task = dataclasses.replace(
      experiment.task,
      num_pairs=point["pairs"],
      updates=point["pairs"] // 3,
      value_length=point["value_length"],
    )
    far = point["length"] > FAR
    sizes = dataclasses.replace(
      experiment.eval,
      sequences=SEQUENCES_FAR if far else SEQUENCES,
      batch_size=2 if far else 4,
    )
    result = evaluate(
      dataclasses.replace(experiment, eval=sizes),
      learner,
      Task(task, about["seed"]),
      "test",
      (point["length"],),
    )
    found = result["lengths"][str(point["length"])]
    kept = ("answers", "answer_accuracy", "answer_exact_match", "answer_loss",
            "other_loss", "diagnostics")  # fmt: skip
    row = (
      about
      | {"step": step, "commit": collect.commit()}
      | point
      | {k: found[k] for k in kept}
    )
    with ROWS_FILE.open("a") as file:
      file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def table(rows: list[dict], axis: str, measure: str) -> list[str]:
  """Mean over the seeds, lowest and highest, along one axis."""

  def values(system, point):
    wanted = {"system": system, **point}.items()
    return [row[measure] for row in rows if wanted <= row.items()]

  return tables.markdown(
    TITLES[axis],
    [point[axis] for point in AXES[axis]],
    {
      label: [tables.summary(values(system, p)) for p in AXES[axis]]
      for system, label in LABELS.items()
    },
  )


def main() -> None:
  """Measures what is missing, writes the tables."""
  measure([int(seed) for seed in sys.argv[1:]] or SEEDS)
  rows = read_rows()
  text = [
    "Answers right (every token of them), mean [lowest, highest] of seeds "
    f"{', '.join(map(str, SEEDS))}, `test` split:",
  ]
  for axis in AXES:
    text += ["", *table(rows, axis, "answer_exact_match")]
  text += ["", "Loss on the tokens that are not answers (nats):"]
  text += ["", *table(rows, "length", "other_loss")]
  (HERE / "capacity.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))
  draw(rows)


def draw(rows: list[dict]) -> None:
  """capacity.png: answers right by context length."""

  def found(system, point):
    wanted = {"system": system, **point}.items()
    return [r["answer_exact_match"] for r in rows if wanted <= r.items()]

  axis = AXES["length"]
  plots.lines(
    HERE / "capacity.png",
    {
      label: [(p["length"], statistics.mean(found(system, p))) for p in axis]
      for system, label in LABELS.items()
    },
    bands={
      label: [
        (min(values), max(values))
        for values in (found(system, p) for p in axis)
      ]
      for system, label in LABELS.items()
    },
    x="context length (tokens; trained at 768)",
    y="answers right",
    title="48 of 1024 keys, values of 4 tokens, 16 overwritten",
    log_x=True,
  )


if __name__ == "__main__":
  main()
