"""Several systems on one task, under one budget, in one table.

Each system is trained in OUT/<system>/<seed> (with `each`: OUT/<system>/
<name=value>/<seed>; finished runs are not repeated, broken ones go on) and
evaluated by context length; also with the inner loop off, and with the memory
off, at the training length.
"""

import collections
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax import systems
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes
from mattt_jax.evaluation import final
from mattt_jax.learners import build
from mattt_jax.planning import cost_model
from mattt_jax.registry import load_config
from mattt_jax.report import guess, tables
from mattt_jax.sweeps import rows as rows_lib
from mattt_jax.sweeps.sweep import config_hash
from mattt_jax.tasks import batches
from mattt_jax.training import load, trainer
from mattt_jax.ttt.inner_loop import Learner
from mattt_jax.ttt.meta_loss import read_batch

ROWS_FILE, TABLE_FILE = "compare.jsonl", "compare.md"


def expand(names: Sequence[str]) -> list[str]:
  """The systems meant: "2x2:MEMORY" is TTT on or off x memory on or off.

  Raises:
    ValueError: an unknown name, or none.
  """
  found: list[str] = []
  for name in names:
    square, _, memory = name.partition(":")
    if square == "2x2" and memory:
      found += ["swa", "ttt", f"swa_{memory}", f"ttt_{memory}"]
    else:
      found.append(name)
  config_lib.require(bool(found), "systems is empty: name at least one")
  for name in found:
    systems.require_known(name)
  return list(dict.fromkeys(found))


def compare(
  task: str,
  names: Sequence[str],
  seeds: Sequence[int],
  out: pathlib.Path,
  *,
  arg: str = "",
  each: str = "",
  steps: int = 0,
) -> list[dict[str, Any]]:
  """Trains and measures; writes compare.jsonl and compare.md in `out`.

  Args:
    task: an experiment file's name ("recall", "rule").
    names: of systems, or "2x2:MEMORY".
    seeds: each system is trained once with each.
    out: directory.
    arg: more arguments of the experiment ("hard").
    each: "NAME:V1,V2": each system is trained once with each of these values of
      one more argument of the experiment.
    steps: outer steps of each; 0: as the experiment says.

  Returns:
    A row for each system, value and seed.

  Raises:
    ValueError: an unknown name, or settings that do not fit; all are checked
      before anything is trained.
  """
  runs = []
  for name, variant, seed in itertools.product(
    expand(names), _variants(each), seeds
  ):
    about = {"task": task, "system": name, "variant": variant, "seed": seed}
    parts = [arg, variant, f"system={name}", f"seed={seed}"]
    parts += [f"steps={steps}"] * bool(steps)
    config = load_config(f"{task}:{','.join(filter(None, parts))}")
    runs.append((about, config_lib.from_config_dict(config)))
  rows = []
  for about, experiment in runs:
    print(f"\n== {_label(about)}, seed {about['seed']}", flush=True)
    rows.append(_measure(about, experiment, out))
    # After each run: an interruption loses none.
    (out / ROWS_FILE).write_text("".join(json.dumps(r) + "\n" for r in rows))
    (out / TABLE_FILE).write_text(table(rows) + "\n")
  return rows


def _variants(each: str) -> list[str]:
  """ "how:a,b" as ["how=a", "how=b"], and [""] for nothing."""
  name, colon, values = each.partition(":")
  config_lib.require(
    bool(name and values) or not each,
    f"each={each!r} must be NAME:VALUE,VALUE, an argument of the experiment",
  )
  return [f"{name}={value}" for value in values.split(",")] if colon else [""]


def _label(row: Mapping[str, Any]) -> str:
  return " ".join(filter(None, [row["system"], row["variant"]]))


def _measure(
  about: dict[str, Any], experiment: Experiment, out: pathlib.Path
) -> dict[str, Any]:
  parts = about["system"], about["variant"], str(about["seed"])
  workdir = out.joinpath(*filter(None, parts))
  done = workdir / "compare.json"
  config = config_lib.to_dict(experiment)
  digest = config_hash(config)
  if done.exists():
    row = json.loads(done.read_text())
    if row["config_hash"] == digest:
      return row
  mesh = meshes.make_mesh(1)
  result = trainer.train(experiment, workdir, mesh=mesh)
  learner, step = load.load_learner(experiment, workdir)
  found = result["evaluation"]
  row = {
    **about,
    "config_hash": digest,
    "commit": rows_lib.commit(),
    "step": step,
    "parameters": found["parameters"],
    "flops_per_token": flops_per_token(experiment, learner),
    "train_tokens_per_second": result["train"].get("tokens_per_second"),
    "state_bytes": found["state_bytes"],
    "lengths": found["lengths"],
    "switched_off": final.without_each_part(
      experiment, learner, build.make_task(experiment), step=step
    ),
    "config": config,
  }
  text = json.dumps(row)
  done.write_text(text + "\n")
  return json.loads(text)  # as it will be read back


def flops_per_token(experiment: Experiment, learner: Learner) -> float:
  """Matrix-product FLOPs of reading a token of a training sequence, inner steps
  and memory included (nothing of the outer backward pass)."""
  task = build.make_task(experiment)
  batch = next(batches.eval_batches(task, "tune", experiment.length, 1, 1))
  graphdef, params = nnx.split(learner)

  def read(params, batch):
    inner = experiment.inner.enabled
    return read_batch(nnx.merge(graphdef, params), batch, inner=inner).loss_BxL

  return cost_model.matmul_flops(read, params, batch) / experiment.length


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Markdown: answers right, every token of them, by context length (mean over
  the seeds, with the lowest and highest if there are several), and what each
  system costs."""
  by_system = collections.defaultdict(list)
  for row in rows:
    by_system[_label(row)].append(row)
  lengths = sorted({n for row in rows for n in row["lengths"]}, key=int)
  longest = lengths[-1]
  head = [
    *(f"{n}" for n in lengths),
    "inner off",
    "memory off",
    "other loss",
    "parameters",
    f"state at {longest}, KiB",
    "kFLOP/token",
    "train tokens/s",
  ]
  task = rows[0]["config"]["task"]
  line = guess.share(task)
  cells = {}
  if line is not None:
    cells["guessing"] = [f"{line:.3f}"] * len(lengths) + ["-"] * 7
  for name, found in by_system.items():
    first = found[0]
    trained_at = str(first["config"]["length"])
    unlearned = guess.at_chance(
      [row["lengths"][trained_at] | {"task": task} for row in found]
    )

    def accuracy(pick, found=found):
      return tables.summary([pick(row)["answer_exact_match"] for row in found])

    cells[name] = [
      *(accuracy(lambda row, n=n: row["lengths"].get(n)) for n in lengths),
      *(
        accuracy(lambda row, part=part: row["switched_off"][part])
        if part in first["switched_off"]
        else "-"
        for part in ("inner", "memory")
      ),
      tables.summary([row["lengths"][longest]["other_loss"] for row in found]),
      f"{first['parameters']:,}",
      f"{sum(first['state_bytes'][longest].values()) / 1024:,.0f}",
      f"{first['flops_per_token'] / 1000:,.0f}",
      tables.summary([row["train_tokens_per_second"] for row in found], 0),
    ]
    if unlearned:
      said = f"not learned in {first['step']} steps"
      cells[name][: len(lengths) + 3] = [said] * len(lengths) + ["-"] * 3
  seeds = sorted({row["seed"] for row in rows})
  return "\n".join(
    [
      f"{rows[0]['task']}: answers right (every token of them) on the test "
      f"split by context length (tokens), {rows[0]['step']} outer steps, seeds "
      f'{", ".join(map(str, seeds))}. "Off" is at the training length; '
      '"other loss" is of the tokens that are not answers, at the longest.',
      "",
      *tables.markdown("system", head, cells),
    ]
  )
