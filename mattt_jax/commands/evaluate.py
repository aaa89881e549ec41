"""Evaluates the newest good checkpoint of a run."""

import dataclasses
import pathlib

from absl import flags

from mattt_jax.commands import launch


def _define(values: flags.FlagValues) -> None:
  launch.define_checkpoint(values)
  launch.strings(
    values,
    lengths="context lengths in tokens, or times the trained one: 512,4x,64x; "
    "default: eval.lengths",
    tasks="NAME or NAME:field=value,field=value; several with ';'; default: "
    "the trained task",
    out="JSONL to add rows to, one for each task and length that it has none "
    "of; default: WORKDIR/evaluate.jsonl",
  )
  launch.strings(values, "test", split="train, tune or test")
  launch.strings(
    values,
    "forced",
    answers="how answers are scored: forced (token by token), choice (among "
    "candidates, by loss), written; a,b",
  )
  launch.booleans(
    values,
    inner="read with the inner loop on; default: eval.inner",
    memory="read with the memory on; default: eval.memory",
  )
  launch.integers(
    values,
    sequences="at each length; default: eval.sequences",
  )


def _run(values: flags.FlagValues) -> None:
  workdir = launch.required(values, "workdir", "runs/recall")
  parse_lengths(values.lengths, 1)  # mistakes before anything is loaded
  launch.keep_compiled_programs()
  from mattt_jax.evaluation import suite
  from mattt_jax.evaluation.reader import Reader
  from mattt_jax.sweeps.sweep import config_hash
  from mattt_jax.training import load
  from mattt_jax.ttt.coordination import rate_scale
  from mattt_jax.ttt.parts import Parts

  tree, trained = launch.run_settings(values)
  if values.inner and not trained.inner.enabled:
    raise launch.UsageError("--inner: this experiment has inner.enabled=False")
  if values.memory and trained.memory.read is None:
    raise launch.UsageError("--memory: this experiment has no memory")
  lengths = parse_lengths(values.lengths, trained.length)
  lengths = lengths or trained.eval.lengths or (trained.length,)
  experiment = trained
  if values.sequences is not None:
    settings = dataclasses.replace(trained.eval, sequences=values.sequences)
    experiment = dataclasses.replace(trained, eval=settings)
  parts = Parts(
    trained.eval.inner if values.inner is None else values.inner,
    trained.eval.memory if values.memory is None else values.memory,
  )
  learner, step = load.load_learner(trained, workdir, best=values.best)
  out = pathlib.Path(values.out or pathlib.Path(workdir) / "evaluate.jsonl")
  reader = Reader(
    learner, experiment, None, parts, rate_scale(experiment.inner, step)
  )
  tasks = (values.tasks or tree["task"]["name"]).split(";")
  tasks = [task.strip() for task in tasks]
  answers = values.answers.split(",")
  wanted = suite.Suite(tasks, lengths, values.split, answers)
  about = {
    "workdir": str(workdir),
    "config_hash": config_hash(tree),
    "seed": trained.seed,
    "step": step,
  }
  rows = suite.run(reader, wanted, out, about)
  print(suite.table(rows))
  print(f"Rows are in {out}")


def parse_lengths(text: str | None, trained: int) -> tuple[int, ...]:
  """ "256,4x" as tokens; "4x" is four times the `trained` length.

  Raises:
    UsageError: a part that is no number of tokens.
  """
  lengths = []
  for part in filter(None, (text or "").split(",")):
    number, times, rest = part.partition("x")
    if not number.isdecimal() or rest:
      raise launch.UsageError(
        f"--lengths={text!r}: {part!r} must be a number of tokens (4096), or "
        "of training lengths (4x)"
      )
    lengths.append(int(number) * (trained if times else 1))
  return tuple(lengths)


COMMAND = launch.Command(
  example="--workdir=runs/recall --lengths=1x,4x,64x --noinner",
  run=_run,
  define=_define,
  takes_config=True,
)
