"""All benchmarks, small, and how they compare with a stored run.

    python benchmarks/run.py                 # or: make bench
    python benchmarks/run.py --store         # makes this run the stored one

Each benchmark runs in a process of its own and writes runs/bench/NAME.json.
It compares figures that another machine, or a busy one, gives too: bytes of
temporaries of compiled programs, and ratios of times measured in turns. The
report has each figure, the stored one (results/benchmarks.json) and their
ratio, and marks those that are more than --margin away. About 8 minutes on one
core.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
STORED = HERE.parent / "results" / "benchmarks.json"
ARGUMENTS = {
  "meta_step": ["--sizes=1x1024,4x1024,1x4096", "--repeats=3"],
  "trainable": ["--sizes=1x1024", "--repeats=3"],
  "memory_reads": ["--sizes=8192,65536", "--recall=8192"],
  "streaming": ["--systems=sliding_window,ttt_e2e,swa_episodic"],
  "head": ["--tokens=64"],
  "input_pipeline": [],
}


def figures(name: str, report: dict) -> dict[str, float]:
  """The figures of a report that are compared, by name."""
  rows = report.get("rows") or report.get("cost") or []
  found = {}

  def add(row: dict, label: str, *fields: str) -> None:
    for field in fields:
      if field in row:
        found[f"{name} {label}: {field}"] = row[field]

  for row in rows:
    match name:
      case "meta_step":
        add(row, f"{row['size']} {row.get('way', '')}", "temp_bytes")
      case "trainable" if row["way"] != "all":
        add(row, row["size"], *(k for k in row if k.endswith("_over_all")))
      case "memory_reads":
        label = f"{row['way']} of {row['slots']}"
        add(row, label, "temp_bytes", "exact_over_this")
      case "streaming":
        label = f"{row['system']} {row['of']}"
        add(row, label, "ratio", "temp_bytes_at_2^20")
      case "head":
        label = row["way"]
        add(row, label, "temp_bytes", "cpu_seconds_over_whole")
  for row in report.get("recall", []):
    label = f"{row['way']} of {row['slots']} {row['contents']} {row['noise']}"
    add(row, label, "planted")
  return found


def run(name: str, out: pathlib.Path) -> dict:
  """Runs a benchmark; returns its report.

  Raises:
    subprocess.CalledProcessError: it failed.
  """
  file = out / f"{name}.json"
  command = [sys.executable, HERE / f"{name}.py", f"--out={file}"]
  subprocess.run([*command, *ARGUMENTS[name]], check=True)
  return json.loads(file.read_text())


def compare(new: dict, stored: dict, margin: float) -> list[str]:
  """The lines of a table."""
  lines = [f"{'now':>12} {'stored':>12} {'ratio':>6}"]
  for label, value in new.items():
    before = stored.get(label)
    if before:
      ratio = value / before
      mark = " *" if abs(ratio - 1) > margin else ""
      lines.append(f"{value:12.6g} {before:12.6g} {ratio:6.2f}  {label}{mark}")
    else:
      lines.append(f"{value:12.6g} {'':12} {'':6}  {label} (new)")
  lines += [f"{'':12} {stored[k]:12.6g} {'':6}  {k} (gone)"
            for k in stored if k not in new]  # fmt: skip
  return lines


def main() -> None:
  """Parses the command line, runs, compares."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--only", help="names, separated by commas")
  parser.add_argument("--out", type=pathlib.Path, default="runs/bench")
  parser.add_argument("--margin", type=float, default=0.1)
  parser.add_argument("--store", action="store_true")
  args = parser.parse_args()
  names = args.only.split(",") if args.only else [*ARGUMENTS]
  for name in names:
    if name not in ARGUMENTS:
      parser.error(f"--only={args.only}: {name!r} is none of {[*ARGUMENTS]}")
  args.out.mkdir(parents=True, exist_ok=True)
  stored = json.loads(STORED.read_text()) if STORED.exists() else {}
  new, machines = {}, {}
  for name in names:
    report = run(name, args.out)
    machines = report["machine"]
    new |= figures(name, report)
  chosen = tuple(f"{name} " for name in names)
  before = stored.get("figures", {})
  same = {k: v for k, v in before.items() if k.startswith(chosen)}
  print("\n".join(compare(new, same, args.margin)))
  report = {"machine": machines, "figures": new}
  (args.out / "benchmarks.json").write_text(json.dumps(report, indent=2) + "\n")
  if args.store:
    rest = {k: v for k, v in before.items() if k not in same}
    report = {"machine": machines, "figures": rest | new}
    STORED.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
  main()
