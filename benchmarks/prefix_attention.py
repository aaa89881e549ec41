"""The prefix's attention on a TPU: the kernel against attention in blocks.

    python benchmarks/prefix_attention.py --out=results/prefix_attention.json

Needs libtpu (`pip install "mattt-jax[tpu]"`), but no TPU. One block's attention
over a window of 8192, bfloat16, read and differentiated once with its results
computed again, as the prefix does it; a sequence on each of four v5e chips.
Rows: the compiler's bytes, and FLOPs of matrix products on a chip. The kernel
does 2 products in each of two forward passes and 7 backward, for every pair of
blocks (queries, keys) with a visible pair of tokens. A minute of a core.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from report import write

from mattt_jax.devices import meshes, sharding
from mattt_jax.layers import attention, splash
from mattt_jax.planning import cost_model, topology

WINDOW = 8192
MACHINE = "v5e:2x2"
# Heads, their width, tokens, past: 125M, 125M in segments, 3B, 3B.
SHAPES = (
  (12, 64, 8192, 0),
  (12, 64, 8192, 8192),
  (32, 80, 8192, 0),
  (32, 80, 8192, 8192),
)
WAYS = {"splash": splash.attend, "banded": attention.attend}


def step(read, past: int, mesh):
  """(q, k, v, cotangent), each [B, H, ...], to output and gradients."""

  def one(q, k, v):
    # A stream that has filled the window.
    return read(q, k, v, past, WINDOW)

  def run(q, k, v, cotangent):
    with sharding.on(mesh):
      read_batch = jax.vmap(
        jax.checkpoint(one, prevent_cse=False), spmd_axis_name=sharding.BATCH
      )
      out, pull = jax.vjp(read_batch, q, k, v)
      return out, pull(cotangent)

  return run


def kernel_flops(heads: int, dim: int, tokens: int, past: int) -> float:
  """FLOPs of the kernel for one sequence."""
  block = splash.BLOCK
  first = np.arange(0, tokens, block)[:, None] + past  # a block's first query
  keys = np.arange(0, tokens + past, block)[None]
  seen = (keys < first + block) & (keys + block > first - WINDOW + 1)
  return 11 * 2.0 * heads * dim * block**2 * int(seen.sum())


def measure(heads: int, dim: int, tokens: int, past: int) -> list[dict]:
  """A row for each way."""
  machine = topology.parse(MACHINE)
  mesh = meshes.make_mesh(devices=topology.devices(machine))
  where, size = sharding.split_batch(mesh), sharding.batch_devices(mesh)
  short, long = (
    jax.ShapeDtypeStruct((size, heads, n, dim), jnp.bfloat16, sharding=where)
    for n in (tokens, past + tokens)
  )
  args = short, long, long, short
  rows = []
  for way, read in WAYS.items():
    run = step(read, past, mesh)
    start = time.process_time()
    found = jax.jit(run).lower(*args).compile().memory_analysis()
    flops = kernel_flops(heads, dim, tokens, past)
    if way == "banded":
      flops = cost_model.matmul_flops(run, *args) / size
    rows.append(
      {
        "way": way,
        "heads": heads,
        "head_dim": dim,
        "tokens": tokens,
        "past": past,
        "temporary_bytes": found.temp_size_in_bytes,
        "peak_bytes": found.peak_memory_in_bytes,
        "flops": flops,
        "compile_cpu_seconds": time.process_time() - start,
      }
    )
  splash_row, banded = rows
  for figure in ("temporary_bytes", "peak_bytes", "flops"):
    splash_row[f"{figure}_over_banded"] = splash_row[figure] / banded[figure]
  return rows


def main() -> None:
  """Parses the command line, compiles, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  topology.prepare(topology.parse(MACHINE))
  rows = []
  for shape in SHAPES:
    rows += measure(*shape)
    print(json.dumps(rows[-2]), json.dumps(rows[-1]), sep="\n", flush=True)
  write(args.out, machine_compiled_for=MACHINE, rows=rows)


if __name__ == "__main__":
  main()
