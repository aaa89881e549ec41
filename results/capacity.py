"""More pairs than trained for: evaluates the runs of recall.jsonl again.

    make results && python results/capacity.py

The models were trained with 16 pairs; here they read 1024 tokens that hold 8
to 64 pairs (questions about 8 of them). Writes capacity.jsonl and capacity.md:
mean over the seeds, lowest and highest.
"""

import dataclasses
import json
import pathlib

from mattt_jax import config as config_lib
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.main import load_config
from mattt_jax.scaling import tables
from mattt_jax.tasks.associative_recall import Task
from mattt_jax.training import trainer

HERE = pathlib.Path(__file__).parent
LABELS = {
  "ttt": "TTT alone",
  "swa_episodic": "window + episodic",
  "ttt_episodic": "TTT + episodic",
}
PAIRS, SEEDS, LENGTH = (8, 16, 24, 32, 48, 64), (1, 2, 3), 1024


def measure() -> list[dict]:
  """One row a system, seed and number of pairs."""
  rows = []
  for system in LABELS:
    for seed in SEEDS:
      arg = f"recall:system={system},seed={seed}"
      experiment = config_lib.from_config_dict(load_config(arg))
      workdir = HERE.parent / "runs" / "recall" / system / str(seed)
      learner, step = trainer.load_learner(experiment, workdir)
      for pairs in PAIRS:
        task = dataclasses.replace(
          experiment.task, num_pairs=pairs, num_queries=8
        )
        result = evaluate(
          experiment, learner, Task(task, seed), "test", (LENGTH,)
        )
        found = result["lengths"][str(LENGTH)]
        rows.append(
          {
            "system": system,
            "seed": seed,
            "step": step,
            "pairs": pairs,
            "length": LENGTH,
            "answers": found["answers"],
            "answer_accuracy": found["answer_accuracy"],
          }
        )
        print(rows[-1], flush=True)
  return rows


def main() -> None:
  """Measures, draws, writes."""
  rows = measure()
  (HERE / "capacity.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )

  def values(system, pairs):
    return [
      row["answer_accuracy"]
      for row in rows
      if (row["system"], row["pairs"]) == (system, pairs)
    ]

  text = [
    f"Answer accuracy at {LENGTH} tokens by number of pairs (trained with 16), "
    "mean [lowest, highest] of seeds 1, 2, 3, `test` split:",
    "",
    *tables.markdown(
      "system",
      PAIRS,
      {
        label: [tables.mean_and_range(values(system, n)) for n in PAIRS]
        for system, label in LABELS.items()
      },
    ),
  ]
  (HERE / "capacity.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))


if __name__ == "__main__":
  main()
