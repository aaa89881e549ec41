"""One learner on several tasks and lengths: a row of JSONL for each of them.

Planned (and checked) first, then each is measured and its row appended.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from mattt_jax import config as config_lib
from mattt_jax.config import require, require_choice
from mattt_jax.devices import memory_use
from mattt_jax.evaluation import answers
from mattt_jax.evaluation.evaluator import evaluate_with, guessing
from mattt_jax.evaluation.reader import Reader
from mattt_jax.evaluation.task_text import task_experiment
from mattt_jax.learners.build import make_task
from mattt_jax.tasks.base import Question

_COLUMNS = ("loss", "other_loss", "answer_accuracy", "answer_exact_match",
            "guess_majority", "guess_nearest_mention", "choice_accuracy",
            "choice_chance", "choice_majority", "choice_nearest_mention",
            "written_exact_match", "written_f1", "written_rouge_l",
            "written_only_label")  # fmt: skip
_LONGBENCH = "written_longbench_"  # and the task


@dataclasses.dataclass(frozen=True)
class Suite:
  """Tasks, each to be read at each length."""

  tasks: Sequence[str]  # as in `task_text`
  lengths: Sequence[int]  # in tokens
  split: str  # one of "train", "tune", "test"
  kinds: Sequence[str] = ("forced",)  # how answers are scored

  def __post_init__(self):
    for kind in self.kinds:
      require_choice("answers", kind, answers.KINDS)
    require(bool(self.kinds), "answers is empty: use forced")
    kinds = tuple(kind for kind in answers.KINDS if kind in self.kinds)
    object.__setattr__(self, "kinds", kinds)

  @property
  def question_kinds(self) -> tuple[str, ...]:
    """The kinds that answer questions."""
    return tuple(kind for kind in self.kinds if kind != "forced")


@dataclasses.dataclass(frozen=True)
class Planned:
  """One task at one length."""

  key: dict[str, Any]  # what its row begins with, and is found by
  reader: Reader  # with the settings of the task
  task: Any
  row: dict[str, Any] | None  # what was measured before
  # The questions of each sequence, where they are to be answered.
  asked: Sequence[Sequence[Question]] = ()


def run(
  reader: Reader, suite: Suite, out: pathlib.Path, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Evaluates what `out` has no row of yet; all is checked before.

  Args:
    reader: with the settings of the run (`eval.sequences` of each task).
    suite: what to read.
    out: JSONL, to which rows are added.
    about: what identifies the learner (run, seed, step); in each row.

  Returns:
    The rows asked for, in the order of tasks, then lengths.

  Raises:
    ValueError: as `plan`.
  """
  done = [json.loads(line) for line in out.open()] if out.exists() else []
  rows = []
  bar = tqdm(plan(reader, suite, about, done), unit="evaluation", disable=None)
  for planned in bar:
    bar.set_description(f"{planned.key['task']} {planned.key['length']}")
    row = planned.row
    rows.append(append(measure(planned, suite), out) if row is None else row)
  return rows


def plan(
  reader: Reader,
  suite: Suite,
  about: Mapping[str, Any],
  done: Iterable[dict[str, Any]],
) -> list[Planned]:
  """What is to be read, and which of it is among the rows `done`.

  Raises:
    ValueError: an unknown task or field, sizes that do not fit, a vocabulary
      that the model does not have, or answers that cannot be scored so.
  """
  # Rows of before there were other kinds do not say theirs.
  done = [{"scoring": "forced"} | row for row in done]
  planned = []
  for text in suite.tasks:
    task_reader, task = _task(reader, suite, text)
    experiment = task_reader.experiment
    for length in suite.lengths:
      key = {
        **about,
        "task": text,
        "length": length,
        "split": suite.split,
        **task_reader.parts._asdict(),
        "asked_sequences": experiment.eval.sequences,
        "scoring": ",".join(suite.kinds),
      }
      row = next((r for r in done if key.items() <= r.items()), None)
      asked: list[list[Question]] = []
      if suite.question_kinds and row is None:
        asked = answers.collect(
          text, task, experiment, suite.split, length, suite.question_kinds
        )
      planned.append(Planned(key, task_reader, task, row, asked))
  return planned


def _task(reader: Reader, suite: Suite, text: str) -> tuple[Reader, Any]:
  """The reader with the settings of the task `text`, and the task."""
  try:
    experiment = task_experiment(reader.experiment, text, suite.lengths)
    task = make_task(experiment)
  except ValueError as error:
    if len(suite.tasks) == 1:
      raise
    raise ValueError(f"task {text!r}: {error}") from error
  learner = reader.learner
  require(
    task.vocab_size <= learner.model.vocab_size,
    f"task {text!r} has {task.vocab_size} tokens, the model "
    f"{learner.model.vocab_size}: train a model for it, or change its sizes",
  )
  if suite.question_kinds:
    answers.require_questions(text, task, learner, suite.question_kinds)
  return reader.of(experiment), task


def measure(planned: Planned, suite: Suite) -> dict[str, Any]:
  """The row of one task and length: the key, the summary of `Totals` (if
  "forced"), that of `answers.measure` (if others), what `guessing` says,
  `seconds` (compilation included), `state_bytes`, `peak_bytes` and `config`,
  the settings with the task that was read."""
  reader, task, length = planned.reader, planned.task, planned.key["length"]
  split, experiment = suite.split, reader.experiment
  memory_use.restart_peak()
  started = time.perf_counter()
  result: dict[str, Any] = {}
  if "forced" in suite.kinds:
    lengths = evaluate_with(reader, task, split, (length,))["lengths"]
    result = lengths[str(length)]
  if planned.asked:
    more = answers.measure(
      reader, task, split, length, planned.asked, suite.question_kinds
    )
    intervals = result.get("intervals", {}) | more["intervals"]
    guesses = guessing(task, split, length, experiment.eval.sequences)
    result |= more | guesses | {"intervals": intervals}
  return {
    **planned.key,
    **result,
    "seconds": time.perf_counter() - started,
    "state_bytes": reader.learner.state_bytes(length),
    "peak_bytes": memory_use.peak_bytes(),
    "config": config_lib.to_dict(experiment),
  }


def append(row: dict[str, Any], out: pathlib.Path) -> dict[str, Any]:
  """Adds a row at once, so that an interruption loses none; returns it as it
  will be read back."""
  out.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(row)
  with out.open("a") as file:
    file.write(text + "\n")
  return json.loads(text)


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The main numbers of an evaluation, a line for each row."""
  first = rows[0]
  parts = [
    f"{part} {'on' if first[name] else 'off'}"
    for name, part in (("inner", "inner loop"), ("memory", "memory"))
  ]
  lines = [f"{first['split']} split, step {first['step']}, {', '.join(parts)}"]
  width = max(len("task"), *(len(row["task"]) for row in rows))
  names = set().union(*rows)
  columns = [name for name in _COLUMNS if name in names]
  columns += sorted(name for name in names if name.startswith(_LONGBENCH))
  head = [f"{'task':<{width}}", " length", "sequences", *columns, "seconds"]
  lines += ["  ".join(head)]
  for row in rows:
    cells = [f"{row['task']:<{width}}", f"{row['length']:>7}"]
    cells += [f"{row['sequences']:>9}"]
    for name in columns:
      value = row.get(name)
      cells.append(f"{'-' if value is None else f'{value:.4f}':>{len(name)}}")
    lines.append("  ".join([*cells, f"{row['seconds']:>7.1f}"]))
  return "\n".join(lines)
