"""One learner on several tasks and lengths: a row of JSONL for each of them.

A task is written "NAME", or "NAME:field=value,field=value": the settings of the
trained task, or the defaults of another one (with the tokenizer of the trained
one), with these changed.
"""

import ast
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment, require, require_choice
from mattt_jax.devices import memory_use
from mattt_jax.evaluation import answers
from mattt_jax.evaluation.evaluator import evaluate, guessing
from mattt_jax.learners.build import make_task
from mattt_jax.ttt.inner_loop import Learner

_COLUMNS = ("loss", "other_loss", "answer_accuracy", "answer_exact_match",
            "guess_majority", "guess_nearest_mention", "choice_accuracy",
            "choice_chance", "choice_majority", "choice_nearest_mention",
            "written_exact_match", "written_f1", "written_rouge_l",
            "written_only_label")  # fmt: skip
_LONGBENCH = "written_longbench_"  # and the task


def task_experiment(
  trained: Experiment, text: str, lengths: Sequence[int]
) -> Experiment:
  """The trained experiment with the task `text`, to be read at `lengths`.

  Raises:
    ValueError: an unknown task or field, or sizes that do not fit.
  """
  name, _, changes = text.partition(":")
  tree = config_lib.to_dict(trained)["task"]
  cls = registry.load(config_lib.TASKS, name).Config
  if name != tree.pop("name"):
    # The tokens of another text are those that the model knows.
    shared = {"tokenizer"} & {field.name for field in dataclasses.fields(cls)}
    tree = {field: tree[field] for field in shared & tree.keys()}
  for part in filter(None, changes.split(",")):
    field, equals, value = part.partition("=")
    require(bool(equals), f"task {text!r}: {part!r} must be field=value")
    tree[field] = _literal(value)
  tree = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
  # `length` too: what fits the lengths that are read may not fit the trained.
  return dataclasses.replace(
    trained,
    task=config_lib.build(cls, tree, "task."),
    length=lengths[0],
    train=dataclasses.replace(trained.train, random_lengths=()),
    eval=dataclasses.replace(trained.eval, lengths=tuple(lengths)),
  )


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def run(
  trained: Experiment,
  learner: Learner,
  texts: Sequence[str],
  lengths: Sequence[int],
  out: pathlib.Path,
  about: Mapping[str, Any],
  *,
  split: str,
  inner: bool | None = None,
  memory: bool | None = None,
  step: int | None = None,
  kinds: Sequence[str] = ("forced",),
) -> list[dict[str, Any]]:
  """Evaluates what `out` has no row of yet; all is checked before.

  Args:
    trained: the settings of the run; `eval.sequences` of each task are read.
    learner: its model is as large as the trained task's vocabulary.
    texts: of tasks.
    lengths: in tokens.
    out: JSONL, to which rows are added.
    about: what identifies the learner (run, seed, step); in each row.
    split: one of "train", "tune", "test".
    inner: whether the fast weights learn while reading; None: `eval.inner`.
    memory: whether the memory is used; None: `eval.memory`.
    step: as in `evaluate`.
    kinds: how answers are scored, of `answers.KINDS`.

  Returns:
    The rows asked for, in the order of tasks, then lengths: `about`, `task`,
    `length`, `split`, `inner`, `memory`, `scoring` (the `kinds`), the summary
    of `Totals` (if "forced"), that of `answers.measure` (if others), what
    `guessing` says, `seconds` (compilation included), `state_bytes`,
    `peak_bytes` and `config`: the settings, with the task that was read.

  Raises:
    ValueError: an unknown task or field, sizes that do not fit, a vocabulary
      that the model does not have, or answers that cannot be scored so.
  """
  for kind in kinds:
    require_choice("answers", kind, answers.KINDS)
  kinds = [kind for kind in answers.KINDS if kind in kinds]
  others = [kind for kind in kinds if kind != "forced"]
  require(bool(kinds), "answers is empty: use forced")
  done = [json.loads(x) for x in out.open()] if out.exists() else []
  planned = []
  for text in texts:
    try:
      experiment = task_experiment(trained, text, lengths)
      task = make_task(experiment)
    except ValueError as error:
      if len(texts) == 1:
        raise
      raise ValueError(f"task {text!r}: {error}") from error
    require(
      task.vocab_size <= learner.model.vocab_size,
      f"task {text!r} has {task.vocab_size} tokens, the model "
      f"{learner.model.vocab_size}: train a model for it, or change its sizes",
    )
    if others:
      answers.require_questions(text, task, learner, others)
    eval_ = experiment.eval
    for length in lengths:
      key = dict(about) | {
        "task": text,
        "length": length,
        "split": split,
        "inner": (eval_.inner if inner is None else inner)
        and trained.inner.enabled,
        "memory": (eval_.memory if memory is None else memory)
        and trained.memory.read is not None,
        "asked_sequences": eval_.sequences,
        "scoring": ",".join(kinds),
      }
      # Rows of before there were others do not say it.
      found = ({"scoring": "forced"} | row for row in done)
      row = next((r for r in found if key.items() <= r.items()), None)
      asked = (
        others
        and row is None
        and answers.collect(text, task, experiment, split, length, others)
      )
      planned.append((experiment, task, asked, key, row))
  rows = []
  bar = tqdm(planned, unit="evaluation", disable=None)
  for experiment, task, asked, key, row in bar:
    length = key["length"]
    bar.set_description(f"{key['task']} {length}")
    if row is None:
      memory_use.restart_peak()
      started = time.perf_counter()
      result: dict[str, Any] = {}
      if "forced" in kinds:
        result = evaluate(
          experiment, learner, task, split, (length,), inner,
          memory=memory, step=step,
        )["lengths"][str(length)]  # fmt: skip
      if asked:
        more = answers.measure(
          experiment, learner, task, split, length, asked, others,
          inner=key["inner"], memory=key["memory"], step=step,
        )  # fmt: skip
        intervals = result.get("intervals", {}) | more["intervals"]
        guesses = guessing(task, split, length, experiment.eval.sequences)
        result |= more | guesses | {"intervals": intervals}
      row = key | {
        **result,
        "seconds": time.perf_counter() - started,
        "state_bytes": learner.state_bytes(length),
        "peak_bytes": memory_use.peak_bytes(),
        "config": config_lib.to_dict(experiment),
      }
      out.parent.mkdir(parents=True, exist_ok=True)
      text = json.dumps(row)
      with out.open("a") as file:  # after each: an interruption loses none
        file.write(text + "\n")
      row = json.loads(text)  # as it will be read back
    rows.append(row)
  return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The main numbers of an evaluation, a line for each row."""
  first = rows[0]
  parts = [
    f"{part} {'on' if first[name] else 'off'}"
    for name, part in (("inner", "inner loop"), ("memory", "memory"))
  ]
  lines = [f"{first['split']} split, step {first['step']}, {', '.join(parts)}"]
  width = max(len("task"), *(len(row["task"]) for row in rows))
  own = {name for row in rows for name in row if name.startswith(_LONGBENCH)}
  columns = [name for name in _COLUMNS if any(name in row for row in rows)]
  columns += sorted(own)
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
