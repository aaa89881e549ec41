"""What rules that link no two facts answer of bAbI's questions.

    python results/shortcuts.py

Of the stories that the runs of `experiments/reasoning.py` were asked about (the
same seeds and split), what `babi.Task.guessing` says. Runs from now on have it
in their own rows (`guess_RULE`); those of reasoning.jsonl are older. Writes
shortcuts.jsonl, which notebook 01 puts beside the models' answers.
"""

import pathlib

from mattt_jax import config as config_lib
from mattt_jax.registry import load_config
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.tasks import babi

HERE = pathlib.Path(__file__).parent
KINDS = ("qa1", "qa2", "qa3")
SEEDS = (1, 2, 3)


def main() -> None:
  """A row a task, seed and rule that answers any of it."""
  rows, commit = [], rows_lib.commit()
  for kind in KINDS:
    for seed in SEEDS:
      config = load_config(f"reasoning:task={kind},seed={seed}")
      experiment = config_lib.from_config_dict(config)
      assert isinstance(experiment.task, babi.Config)
      about = {"settings": {"task": kind}, "seed": seed}
      about |= {"length": experiment.length, "commit": commit}
      shares = babi.Task(experiment.task, seed).guessing(
        "test", experiment.length, experiment.eval.sequences
      )
      rows += [
        {"system": rule, **about, "answer_exact_match": share}
        for rule, share in shares.items()
        if share
      ]
  rows_lib.write(rows, HERE / "shortcuts.jsonl")


if __name__ == "__main__":
  main()
