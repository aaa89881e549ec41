"""Compiles a run for a TPU that one need not have: does it fit?"""

import json
import pathlib
from typing import Any

from absl import flags

from mattt_jax import config as config_lib
from mattt_jax.commands import launch
from mattt_jax.planning import topology
from mattt_jax.planning.topology import GIB

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def define(values: flags.FlagValues) -> None:
  """Adds the flags of `mattt plan`."""
  launch.strings(
    values,
    topology="v5e:4x4, 2*v5e:4x4 (slices), cpu:8; chips: "
    f"{', '.join(topology.CHIPS)}",
    search="batch or length: also find the largest that fits",
    json="file to write",
  )
  launch.floats(
    values,
    0.3,
    mfu="share of the peak FLOP/s that the model's FLOPs are assumed to reach, "
    "in (0, 1]",
  )
  launch.floats(
    values,
    memory="usable GiB of a device; default: what its compiler allows",
  )
  launch.booleans(
    values,
    False,
    quick="compile with the least effort: several times sooner, for programs "
    "that take up to 15 % more memory",
  )


def run(values: flags.FlagValues) -> None:
  """Prints, and writes if asked to, what a run needs on a machine."""
  launch.required(values, "config", "recall:tiny")
  machine = topology.parse(launch.required(values, "topology", "v5e:4x4"))
  if not 0 < values.mfu <= 1:
    raise launch.UsageError(f"--mfu={values.mfu} must lie in (0, 1]")
  if values.search not in (None, "batch", "length"):
    raise launch.UsageError(
      f"--search={values.search!r} must be batch or length"
    )
  if values.memory is not None and values.memory <= 0:
    raise launch.UsageError(f"--memory={values.memory} must be > 0 GiB")
  experiment = config_lib.from_config_dict(values.config)
  topology.prepare(machine)
  from mattt_jax.planning import planner

  def report(program):
    verdict = "fits" if program.fits else "does not fit"
    print(
      f"{program.sequences} x {program.length} tokens: {verdict} "
      f"({program.compile_seconds:.0f} s to compile)",
      flush=True,
    )

  plan = planner.plan(
    experiment,
    machine,
    mfu=values.mfu,
    search=values.search,
    usable_bytes=values.memory and values.memory * GIB,
    quick=values.quick,
    report=report,
  )
  print(text(plan))
  if values.json:
    path = pathlib.Path(values.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    plan["config"] = config_lib.to_dict(experiment)
    path.write_text(json.dumps(plan, indent=2) + "\n")
    print(f"Written to {path}")


def text(plan: dict[str, Any]) -> str:
  """A plan as text."""
  cost, step, search = plan["cost"], plan["step"], plan["search"]
  kinds = ", ".join(f"{n:,} {k}" for k, n in cost["parameters"].items())
  sizes = [f"{size(n)} {k}" for k, n in cost["state_bytes"].items() if n]
  heads = ("arguments", "temporaries", "peak", "compiled in")
  lines = [
    f"{plan['topology']}: {plan['chips']} chips, {plan['devices']} devices, "
    f"{size(plan['usable_bytes'])} usable a device",
    f"Parameters: {kinds}",
    f"State of a sequence: {', '.join(sizes) or 'none'}",
    "",
    f"{'of a device':<12}{'batch':>7}{'tokens':>9}"
    + "".join(f"{head:>13}" for head in heads),
  ]
  for name in ("train", "evaluation"):
    program = plan[name]
    if program is None:
      lines.append(f"{name:<12}batch_size is no multiple of the devices")
      continue
    used = [program[f"{k}_bytes"] for k in ("argument", "temporary", "peak")]
    verdict = {None: "memory not known", True: "fits", False: "does not fit"}
    lines.append(
      f"{name:<12}{program['sequences']:>7}{program['length']:>9}"
      + "".join(f"{size(n):>13}" for n in used)
      + f"{program['compile_seconds']:>11.0f} s  {verdict[program['fits']]}"
    )
    if program["compiler"]:
      lines.append(f"{'':<12}compiler: {program['compiler']}")
  predicted = plan["predicted"]
  if predicted is not None:
    largest = sorted(predicted, key=lambda k: -predicted[k])[:5]
    parts = ", ".join(f"{k} {size(predicted[k])}" for k in largest)
    peak = size(sum(predicted.values()))
    lines.append(f"Predicted peak of train: {peak} ({parts}, ...)")
  if search is not None:
    best = search["largest"] or "none"
    lines.append(f"Largest {search['of']} that fits: {best}")
  tokens = cost["tokens"]
  lines += [
    "",
    f"FLOPs a token: {cost['read_flops'] / tokens:,.0f} to read, "
    f"{cost['model_flops'] / tokens:,.0f} to train, "
    f"{cost['hardware_flops'] / tokens:,.0f} with what is computed again",
  ]
  if step is None:
    return "\n".join([*lines, "No peaks of this machine are known: no times"])
  roofline = f"{step['compute_seconds']:.3g} s of matrix products"
  if "memory_seconds" in step:
    roofline += f", {step['memory_seconds']:.3g} s to read its arguments and "
    roofline += "write its results"
  total = plan["run"]
  lines += [
    f"A step takes at least {step['at_least_seconds']:.3g} s (roofline: "
    f"{roofline})",
    f"At {total['mfu']:.0%} of the peak: {total['tokens_per_second']:,.0f} "
    f"tokens/s; {total['steps']} steps in {total['seconds'] / 3600:.3g} h, "
    f"{total['chip_hours']:.3g} chip hours",
  ]
  return "\n".join(lines)


def size(number: float | None) -> str:
  """Bytes, in a unit that suits them."""
  if number is None:
    return "-"
  unit = 0
  while number >= 1024 and unit < len(_UNITS) - 1:
    number, unit = number / 1024, unit + 1
  return f"{number:.4g} {_UNITS[unit]}"


COMMAND = launch.Command(
  example="--config=recall --topology=v5e:2x2 --search=batch --json=plan.json",
  run=run,
  define=define,
  takes_config=True,
)
