"""The runs of the experiments, compiled for the machines that they are for.

    python benchmarks/plan_experiments.py --out=results/plan/experiments
    python benchmarks/plan_experiments.py --out=results/plan/experiments \
      --only=size=760m,length=8192

Train step and evaluation step of each, as `mattt plan` compiles them: for one
CPU device or, of the published sizes, for the slice that `context_scaling.py`
names, which need not be there; that needs libtpu (`pip install
"mattt-jax[tpu]"`). Those are compiled with the least effort (`--quick`), 1 to 3
minutes of a core a run; what does not fit then, as a run would be (5 to 15
minutes more). Runs that differ in their seed alone are one program. OUT.jsonl
gets a row a program, OUT.md the table and how many are left (`--dry-run` lists
them); rows that are there are not made again. `books` is listed once its texts
are there (experiments/books.py says how).
"""

import argparse
import dataclasses
import importlib.metadata
import pathlib
import time
from collections.abc import Iterator

from mattt_jax import config, registry, systems
from mattt_jax.planning import topology
from mattt_jax.planning.topology import GIB
from mattt_jax.report import tables
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps import sweep

CPU, CPU_GIB = "cpu:1", 4.0  # what a run on a small machine may take
PACKAGES = ("jax", "libtpu")
SIZES = registry.load_experiment("context_scaling")[0].TOPOLOGY
MORE_SWEEPS = {
  "recall:hard": CPU,
  "retention:size=125m": SIZES["125m"][0],
  **{
    f"context_scaling:size={size},data=made": name
    for size, (name, _) in SIZES.items()
  },
}
# Runs with results whose experiments have no sweep.
_SQUARE = [f"system={name}" for name in systems.square("episodic")]
ALONE = {
  "rule": _SQUARE,
  "recall:easy": _SQUARE,
  "coordination": [
    f"how={how}" for how in registry.load_experiment("coordination")[0].HOW
  ],
  "student_records": [
    f"question={question},system={system}"
    for question in ("recall", "relation", "aggregate")
    for system in ("perk", "ttt_memory")
  ],
  "language_modeling": ["system=sliding_window", "system=ttt_e2e"],
  "any_task": [f"task={name}" for name in registry.names(config.TASKS)],
}
COLUMNS = ("machine", "sequences", "tokens", "train step, GiB",
           "evaluation, GiB", "of", "fits", "hours", "chip-hours",
           "commit")  # fmt: skip


def texts() -> Iterator[tuple[str, str]]:
  """The `--config` and the machine of every run that is listed."""
  for name, args in ALONE.items():
    for arg in args:
      yield f"{name}{',' if ':' in name else ':'}{arg}", CPU
  sweeps = [
    name
    for name in sorted(registry.experiments())
    if hasattr(registry.load_experiment(name)[0], "sweep")
    and (name != "books" or pathlib.Path("data/books.json").exists())
  ]
  for name, machine in (dict.fromkeys(sweeps, CPU) | MORE_SWEEPS).items():
    for run in sweep.runs(name):
      yield run.config, machine


def listed() -> Iterator[tuple[str, str, config.Experiment]]:
  """The runs of `texts` that differ in more than the seed, with settings."""
  seen = set()
  for text, machine in texts():
    experiment = config.from_config_dict(registry.load_config(text))
    key = dataclasses.replace(experiment, seed=0), machine
    if key not in seen:
      seen.add(key)
      yield text, machine, experiment


def row(text: str, machine: str, experiment: config.Experiment) -> dict:
  """The plan of one run, whether it fits or not."""
  from mattt_jax.planning import planner  # initialises JAX

  topo = topology.parse(machine)
  start = time.process_time()
  for quick in [True, False] if topo.chip else [False]:
    found = planner.plan(
      experiment,
      topo,
      usable_bytes=None if topo.chip else CPU_GIB * GIB,
      quick=quick,
    )
    if found["train"]["fits"] and found["evaluation"]["fits"]:
      break
  return {
    "config": text,
    "settings": config.to_dict(experiment),
    "command": f"mattt plan --config={text} --topology={machine}"
    + " --quick" * found["quick"],
    "commit": rows_lib.commit(),
    "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
    "cpu_seconds": round(time.process_time() - start, 1),
    **found,
  }


def line(text: str, machine: str, found: dict | None) -> tuple[str, ...]:
  """A row of the table; `found` None: not compiled yet."""
  if found is None:
    return (text, machine, *[""] * 5, "not compiled yet", "", "", "")
  train, evaluation = found["train"], found["evaluation"]
  # Estimates of training; none for a CPU, whose peak is not known.
  run = found["run"]
  hours = run["seconds"] and run["seconds"] / 3600
  return (
    text,
    machine,
    str(train["sequences"]),
    str(train["length"]),
    *(
      f"{p['peak_bytes'] / GIB:.2f}" if p["peak_bytes"] else p["compiler"]
      for p in (train, evaluation)
    ),
    f"{found['usable_bytes'] / GIB:.2f}",
    "yes" if train["fits"] and evaluation["fits"] else "no",
    *(f"{x:,.1f}" if x else "-" for x in (hours, run["chip_hours"])),
    found["commit"],
  )


def main() -> None:
  """Parses the command line, plans, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="", help="parts of a run, all of them")
  parser.add_argument("--dry-run", action="store_true", help="lists, no more")
  args = parser.parse_args()
  wanted = [part for part in args.only.split(",") if part]
  args.out.parent.mkdir(parents=True, exist_ok=True)
  path = args.out.with_suffix(".jsonl")
  have = {(r["config"], r["topology"]): r for r in rows_lib.read(path)}
  topology.prepare(topology.parse("v5e:4x4"))
  rows = []
  for text, machine, experiment in listed():
    key = text, machine
    if key in have and config.restore(have[key]["settings"]) != experiment:
      del have[key]  # of other settings
    asked = not args.dry_run and all(part in text for part in wanted)
    if asked and key not in have:
      have[key] = row(text, machine, experiment)
      rows_lib.add(have[key], path)
    rows.append(line(text, machine, have.get(key)))
    if asked or args.dry_run:
      print(*rows[-1], sep="  ", flush=True)
  if args.dry_run:
    return
  rows_lib.write([*have.values()], path)  # without rows of other settings
  compiled = {text: cells for text, *cells in rows if cells[-1]}
  args.out.with_suffix(".md").write_text(
    "\n".join(tables.markdown("run", COLUMNS, compiled))
    + f"\n\n{len(compiled)} of {len(rows)} programs are compiled. Hours are of "
    "training, at 30 % of the chips' peak.\n"
  )


if __name__ == "__main__":
  main()
