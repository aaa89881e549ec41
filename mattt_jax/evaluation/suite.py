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
from mattt_jax.config import Experiment, require
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.ttt.inner_loop import Learner


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

  Returns:
    The rows asked for, in the order of tasks, then lengths: `about`, `task`,
    `length`, `split`, `inner`, `memory`, the summary of `Totals`, `seconds`
    (compilation included) and `state_bytes`.

  Raises:
    ValueError: an unknown task or field, sizes that do not fit, or a vocabulary
      that the model does not have.
  """
  planned = []
  for text in texts:
    experiment = task_experiment(trained, text, lengths)
    name = text.partition(":")[0]
    task = registry.load(config_lib.TASKS, name).Task(
      experiment.task, trained.seed
    )
    require(
      task.vocab_size <= learner.model.vocab_size,
      f"task {text!r} has {task.vocab_size} tokens, the model "
      f"{learner.model.vocab_size}: train a model for it, or change its sizes",
    )
    planned += [(text, experiment, task, length) for length in lengths]
  done = [json.loads(x) for x in out.open()] if out.exists() else []
  rows = []
  bar = tqdm(planned, unit="evaluation", disable=None)
  for text, experiment, task, length in bar:
    bar.set_description(f"{text} {length}")
    eval_ = experiment.eval
    key = dict(about) | {
      "task": text,
      "length": length,
      "split": split,
      "inner": (eval_.inner if inner is None else inner)
      and trained.inner.enabled,
      "memory": (eval_.memory if memory is None else memory)
      and trained.memory.read is not None,
      "asked_sequences": eval_.sequences,
    }
    row = next((r for r in done if key.items() <= r.items()), None)
    if row is None:
      started = time.perf_counter()
      result = evaluate(
        experiment, learner, task, split, (length,), inner,
        memory=memory, step=step,
      )  # fmt: skip
      row = key | {
        **result["lengths"][str(length)],
        "seconds": time.perf_counter() - started,
        "state_bytes": learner.state_bytes(length),
      }
      out.parent.mkdir(parents=True, exist_ok=True)
      text = json.dumps(row)
      with out.open("a") as file:  # after each: an interruption loses none
        file.write(text + "\n")
      row = json.loads(text)  # as it will be read back
    rows.append(row)
  return rows
