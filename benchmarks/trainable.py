"""An outer step that moves all parameters, or the later ones only, as JSON.

    taskset -c 0 python benchmarks/trainable.py --out=results/trainable.json

A size is sequences x tokens. The model is that of meta_step.py (6 blocks, of
which 2 hold fast weights, float32) with a pointer memory of all slots. `all` is
`train.trainable=("*",)`; `later` leaves embedding and prefix as they are. Steps
of both are run in turns, in one process, optimiser included.

Each row holds the medians over --repeats runs of wall seconds and of CPU
seconds of the process, the bytes of the step's arguments, temporaries and
optimiser state, FLOPs of its matrix products, and in `..._over_all` each of
these over the first row's of its size.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from flax import nnx
from meta_step import MODEL, VOCAB
from report import in_turns, write

from mattt_jax import config as config_lib
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.memory.base import tree_bytes
from mattt_jax.planning import cost_model
from mattt_jax.training import metrics, parameters
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.training.train_step import init_state, jit_train_step
from mattt_jax.ttt.parts import ALL

WAYS = {
  "all": parameters.ALL,
  "later": ("suffix/*", "final_norm/*", "pointer/*"),
}
COMPARED = ("cpu_seconds", "argument_bytes", "temp_bytes", "optimizer_bytes",
            "hardware_flops")  # fmt: skip


def settings(sequences: int, length: int, way: str) -> Experiment:
  """The experiment of a row."""
  tree = config_lib.template("associative_recall", "episodic")
  tree.update(length=length, chunk=128, batch_size=sequences)
  tree.model.update({k: getattr(MODEL, k) for k in (
    "dim", "num_layers", "num_suffix", "num_heads", "mlp_dim", "fast_mlp_dim",
  )}, window=256)  # fmt: skip
  tree.task.out_of_reach = False  # its content is not read
  tree.train.trainable = WAYS[way]
  return config_lib.from_config_dict(tree)


class Step:
  """A compiled step, and the state that it goes on from."""

  def __init__(self, experiment: Experiment):
    mesh = meshes.make_mesh(1)
    graphdef, params = nnx.split(build.build_learner(experiment, VOCAB))
    optimizer = make_optimizer(experiment.outer, experiment.train.steps)
    globs = experiment.train.trainable
    counts = metrics.parameter_counts(parameters.split(params, globs)[0])
    self.state = init_state(params, optimizer, mesh, globs)
    step = jit_train_step(graphdef, optimizer, experiment, self.state, mesh)
    shapes = build.abstract_batch(experiment.batch_size, experiment.length)
    rng = np.random.default_rng(0)
    batch = {k: np.ones(x.shape, x.dtype) for k, x in shapes.items()}
    for name in ("tokens", "targets"):
      batch[name] = rng.integers(0, VOCAB, batch[name].shape, dtype=np.int32)
    self.batch = sharding.put_batch(batch, mesh)
    start = time.perf_counter()
    self.compiled = step.lower(self.state, self.batch, ALL).compile()
    seconds = time.perf_counter() - start
    memory = self.compiled.memory_analysis()
    cost = cost_model.step_cost(experiment, VOCAB)
    self.about = {
      "compile_seconds": seconds,
      "parameters": sum(cost.parameters.values()),
      "trainable_parameters": sum(counts.values()),
      "optimizer_bytes": tree_bytes(self.state.opt_state),
      "argument_bytes": memory.argument_size_in_bytes,
      "temp_bytes": memory.temp_size_in_bytes,
      "hardware_flops": cost.hardware_flops,
    }

  def __call__(self, turn: int):
    del turn
    self.state, values = self.compiled(self.state, self.batch)
    return jax.block_until_ready((self.state, values))


def measure(sequences: int, length: int, repeats: int) -> list[dict]:
  """The rows of `sequences` of `length` tokens, one for each of `WAYS`."""
  steps = {way: Step(settings(sequences, length, way)) for way in WAYS}
  rows = []
  for way, (wall, cpu) in in_turns(steps, repeats).items():
    row = {
      "size": f"{sequences}x{length}",
      "way": way,
      "trainable": WAYS[way],
      "cpu_seconds": cpu,
      "wall_seconds": wall,
      **steps[way].about,
      "repeats": repeats,
    }
    first = rows[0] if rows else row
    rows.append(row | {f"{k}_over_all": row[k] / first[k] for k in COMPARED})
  return rows


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--sizes", default="4x1024,1x4096")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  try:
    sizes = [tuple(map(int, s.split("x"))) for s in args.sizes.split(",")]
    if any(len(s) != 2 or s[0] < 1 or s[1] % 128 for s in sizes):
      raise ValueError
  except ValueError:
    parser.error(
      f"--sizes={args.sizes}: expected SEQUENCESxTOKENS,... with TOKENS a "
      "multiple of 128, like 4x1024,1x4096"
    )
  rows = []
  for sequences, length in sizes:
    for row in measure(sequences, length, args.repeats):
      rows.append(row)
      print(json.dumps(row), flush=True)
    write(args.out, rows=rows)


if __name__ == "__main__":
  main()
