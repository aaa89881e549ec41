"""What guessing answers, and who has learned more than that (numbers alone).

A guesser knows the values of the document (of recall: which, and how often) and
nothing of what is bound to what: it names the one that is left most often, and
crosses out what it is shown. A system whose mean over the seeds does not beat
it at the length it was trained at has not learned the task: where it is at
chance, tables say so in place of a number.
"""

import collections
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
RIGHT = ("answer_exact_match", "answer_accuracy")  # what a guesser also gets
_DOCUMENTS = 200  # of which the mean is taken
_ERRORS = 2.0  # standard errors of a share of so many answers


def share(task: Mapping[str, Any]) -> float | None:
  """The share of answers that guessing gets right; None where no rule is known.

  Exact for recall and rules, each field by itself for student records; for
  variables a name at random, for bAbI a place (its task knows better rules).

  Args:
    task: its settings, as a row of results has them.
  """
  name = task.get("name")
  if name == "associative_recall":
    values = task["num_values"] ** task["value_length"]
    return _crossing_out(task["num_pairs"], task["num_queries"], values)
  if name == "rule_recall":  # f is known, the item is not
    symbols = task["num_symbols"]
    return _crossing_out(task["num_pairs"], task["num_queries"], symbols)
  if name == "student_records" and task["question"] == "relation":
    return 0.5
  if name == "student_records" and task["question"] == "recall":
    students, fields = task["num_students"], task["fields"]
    asked = max(1, min(students, task["num_questions"] // len(fields)))
    found = [
      _crossing_out(students, asked, task[f"num_{field}s"]) for field in fields
    ]
    return statistics.mean(found)
  if name == "babi" and task["kind"] in ("qa1", "qa2", "qa3"):
    return 1 / task["num_places"]
  if name == "ruler" and task["kind"] == "variable_tracking":
    return 1 / task["num_keys"]
  return None


@functools.cache
def _crossing_out(bound: int, asked: int, values: int) -> float:
  """`asked` of `bound` keys, each bound to one of `values` at random."""
  rng = np.random.default_rng(0)
  right = 0.0
  for _ in range(_DOCUMENTS):
    found = rng.integers(values, size=bound)
    _, index, left = np.unique(found, return_inverse=True, return_counts=True)
    for key in range(asked):
      right += left.max() / left.sum()
      left[index[key]] -= 1
  return float(right / (_DOCUMENTS * asked))


def at_chance(rows: Sequence[Mapping[str, Any]]) -> bool:
  """Whether one system's rows, one a seed, are no better than the guesser: the
  mean is not above its share by two standard errors of so many answers. False
  where no guesser is known."""
  line = share(rows[0]["task"])
  right = [row[RIGHT[0]] for row in rows if row.get(RIGHT[0]) is not None]
  if line is None or not right:
    return False
  answers = sum(row.get("answers") or 1 for row in rows)
  error = math.sqrt(line * (1 - line) / answers)
  return statistics.mean(right) <= line + _ERRORS * error


def judge(rows: Sequence[Row]) -> None:
  """Sets `unlearned` of each row: its system, with the settings of its run, is
  at chance on its own task at the length it was trained at."""
  runs = collections.defaultdict(list)
  for row in rows:
    if "trained_at" in row:
      settings = {k: v for k, v in row["settings"].items() if k != "seed"}
      key = row["system"], row["variant"], str(settings)
      runs[key].append(row)
  for same in runs.values():
    own = [
      row
      for row in same
      if not row["off"]
      and not row["asked"]
      and row["length"] == row["trained_at"]
    ]
    unlearned = bool(own) and at_chance(own)
    for row in same:
      row["unlearned"] = unlearned


def words(rows: Sequence[Row]) -> str:
  """What a table says in place of the mean of these rows, one a seed; "" where
  the mean is to be shown."""
  if all(row.get("unlearned") for row in rows) and at_chance(rows):
    return f"not learned in {rows[0]['steps']} steps"
  return ""
