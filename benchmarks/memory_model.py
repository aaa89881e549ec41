"""Peak memory of small train steps on TPUs: predicted, and of the compiler.

    python benchmarks/memory_model.py --out=results/plan

Needs libtpu (`pip install "mattt-jax[tpu]"`), but no TPU. The shapes differ in
what the prediction (mattt_jax/planning/memory_model.py) has a term for: width,
vocabulary, length, chunk, window, levels of recomputation, sequences a device,
memory, mesh. OUT gets `small.jsonl`, a row a shape (one to two minutes of a
core each; rows that are there are not made again), and `small.md`, the table.
The published shapes are compared by benchmarks/plan.py. Factors were chosen on
its rows of the 125M model and of 3B with TTT alone at 8K, and on the first
seven of these; before, each new kind of row was up to 22 % off. The last three
were not looked at.
"""

import argparse
import importlib.metadata
import json
import pathlib
import time
from typing import Any

from mattt_jax import config, registry
from mattt_jax.planning import topology
from mattt_jax.planning.topology import GIB
from mattt_jax.report import tables
from mattt_jax.sweeps import rows as rows_lib

ROWS, TABLE = "small.jsonl", "small.md"

# Changes of `experiments/context_scaling.py:size=125m` for 4 chips.
_SMALL = dict(
  model__dim=512, model__num_layers=3, model__num_suffix=1, model__num_heads=8,
  model__mlp_dim=1024, model__fast_mlp_dim=1024, eval__batch_size=4,
)  # fmt: skip
_LONG = _SMALL | dict(
  length=16384, model__fast_mlp_dim=2048, model__window=1024, chunk=512,
  batch_size=4, train__micro_batch=0, task__num_fillers=7000,
)  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
  "large vocabulary": ("v5e:2x2", _SMALL | dict(length=8192, batch_size=8)),
  "two suffix blocks": (
    "v5e:2x2",
    _SMALL | dict(
      length=4096, model__dim=256, model__num_layers=4, model__num_suffix=2,
      model__num_heads=4, model__window=1024, chunk=512, batch_size=8,
    ),
  ),
  "32 chunks, one level": ("v5e:2x2", _LONG | dict(inner__remat_levels=1)),
  "32 chunks, two levels": ("v5e:2x2", _LONG | dict(inner__remat_levels=2)),
  "memory, four sequences": (
    "v5p:2x2x1",
    _LONG | dict(
      system="ttt_memory", length=8192, model__dim=256, model__num_heads=4,
      model__fast_mlp_dim=512, model__window=512, batch_size=16,
    ),
  ),
  "memory, 32 chunks": (
    "v6e:2x2",
    _LONG | dict(
      system="ttt_memory", model__dim=256, model__num_heads=4,
      model__fast_mlp_dim=1024, model__window=512,
    ),
  ),
  "fsdp": (
    "v5e:2x2",
    _SMALL | dict(
      length=4096, model__dim=768, model__num_layers=4, model__num_heads=12,
      model__fast_mlp_dim=1664, model__window=2048, batch_size=4,
      train__micro_batch=0, mesh__fsdp=4,
    ),
  ),
  "tensor and context": (
    "v6e:2x2",
    _SMALL | dict(
      length=4096, model__window=2048, batch_size=4, train__micro_batch=0,
      mesh__tensor=2, mesh__context=2,
    ),
  ),
  "eight sequences, short chunks": (
    "v6e:2x2",
    _SMALL | dict(
      length=2048, model__window=512, chunk=256, batch_size=32,
      train__micro_batch=0, task__num_fillers=30000,
    ),
  ),
  "wide fast weights": (
    "v5e:2x2",
    _SMALL | dict(
      length=4096, model__dim=1024, model__num_layers=4, model__num_suffix=2,
      model__num_heads=16, model__fast_mlp_dim=4096, model__window=512,
      chunk=512, batch_size=4, train__micro_batch=0, task__num_fillers=7000,
    ),
  ),
}  # fmt: skip


def experiment(name: str) -> config.Experiment:
  """The settings of a shape."""
  changes = dict(SHAPES[name][1])
  system = changes.pop("system", "ttt_e2e")
  made = registry.load_config(
    f"context_scaling:data=made,size=125m,chips=4,system={system}"
  )
  made.eval.lengths = ()
  made.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(made)


def row(name: str) -> dict[str, Any]:
  """The compiler's bytes of a shape."""
  from mattt_jax.planning import planner  # initialises JAX
  from mattt_jax.ttt.parts import parts_of

  made = experiment(name)
  machine = topology.parse(SHAPES[name][0])
  steps = planner.Steps(made, machine, None)
  start = time.process_time()
  program = steps.train(made.batch_size, made.length, parts_of(made))
  return {
    "name": name,
    "topology": machine.name,
    "changes": SHAPES[name][1],
    "versions": {p: importlib.metadata.version(p) for p in ("jax", "libtpu")},
    "cpu_seconds": time.process_time() - start,
    "argument_bytes": program.argument_bytes,
    "peak_bytes": program.peak_bytes,
    "compiler": program.compiler,
  }


def predicted(name: str) -> dict[str, int]:
  """The model's bytes of a shape, by term."""
  from mattt_jax.planning import memory_model

  devices = topology.parse(SHAPES[name][0]).num_devices
  return memory_model.predict(experiment(name), devices)


def table(rows: list[dict[str, Any]]) -> str:
  """The rows in Markdown."""
  columns = (
    "machine", "tokens", "chunk", "sequences a device", "arguments, GiB",
    "predicted peak", "compiler's peak", "off by",
  )  # fmt: skip
  cells = {}
  for r in rows:
    made, terms = experiment(r["name"]), predicted(r["name"])
    total, peak = sum(terms.values()), r["peak_bytes"]
    at_once = made.train.micro_batch or made.batch_size
    split = made.mesh.tensor * made.mesh.context
    cells[r["name"]] = [
      r["topology"],
      str(made.length),
      str(made.chunk),
      str(at_once * split // 4),
      *(f"{n / GIB:.3f}" for n in (r["argument_bytes"], total, peak)),
      f"{total / peak - 1:+.1%}",
    ]
  return "\n".join(tables.markdown("shape", columns, cells)) + "\n"


def main() -> None:
  """Parses the command line, compiles what is not there yet, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / ROWS
  rows = rows_lib.read(path)
  topology.prepare(topology.parse("v5e:2x2"))
  for name in SHAPES:
    if name in {r["name"] for r in rows}:
      continue
    rows.append(row(name))
    print(json.dumps(rows[-1]), flush=True)
    rows_lib.add(rows[-1], path)
  (args.out / TABLE).write_text(table(rows))


if __name__ == "__main__":
  main()
