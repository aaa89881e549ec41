"""One outer step (meta loss and its gradient): time and memory, as JSON.

    python benchmarks/meta_step.py --sizes=4x1024,1x4096 --out=FILE.json
    python benchmarks/meta_step.py --ways=reverse:1,mixed:1:1,mixed:2,first:1

A size is sequences x tokens; a way is how inner gradients are differentiated
(`inner.differentiation`, or "first" order), `inner.remat_levels` and, if it is
not the whole batch, `train.micro_batch`. The model is float32, with a 256-token
vocabulary, width 128, 4 heads, MLPs of 352, 6 blocks of which 2 hold fast
weights, chunk 128 and window 256 (--chunk and --window say others), and without
an external memory (1.51 M parameters).

Each row holds the median over --repeats runs of the wall seconds and of the
CPU seconds of the whole process (all threads), the seconds to trace and
compile, and the compiled program's own figures: bytes of temporaries and the
peak.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from report import in_turns, write

from mattt_jax.config import InnerConfig, ModelConfig
from mattt_jax.memory import none
from mattt_jax.model.transformer import Transformer
from mattt_jax.training.train_step import accumulated_gradient
from mattt_jax.ttt.inner_loop import make_learner
from mattt_jax.ttt.meta_loss import meta_loss

VOCAB = 256
MODEL = ModelConfig(
  dim=128,
  num_layers=6,
  num_suffix=2,
  num_heads=4,
  mlp_dim=352,
  fast_mlp_dim=352,
)


WAYS = ("mixed", "reverse", "first")


def settings(way: str, levels: int) -> InnerConfig:
  """Settings of the inner loop."""
  if way == "first":
    return InnerConfig(second_order=False, remat_levels=levels)
  return InnerConfig(differentiation=way, remat_levels=levels)


def measure(
  sequences: int,
  length: int,
  repeats: int,
  way: str,
  levels: int,
  micro_batch: int = 0,
  *,
  chunk: int = 128,
  window: int = 256,
) -> dict:
  """One row: `sequences` of `length` tokens."""
  config = dataclasses.replace(MODEL, window=window)
  model = Transformer(config, VOCAB, none.Config(), chunk, nnx.Rngs(0))
  graphdef, params = nnx.split(
    make_learner(model, settings(way, levels), chunk)
  )
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, VOCAB, (sequences, length + 1), dtype=np.int32)
  ones = jnp.ones((sequences, length), jnp.float32)
  batch = {
    "tokens": jnp.asarray(tokens[:, :-1]),
    "targets": jnp.asarray(tokens[:, 1:]),
    "inner_weight": ones,
    "outer_weight": ones,
  }

  def step(params, batch):
    def loss(params, batch):
      learner = nnx.merge(graphdef, params)
      return meta_loss(learner, batch, reduction="chunks")[0], ((), ())

    return accumulated_gradient(loss, params, batch, micro_batch)

  start = time.perf_counter()
  compiled = jax.jit(step).lower(params, batch).compile()
  compile_seconds = time.perf_counter() - start
  ((wall, cpu),) = in_turns(
    {"": lambda turn: compiled(params, batch)}, repeats
  ).values()
  memory = compiled.memory_analysis()
  tokens_read = sequences * length
  return {
    "size": f"{sequences}x{length}",
    "chunk": chunk,
    "window": window,
    "way": way,
    "remat_levels": levels,
    "micro_batch": micro_batch,
    "sequences": sequences,
    "length_tokens": length,
    "cpu_seconds": cpu,
    "wall_seconds": wall,
    "cpu_microseconds_per_token": 1e6 * cpu / tokens_read,
    "compile_seconds": compile_seconds,
    "temp_bytes": memory.temp_size_in_bytes,
    "peak_bytes": memory.peak_memory_in_bytes,
    "repeats": repeats,
  }


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--sizes", default="4x1024,1x2048,1x4096,1x16384")
  default = InnerConfig()
  parser.add_argument(
    "--ways", default=f"{default.differentiation}:{default.remat_levels}"
  )
  parser.add_argument("--chunk", type=int, default=128)
  parser.add_argument("--window", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  try:
    sizes = [tuple(map(int, s.split("x"))) for s in args.sizes.split(",")]
    if any(len(s) != 2 or s[0] < 1 or s[1] % args.chunk for s in sizes):
      raise ValueError
  except ValueError:
    parser.error(
      f"--sizes={args.sizes}: expected SEQUENCESxTOKENS,... with TOKENS a "
      f"multiple of {args.chunk}, like 4x1024,1x4096"
    )
  ways = re.findall(rf"({'|'.join(WAYS)}):(-?\d+)(?::(\d+))?(?:,|$)", args.ways)
  if len(ways) != len(args.ways.split(",")):
    parser.error(
      f"--ways={args.ways}: expected WAY:LEVELS or WAY:LEVELS:MICRO_BATCH,... "
      f"with WAY one of {', '.join(WAYS)}, like mixed:2"
    )
  rows = []
  for (sequences, length), (way, levels, micro) in itertools.product(
    sizes, ways
  ):
    if int(micro or 0) >= sequences:
      continue
    row = measure(
      sequences, length, args.repeats, way, int(levels), int(micro or 0),
      chunk=args.chunk, window=args.window,
    )  # fmt: skip
    rows.append(row)
    print(json.dumps(row), flush=True)
    write(args.out, rows=rows)  # after each: a run of hours may be cut


if __name__ == "__main__":
  main()
