"""What each system costs, side by side: time, bytes, FLOPs a token.

    python benchmarks/systems.py --repeats=2 --out=results/systems.json

The models are those of experiments/retention.py (trained on 256 tokens),
untrained, float32. A row has

- `train_us`: microseconds of an outer step, by token of its batch, as the
  trainer runs it when most is on; `train_ratio`: over that of --base
  (sliding_window);
- `read_us`: of reading one sequence of 256 and of 4096 tokens, by token. What
  streams reads the second 256 tokens at a time, its state carried on; the
  others (`streams` false) read whole sequences only;
- `state_bytes` that a sequence of so many tokens carries, `parameters`,
  `flops_per_token` of reading (matrix products) and `temp_bytes` of the
  compiled outer step.

Times are medians of the CPU seconds of the process over --repeats turns; in a
turn every system is called once, so that a slow minute meets all. Most of the
time goes to compiling four programs a system: about 10 minutes on one core.
"""

import argparse
import functools
import pathlib

import jax
import numpy as np
from flax import nnx
from report import in_turns, write

from mattt_jax import config as config_lib
from mattt_jax.devices import meshes, sharding
from mattt_jax.evaluation.reader import Reader
from mattt_jax.learners import build
from mattt_jax.learners.build import build_learner
from mattt_jax.planning import cost_model
from mattt_jax.registry import load_config
from mattt_jax.sweeps import sweep
from mattt_jax.tasks import batches
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.training.train_step import init_state, jit_train_step
from mattt_jax.ttt.coordination import parts_on
from mattt_jax.ttt.parts import ALL
from mattt_jax.ttt.tokens import tokens_of

TIMES = (1, 16)  # the training length, to be read
KEPT = (1, 4, 16, 64)  # to know the bytes of the state of


class Measured:
  """A system, its outer step compiled."""

  def __init__(self, name: str):
    """`name`: a system of experiments/retention.py."""
    tree = load_config(f"retention:system={name}")
    tree.eval.segment = tree.length
    experiment = self.experiment = config_lib.from_config_dict(tree)
    task = build.make_task(experiment)
    learner = build_learner(experiment, task.vocab_size)
    length = experiment.length
    self.row = {
      "system": name,
      "streams": learner.streams,
      "train_tokens": experiment.batch_size * length,
      "parameters": sum(x.size for x in jax.tree.leaves(nnx.state(learner))),
      "flops_per_token": cost_model.flops_per_token(
        experiment, task.vocab_size
      ),
      "state_bytes": {
        n * length: sum(learner.state_bytes(n * length).values()) for n in KEPT
      },
    }
    self.texts = {n * length: _batch(task, n * length, 1) for n in TIMES}
    self.mesh = meshes.make_mesh(1)
    self.batch = sharding.put_whole_batch(
      _batch(task, length, experiment.batch_size), self.mesh
    )
    optimizer = make_optimizer(experiment.outer, experiment.train.steps)
    self.graphdef, params = nnx.split(learner)
    self.state = init_state(
      params, optimizer, self.mesh, experiment.train.trainable
    )
    steps = range(experiment.train.steps)
    kinds = {parts_on(experiment, step) for step in steps}
    self.step = (
      jit_train_step(
        self.graphdef, optimizer, experiment, self.state, self.mesh
      )
      .lower(self.state, self.batch, max(kinds, key=sum))
      .compile()
    )
    self.row["temp_bytes"] = self.step.memory_analysis().temp_size_in_bytes

  def train(self, turn: int):
    """Takes an outer step."""
    self.state, metrics = self.step(self.state, self.batch)
    return metrics

  def read(self, length: int, turn: int):
    """Reads one sequence, with all that the system has."""
    learner = self.graphdef, self.state.params
    reader = Reader(learner, self.experiment, self.mesh, ALL)
    return [*reader.segments(tokens_of(self.texts[length]))]


def _batch(task, length: int, sequences: int) -> dict[str, np.ndarray]:
  return next(batches.eval_batches(task, "tune", length, sequences, sequences))


def measure(names: list[str], repeats: int, base: str) -> list[dict]:
  """A row a system."""
  every = {}
  for name in names:
    every[name] = Measured(name)
    print(name, "compiled", flush=True)
  calls = {}
  for name, one in every.items():
    calls[name, "train"] = one.train
    for length in one.texts:
      calls[name, length] = functools.partial(one.read, length)
  micro = {key: 1e6 * cpu for key, (_, cpu) in in_turns(calls, repeats).items()}
  rows = []
  for name, one in every.items():
    per_token = micro[name, "train"] / one.row["train_tokens"]
    rows.append(
      one.row
      | {
        "train_us": per_token,
        "read_us": {n: micro[name, n] / n for n in one.texts},
        "repeats": repeats,
      }
    )
  base_us = next(row["train_us"] for row in rows if row["system"] == base)
  for row in rows:
    row["train_ratio"] = row["train_us"] / base_us
  return rows


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  runs = sweep.runs("retention")
  every = [*dict.fromkeys(run.settings["system"] for run in runs)]
  parser.add_argument("--systems", default=",".join(every))
  parser.add_argument("--base", default="sliding_window")
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  names = args.systems.split(",")
  for name in (*names, args.base):
    if name not in every:
      parser.error(f"{name!r} is none of {', '.join(every)}")
  if args.base not in names:
    parser.error(f"--systems={args.systems} lacks --base={args.base}")
  rows = measure(names, args.repeats, args.base)
  for row in rows:
    print(row, flush=True)
  write(args.out, base=args.base, rows=rows)


if __name__ == "__main__":
  main()
