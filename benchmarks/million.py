r"""A million tokens in one pass: resident memory and seconds a chunk.

    mattt train --config=recall:hard,system=ttt_e2e,seed=1 --workdir=runs/ttt
    python benchmarks/million.py --workdir=runs/ttt \
      --out=results/streaming.jsonl

TTT alone, trained on 768 tokens, reads one sequence of 2^20, with its state
carried from segment to segment. That state has a constant size, so that both
should be flat. Writes a row a segment, of which notebook 02 makes
streaming.png. About 3 minutes on one core, Linux only (/proc).
"""

import argparse
import dataclasses
import os
import pathlib
import time

import numpy as np

from mattt_jax import config as config_lib
from mattt_jax.evaluation.reader import Reader
from mattt_jax.learners import build
from mattt_jax.registry import load_config
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.training import load
from mattt_jax.ttt.tokens import tokens_of

LENGTH, SEGMENT = 2**20, 2**14


def resident_bytes() -> int:
  """Memory of this process that is in RAM."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE")


def measure(workdir: pathlib.Path) -> list[dict]:
  """One row a segment, of the run in `workdir`."""
  experiment = config_lib.from_config_dict(
    load_config("recall:hard,system=ttt_e2e,seed=1")
  )
  learner, _ = load.load_learner(experiment, workdir)
  experiment = dataclasses.replace(
    experiment, eval=dataclasses.replace(experiment.eval, segment=SEGMENT)
  )
  example = build.make_task(experiment).example("test", 0, LENGTH)
  batch = {key: np.asarray(array)[None] for key, array in example.items()}
  rows = []
  started = time.perf_counter()
  for out in Reader(learner, experiment).segments(tokens_of(batch)):
    now = time.perf_counter()
    rows.append(
      {
        "tokens": (len(rows) + 1) * SEGMENT,
        "seconds_a_chunk": (now - started) * experiment.chunk / SEGMENT,
        "resident_bytes": resident_bytes(),
        "loss": float(out.loss_BxL.mean()),
        "state_bytes": sum(learner.state_bytes(LENGTH).values()),
      }
    )
    print(rows[-1], flush=True)
    started = time.perf_counter()
  return rows


def main() -> None:
  """Measures and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  rows_lib.write(measure(args.workdir), args.out)


if __name__ == "__main__":
  main()
