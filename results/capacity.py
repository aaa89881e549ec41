"""Hard recall along each of its axes, away from what was trained.

    make results && python results/capacity.py [SEED ...]

The models of runs/hard were trained on 768 tokens with 48 keys, values of 4
tokens and 16 overwritten bindings. Here they read, one axis at a time, 1x to
64x that length, 16 to 512 keys (a third as many bindings overwritten) and
values of 1 to 4 tokens. Writes capacity.jsonl (a row as soon as it is measured;
rows that are there are not measured again), of which notebooks/01_recall.ipynb
makes capacity.md and capacity.png. About 5 minutes a model.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from mattt_jax import config as config_lib
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.registry import load_config
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.tasks.associative_recall import Task
from mattt_jax.training import load

HERE = pathlib.Path(__file__).parent
ROWS_FILE = HERE / "capacity.jsonl"
SYSTEMS = ("ttt", "swa_episodic", "ttt_episodic", "ttt_memory_scheduled")
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
SEQUENCES, SEQUENCES_FAR = 8, 2  # the second beyond `FAR`


def measure(seeds: Sequence[int]) -> None:
  """One row a system, seed and point; a point may lie on several axes."""
  points = [point for axis in AXES.values() for point in axis]
  points = [p for i, p in enumerate(points) if p not in points[:i]]
  for seed in seeds:
    for system in SYSTEMS:
      about = {"system": system, "seed": seed}
      done = [
        {k: row[k] for k in TRAINED}
        for row in rows_lib.read(ROWS_FILE)
        if about.items() <= row.items()
      ]
      left = [point for point in points if point not in done]
      if left:
        _measure_model(about, left)


def _measure_model(about: dict, points: list[dict]) -> None:
  arg = f"recall:hard,system={about['system']},seed={about['seed']}"
  experiment = config_lib.from_config_dict(load_config(arg))
  workdir = HERE.parent / "runs" / "hard" / about["system"] / str(about["seed"])
  learner, step = load.load_learner(experiment, workdir)
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
      | {"step": step, "commit": rows_lib.commit()}
      | point
      | {k: found[k] for k in kept}
    )
    rows_lib.add(row, ROWS_FILE)
    print(row, flush=True)


def main() -> None:
  """Measures what is missing."""
  measure([int(seed) for seed in sys.argv[1:]] or SEEDS)


if __name__ == "__main__":
  main()
