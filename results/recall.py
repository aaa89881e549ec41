"""Draws recall.png and writes recall.md (a table) from recall.jsonl.

    python results/recall.py

Mean over the seeds; the interval is the lowest and the highest seed.
"""

import collections
import json
import pathlib
import statistics

from mattt_jax.scaling import plots, tables

HERE = pathlib.Path(__file__).parent
LABELS = {
  "swa": "sliding window",
  "ttt": "TTT alone",
  "swa_episodic": "window + episodic",
  "ttt_episodic": "TTT + episodic",
}
MEASURES = {
  "answer_accuracy": "Answer accuracy",
  "other_loss": "Loss on the tokens that are not answers (nats)",
}


def main() -> None:
  """Reads, draws, writes."""
  rows = [json.loads(x) for x in (HERE / "recall.jsonl").open()]
  by_system = collections.defaultdict(list)
  for row in rows:
    by_system[row["run"].split("/")[0]].append(row)

  def values(system, length, measure):
    return [
      row["evaluation"]["lengths"][length][measure] for row in by_system[system]
    ]

  systems = [s for s in LABELS if s in by_system]
  lengths = sorted(rows[0]["evaluation"]["lengths"], key=int)
  text = []
  for measure, title in MEASURES.items():
    text += [f"{title}, mean [lowest, highest] of the seeds:", ""]
    cells = {
      LABELS[system]: [
        tables.mean_and_range(values(system, length, measure))
        for length in lengths
      ]
      for system in systems
    }
    text += tables.markdown("system", lengths, cells)
    text += [""]
  seeds = sorted({row["seed"] for row in rows})
  text += [f"Seeds {', '.join(map(str, seeds))}; `test` split; tokens of "
           "context above, trained at the shortest."]  # fmt: skip
  (HERE / "recall.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))

  def curve(system, pick):
    return [
      (int(n), pick(values(system, n, "answer_accuracy"))) for n in lengths
    ]

  plots.lines(
    HERE / "recall.png",
    {LABELS[s]: curve(s, statistics.mean) for s in systems},
    bands={
      LABELS[s]: [
        (min(v), max(v))
        for v in (values(s, n, "answer_accuracy") for n in lengths)
      ]
      for s in systems
    },
    x="context length (tokens; trained at 256)",
    y="answer accuracy",
    title="Associative recall, 80 % interference",
    log_x=True,
  )


if __name__ == "__main__":
  main()
