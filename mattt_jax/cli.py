"""The command `mattt`; `COMMANDS` says what it does."""

import dataclasses
import difflib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

import mattt_jax
from mattt_jax import config as config_lib
from mattt_jax import main as main_lib
from mattt_jax import registry, systems
from mattt_jax.data import prepare, sources, tokenizer
from mattt_jax.main import Command, UsageError, launch
from mattt_jax.scaling.plan_command import PLAN
from mattt_jax.scaling.plot_command import PLOT
from mattt_jax.scaling.sweep_command import SWEEP


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the subcommand that `argv` names; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv:
    print(_overview(), file=sys.stderr)
    return 2
  name, *rest = argv
  if name in ("help", "--help", "-h"):
    if rest and rest[0] in COMMANDS:
      return launch(COMMANDS[rest[0]], f"mattt {rest[0]}", ["--help"])
    print(_overview())
    return 0
  if name == "--version":
    print(mattt_jax.__version__)
    return 0
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    print(
      f"mattt: error: unknown command {name!r}{hint}\n\n{_overview()}",
      file=sys.stderr,
    )
    return 2
  return launch(COMMANDS[name], f"mattt {name}", rest)


def _overview() -> str:
  lines = ["Memory-augmented test-time training.", "", "Commands:"]
  lines += [f"  mattt {name:<9} {c.about}" for name, c in COMMANDS.items()]
  return "\n".join(
    [*lines, "", "Example:", f"  mattt train {main_lib.TRAIN.example}", ""]
    + ["mattt COMMAND --help shows its flags."]
  )


def _define_run(values: flags.FlagValues) -> None:
  main_lib.define_workdir(values)
  flags.DEFINE_bool(
    "best", False, "the checkpoint of the lowest loss on the tuning split "
    "(train.keep_best), not the newest",
    flag_values=values,
  )  # fmt: skip


def _define_export(values: flags.FlagValues) -> None:
  _define_run(values)
  flags.DEFINE_string("out", None, "a new directory", flag_values=values)


def _define_evaluate(values: flags.FlagValues) -> None:
  _define_run(values)
  flags.DEFINE_string(
    "lengths", "", "context lengths in tokens, or times the trained one: "
    "512,4x,64x; default: eval.lengths", flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "tasks", "", "NAME or NAME:field=value,field=value; several with ';'; "
    "default: the trained task", flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "split", "test", "train, tune or test", flag_values=values
  )
  flags.DEFINE_bool(
    "inner", None, "read with the inner loop on; default: eval.inner",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "memory", None, "read with the memory on; default: eval.memory",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "sequences", None, "at each length; default: eval.sequences",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "out", None, "JSONL to add rows to, one for each task and length that it "
    "has none of; default: WORKDIR/evaluate.jsonl",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "answers", "forced", "how answers are scored: forced (token by token), "
    "choice (among candidates, by loss), written; a,b", flag_values=values,
  )  # fmt: skip


def _settings(values: flags.FlagValues) -> tuple[dict, config_lib.Experiment]:
  """The settings of the run in --workdir, or what --config says they are."""
  from mattt_jax.training import workdir as workdir_lib

  if values.config:
    given = config_lib.from_config_dict(values.config)
    return config_lib.to_dict(given), given
  tree = workdir_lib.read_config(values.workdir)
  own = workdir_lib.with_own_tokenizer(tree, values.workdir)
  return tree, config_lib.from_config_dict(ConfigDict(own))


def _evaluate(values: flags.FlagValues) -> None:
  workdir = main_lib.required(values, "workdir", "runs/recall")
  parse_lengths(values.lengths, 1)  # mistakes before anything is loaded
  main_lib.keep_compiled_programs()
  from mattt_jax.evaluation import suite
  from mattt_jax.scaling.sweep import config_hash
  from mattt_jax.training import trainer

  tree, trained = _settings(values)
  if values.inner and not trained.inner.enabled:
    raise UsageError("--inner: this experiment has inner.enabled=False")
  if values.memory and trained.memory.read is None:
    raise UsageError("--memory: this experiment has no memory")
  lengths = parse_lengths(values.lengths, trained.length)
  lengths = lengths or trained.eval.lengths or (trained.length,)
  experiment = trained
  if values.sequences is not None:
    experiment = dataclasses.replace(
      trained,
      eval=dataclasses.replace(trained.eval, sequences=values.sequences),
    )
  learner, step = trainer.load_learner(trained, workdir, best=values.best)
  out = pathlib.Path(values.out or pathlib.Path(workdir) / "evaluate.jsonl")
  rows = suite.run(
    experiment,
    learner,
    [t.strip() for t in (values.tasks or tree["task"]["name"]).split(";")],
    lengths,
    out,
    {
      "workdir": str(workdir),
      "config_hash": config_hash(tree),
      "seed": trained.seed,
      "step": step,
    },
    split=values.split,
    inner=values.inner,
    memory=values.memory,
    step=step,
    kinds=values.answers.split(","),
  )
  print(suite.table(rows))
  print(f"Rows are in {out}")


def _export(values: flags.FlagValues) -> None:
  workdir = main_lib.required(values, "workdir", "runs/recall")
  out = main_lib.required(values, "out", "exported")
  from flax import nnx

  from mattt_jax.training import export, trainer

  _, trained = _settings(values)
  learner, step = trainer.load_learner(trained, workdir, best=values.best)
  path = export.write(workdir, nnx.split(learner)[1], step, out)
  print(f"The parameters of step {step} are in {path}")
  print(f"mattt evaluate --workdir={out} reads them")


def parse_lengths(text: str, trained: int) -> tuple[int, ...]:
  """ "256,4x" as tokens; "4x" is four times the `trained` length.

  Raises:
    UsageError: a part that is no number of tokens.
  """
  lengths = []
  for part in filter(None, text.split(",")):
    number, times, rest = part.partition("x")
    if not number.isdecimal() or rest:
      raise UsageError(
        f"--lengths={text!r}: {part!r} must be a number of tokens (4096), or "
        "of training lengths (4x)"
      )
    lengths.append(int(number) * (trained if times else 1))
  return tuple(lengths)


def _parse_numbers(flag: str, text: str | None) -> tuple[int, ...]:
  try:
    return tuple(int(part) for part in (text or "").split(",") if part)
  except ValueError:
    raise UsageError(
      f"--{flag}={text!r} must be whole numbers, as --{flag}=256,512"
    ) from None


def _define_compare(values: flags.FlagValues) -> None:
  for name, default, about in (
    ("task", "recall", "an experiment: recall, rule"),
    ("systems", None, "names of `mattt list`, or 2x2:MEMORY; a,b,c"),
    ("seeds", "0", "0,1,2"),
    ("arg", "", "more arguments of the experiment: tiny, hard"),
    ("each", "", "an argument and its values, a run for each: how:joint,first"),
    ("out", "runs/compare", "directory of the runs and the table"),
  ):
    flags.DEFINE_string(name, default, about, flag_values=values)
  flags.DEFINE_integer(
    "steps", 0, "outer steps of each; 0: as the experiment says",
    lower_bound=0, flag_values=values,
  )  # fmt: skip


def _compare(values: flags.FlagValues) -> None:
  names = main_lib.required(values, "systems", "2x2:episodic").split(",")
  seeds = _parse_numbers("seeds", values.seeds)
  main_lib.keep_compiled_programs()
  from mattt_jax.scaling import compare

  out = pathlib.Path(values.out)
  rows = compare.compare(
    values.task,
    names,
    seeds,
    out,
    arg=values.arg,
    each=values.each,
    steps=values.steps,
  )
  print(f"\n{compare.table(rows)}\n\nRows and table are in {out}/")


def _define_demo(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "out", "runs/demo", "directory for results and plots", flag_values=values
  )


def _demo(values: flags.FlagValues) -> None:
  out = main_lib.required(values, "out", "runs/demo")
  main_lib.keep_compiled_programs()
  from mattt_jax import demo

  demo.run(out)


def _define_prepare(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "from", "", "for texts: the directory to take them from",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "encoding", "utf-8", "for texts: that of the files", flag_values=values
  )


def _prepare(values: flags.FlagValues, name: str, directory: str) -> None:
  manifest = prepare.prepare(
    name, directory, texts=values["from"].value or "", encoding=values.encoding
  )
  size = sum(file["bytes"] for file in manifest["files"].values())
  print(f"{len(manifest['files'])} files, {size:,} bytes, in {directory}/")
  if all(file.endswith(sources.SUFFIXES) for file in manifest["files"]):
    made = sources.array_records(f"directory:{directory}")
    print(f"As a tfds data set (array_record) in {made}/")
    print(f"Use them with --config.task.source=directory:{directory}")


def _define_tokenizer(values: flags.FlagValues) -> None:
  for name, about in (
    ("source", "texts, as task.source: its training documents are read"),
    ("out", "the new file"),
  ):
    flags.DEFINE_string(name, None, about, flag_values=values)
  flags.DEFINE_integer(
    "vocab", 1024, "number of tokens, 256 for the bytes among them",
    flag_values=values,
  )  # fmt: skip


def _tokenizer(values: flags.FlagValues, action: str) -> None:
  if action != "train":
    raise UsageError(f"unknown action {action!r}: use train")
  source = main_lib.required(values, "source", "directory:texts")
  out = pathlib.Path(main_lib.required(values, "out", "tokenizer.json"))
  made = tokenizer.train_file(source, values.vocab, out)
  print(f"{made.vocab_size} tokens, written to {out}")
  print(f"Use it with --config.task.tokenizer={out}")


def _list(values: flags.FlagValues) -> None:
  del values
  experiments = registry.experiments()
  for title, rows in (
    ("Tasks", registry.summaries(config_lib.TASKS)),
    ("Memories", registry.summaries(config_lib.MEMORIES)),
    (
      "Systems (system=NAME; also swa, ttt, swa_MEMORY, ttt_MEMORY)",
      systems.summaries(),
    ),
    (
      "Experiments (mattt train --config=NAME:ARG --workdir=DIR)",
      {name: registry.summary(path) for name, path in experiments.items()},
    ),
  ):
    print(f"{title}:")
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
      print(f"  {name:<{width}}  {text}")
    if not rows:
      print("  (none)")


COMMANDS = {
  "train": main_lib.TRAIN,
  "evaluate": Command(
    about="Evaluates the newest good checkpoint of a run.",
    example="--workdir=runs/recall --lengths=1x,4x,64x --noinner",
    run=_evaluate,
    define=_define_evaluate,
    takes_config=True,
  ),
  "export": Command(
    about="Writes a run's parameters alone (npz), for evaluation elsewhere.",
    example="--workdir=runs/recall --out=exported",
    run=_export,
    define=_define_export,
    takes_config=True,
  ),
  "compare": Command(
    about="Trains and measures several systems under one budget.",
    example="--task=recall --systems=2x2:episodic,rag --seeds=1,2,3 --arg=hard",
    run=_compare,
    define=_define_compare,
  ),
  "sweep": SWEEP,
  "plan": PLAN,
  "plot": PLOT,
  "prepare": Command(
    about=f"Fetches real texts into a directory: {', '.join(prepare.NAMES)}.",
    example="books data/books",
    run=_prepare,
    define=_define_prepare,
    words=("NAME", "DIR"),
  ),
  "tokenizer": Command(
    about="Trains a tokenizer (byte-level BPE) on texts.",
    example="train --source=directory:data/books --vocab=1024 "
    "--out=data/books.json",
    run=_tokenizer,
    define=_define_tokenizer,
    words=("ACTION",),
  ),
  "demo": Command(
    about="Trains and compares three learners, in under 10 minutes.",
    example="--out=runs/demo",
    run=_demo,
    define=_define_demo,
  ),
  "list": Command(
    about="Lists the tasks, memories, systems and experiments.",
    example="",
    run=_list,
  ),
}

if __name__ == "__main__":
  sys.exit(main())
