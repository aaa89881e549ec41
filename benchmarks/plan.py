"""Plans for TPUs, which need not be there: memory, FLOPs, bounds, as JSON.

    python benchmarks/plan.py --sizes=tiny,125m --topologies=v5e:4x4 \\
      --out=FILE.json

Needs libtpu (`pip install "mattt-jax[tpu]"`). Sizes are TTT-E2E, with an
episodic memory if they end in "+memory":

tiny: width 128, 4 blocks of which 1 holds fast weights, chunk 128, window 256.
125m: width 768, 12 blocks, 3 with fast weights, chunk 1024, window 8192,
  vocabulary 128256 (the published shape), bfloat16 products.

One sequence a device, of --length tokens (default: 8 chunks). Compiling the
tiny size takes about a minute of one core, the other several.
"""

import argparse
import importlib.metadata
import json
import pathlib
import time

from mattt_jax import config, systems
from mattt_jax.scaling import plan_command, topology

SIZES = {
  "tiny": dict(dim=128, num_layers=4, num_suffix=1, num_heads=4, mlp_dim=352,
               fast_mlp_dim=352, window=256),
  "125m": dict(dim=768, num_layers=12, num_suffix=3, num_heads=12, mlp_dim=2048,
               fast_mlp_dim=2048, window=8192, dtype="bfloat16"),
}  # fmt: skip
CHUNK = {"tiny": 128, "125m": 1024}
VOCAB = {"tiny": 4096, "125m": 128256}


def experiment(
  name: str, sequences: int, length: int | None
) -> config.Experiment:
  """The experiment of a size; its task is made, of any vocabulary."""
  size, _, memory = name.partition("+")
  tree = config.template("mqar")
  tree.chunk = CHUNK[size]
  tree.length = length or 8 * tree.chunk
  tree.batch_size = tree.eval.batch_size = sequences
  tree.eval.segment = tree.length
  tree.model.update(SIZES[size])
  systems.apply(tree, "ttt_episodic" if memory else "ttt_e2e")
  tree.coordination.update(inner_start=0, inner_off_share=0.0, memory_start=0,
                           memory_off_share=0.0)  # fmt: skip
  task = tree.task
  task.num_fillers = VOCAB[size] - 1 - task.num_keys - task.num_values
  return config.from_config_dict(tree)


def main() -> None:
  """Parses the command line, plans, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--sizes", default="tiny")
  parser.add_argument("--topologies", default="v5e:2x2,v5p:2x2x1")
  parser.add_argument("--length", type=int)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  names = args.sizes.split(",")
  for name in names:
    if name.removesuffix("+memory") not in SIZES:
      parser.error(f"--sizes={args.sizes}: {name!r} is none of {list(SIZES)}")
  try:
    machines = [topology.parse(text) for text in args.topologies.split(",")]
  except ValueError as error:
    parser.error(str(error))
  topology.prepare(machines[0])
  from mattt_jax.scaling import planner

  rows = []
  for name in names:
    for machine in machines:
      start = time.process_time()
      settings = experiment(name, machine.num_devices, args.length)
      found = planner.plan(settings, machine)
      seconds = time.process_time() - start
      rows.append({"size": name, "cpu_seconds": seconds, **found})
      print(f"{name}\n{plan_command.text(found)}\n", flush=True)
      if args.out:
        versions = {p: importlib.metadata.version(p) for p in ("jax", "libtpu")}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"versions": versions, "rows": rows}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
  main()
