"""What guessing answers, and who has learned more than that (numbers alone).

A guesser knows which values a document has and how often, but not what is bound
to what: it names the value that is left most often, and crosses out what it is
shown. A system that does not beat it at its training length has not learned the
task; tables say so in place of a number.
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
  `task`: its settings, as a row of results has them.
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
    questions = max(1, min(students, task["num_questions"] // len(fields)))
    return statistics.mean(
      _crossing_out(students, questions, task[f"num_{field}s"])
      for field in fields
    )
  if name == "babi" and task["kind"] in ("qa1", "qa2", "qa3"):
    return 1 / task["num_places"]
  if name == "ruler" and task["kind"] == "variable_tracking":
    return 1 / task["num_keys"]
  return None


@functools.cache
def _crossing_out(bound: int, questions: int, values: int) -> float:
  """Share right of `questions` about `bound` keys, each with a value drawn from
  `values`."""
  rng = np.random.default_rng(0)
  right = 0.0
  for _ in range(_DOCUMENTS):
    drawn = rng.integers(values, size=bound)
    _, index, left = np.unique(drawn, return_inverse=True, return_counts=True)
    for key in range(questions):
      right += left.max() / left.sum()
      left[index[key]] -= 1
  return float(right / (_DOCUMENTS * questions))


def at_chance(rows: Sequence[Mapping[str, Any]]) -> bool:
  """Whether one system's mean over its rows, one a seed, is less than two
  standard errors above the guesser; False where no guesser is known."""
  line = share(rows[0]["task"])
  right = [row[RIGHT[0]] for row in rows if row.get(RIGHT[0]) is not None]
  if line is None or not right:
    return False
  answers = sum(row.get("answers") or 1 for row in rows)
  error = math.sqrt(line * (1 - line) / answers)
  return statistics.mean(right) <= line + _ERRORS * error


def judge(rows: Sequence[Row]) -> None:
  """Sets `unlearned` of each row: its system, with the settings of its run, is
  at chance on its task and at the length it was trained at."""
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
  """Words that a table has in place of the mean of these rows, one a seed; ""
  where it shows the mean."""
  if all(row.get("unlearned") for row in rows) and at_chance(rows):
    return f"not learned in {rows[0]['steps']} steps"
  return ""
