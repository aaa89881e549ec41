"""The published shapes on TPUs, which need not be there: memory, FLOPs, bounds.

    python benchmarks/plan.py --out=results/plan
    python benchmarks/plan.py --out=results/plan --size=125m --full

Needs libtpu (`pip install "mattt-jax[tpu]"`). Each row is a train step and an
evaluation step of `experiments/context_scaling.py`, compiled for that machine
with the least effort (`mattt plan --quick`, about a minute of one core), or
with `--full` as a run would be (5 to 15 minutes): TTT-E2E, with and without an
episodic memory, 125M parameters at 8K tokens and 3B at 8K and 128K. OUT gets
`plan.jsonl`, one plan a line, and `plan.md`, the table. Rows that OUT has
already are not made again.
"""

import argparse
import importlib.metadata
import pathlib
import time
from typing import Any

from mattt_jax import config, registry
from mattt_jax.commands import plan
from mattt_jax.planning import topology
from mattt_jax.planning.topology import GIB
from mattt_jax.sweeps import rows as rows_lib

# Size, tokens: machines.
SHAPES = {
  ("125m", 8192): ("v5e:4x4", "v5p:2x2x4", "v6e:4x4"),
  ("3b", 8192): ("v5e:16x16", "v5p:4x4x8", "v6e:16x16"),
  ("3b", 131072): ("v5e:16x16", "v5p:4x4x8", "v6e:16x16"),
}
SYSTEMS = ("ttt_e2e", "ttt_memory")


def experiment(arg: str) -> config.Experiment:
  """Settings of `context_scaling`, with made-up tokens as data."""
  made = f"context_scaling:data=made,{arg}"
  return config.from_config_dict(registry.load_config(made))


def row(
  size: str, length: int, system: str, machine: topology.Topology, quick: bool
) -> dict[str, Any]:
  """The plan of one shape, whether it fits or not."""
  from mattt_jax.planning import planner  # initialises JAX

  chips = machine.num_devices
  arg = f"size={size},length={length},system={system},chips={chips}"
  start = time.process_time()
  found = planner.plan(experiment(arg), machine, quick=quick)
  return {
    "size": size,
    "length": length,
    "system": system,
    "command": f"mattt plan --config=experiments/context_scaling.py:data=made,"
    f"{arg} --topology={machine.name}" + " --quick" * quick,
    "commit": rows_lib.commit(),
    "versions": {p: importlib.metadata.version(p) for p in ("jax", "libtpu")},
    "cpu_seconds": time.process_time() - start,
    **found,
  }


def predicted(row: dict) -> dict[str, int]:
  """Bytes of the train step by term, without the compiler."""
  from mattt_jax.planning import memory_model

  made = experiment(
    f"size={row['size']},length={row['length']},system={row['system']},"
    f"chips={row['chips']}"
  )
  return memory_model.predict(made, row["devices"])


def table(rows: list[dict]) -> str:
  """The rows in Markdown."""
  lines = [
    "| model | tokens | system | machine | sequences | effort | peak, GiB "
    "| predicted | of | fits | step at least, s | 30 % MFU: tokens/s "
    "| chip-hours of the run |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
  ]
  shapes = list(SHAPES)
  for r in sorted(
    rows,
    key=lambda r: (
      shapes.index((r["size"], r["length"])), r["system"],
      SHAPES[r["size"], r["length"]].index(r["topology"]), not r["quick"],
    ),
  ):  # fmt: skip
    train, run = r["train"], r["run"]
    peak, expected = train["peak_bytes"], sum(predicted(r).values())
    needed = f"{peak / GIB:.1f}" if peak else train["compiler"]
    lines.append(
      f"| {r['size']} | {r['length']} | {r['system']} | {r['topology']} "
      f"| {train['sequences']} | {'least' if r['quick'] else 'full'} "
      f"| {needed} | {expected / GIB:.1f}"
      + (f" ({expected / peak - 1:+.0%})" if peak else "")
      + f" | {r['usable_bytes'] / GIB:.1f} "
      f"| {'yes' if train['fits'] else 'no'} "
      f"| {r['step']['at_least_seconds']:.2f} "
      f"| {run['tokens_per_second']:,.0f} | {run['chip_hours']:,.0f} |"
    )
  return "\n".join(lines) + "\n"


def main() -> None:
  """Parses the command line, plans, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=sorted({size for size, _ in SHAPES}))
  parser.add_argument("--full", action="store_true", help="with full effort")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / "plan.jsonl"
  rows = rows_lib.read(path)
  keys = "size", "length", "system", "topology", "quick"
  have = {tuple(r[key] for key in keys) for r in rows}
  topology.prepare(topology.parse("v5e:4x4"))
  for (size, length), names in SHAPES.items():
    if args.size not in (None, size):
      continue
    for system in SYSTEMS:
      for machine in map(topology.parse, names):
        about = size, length, system
        if (*about, machine.name, not args.full) in have:
          continue
        rows.append(row(*about, machine, quick=not args.full))
        print(f"{size} {length} {system}")
        print(plan.text(rows[-1]) + "\n", flush=True)
        rows_lib.add(rows[-1], path)
  (args.out / "plan.md").write_text(table(rows))


if __name__ == "__main__":
  main()
