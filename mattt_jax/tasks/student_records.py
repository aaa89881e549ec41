"""Student records: facts about students early, questions about them at the end.

The synthetic task of PERK (2507.06415), on the level of tokens. A sequence of
`length` tokens, and the target after its last one, is

    | records among filler .............. | gap (filler) | questions |
      STUDENT id name year school major grade              QUESTION ...

with an answer of one token at the end of every question:

    recall     QUESTION id FIELD                    the value of that field
    relation   QUESTION MORE FIELD id id'           the id with the higher one
    aggregate  QUESTION MAX | MIN | MEAN GRADE      over all students

Values of a field are tokens of its own, those of years and grades in order; a
mean is rounded, halves up. Filler never holds a mark, but a share
`interference` of it is drawn from the tokens of ids and values.
"""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import (
  require,
  require_at_least,
  require_choice,
)
from mattt_jax.tasks import _documents, base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

FIELDS = ("name", "year", "school", "major", "grade")
ORDERED = ("year", "grade")  # fields of which one value is the higher
STUDENT, QUESTION, MORE, MAX, MIN, MEAN = range(1, 7)  # token 0 is unused
FIRST_FIELD = 7  # the tokens that name fields, then ids, values, filler
FIRST_ID = FIRST_FIELD + len(FIELDS)
AGGREGATES = (MAX, MIN, MEAN)
_QUESTION_TOKENS = {"recall": 4, "relation": 6, "aggregate": 4}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; lengths and distances are in tokens."""

  question: str = "recall"  # or "relation", "aggregate"
  fields: tuple[str, ...] = FIELDS  # of a record, in this order
  num_students: int = 8
  num_questions: int = 8  # different ones, where there are that many
  num_ids: int = 64
  num_names: int = 64
  num_years: int = 4
  num_schools: int = 16
  num_majors: int = 16
  num_grades: int = 16
  num_fillers: int = 64
  interference: float = 0.5  # share of filler drawn from ids and values
  # Where the records lie, back to back: 0 at the start of what is before the
  # gap, 1 at its end. None: each at a random place.
  depth: float | None = None
  gap_share: float = 0.5  # filler between records and questions, of length
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the answers
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    require_choice("task.question", self.question, tuple(_QUESTION_TOKENS))
    for field in self.fields:
      require_choice("task.fields", field, FIELDS)
    require(
      0 < len(self.fields) == len(set(self.fields)),
      f"task.fields={self.fields} must name at least one field, each once",
    )
    for field, least in (("num_students", 1), ("num_questions", 1),
                         ("num_names", 1), ("num_years", 2),
                         ("num_schools", 1), ("num_majors", 1),
                         ("num_grades", 2), ("num_fillers", 1),
                         ("answer_weight", 0), ("context_weight", 0),
                         ("num_ids", self.num_students)):  # fmt: skip
      require_at_least(f"task.{field}", getattr(self, field), least)
    require(
      self.question != "relation"
      or (self.num_students > 1 and bool(self.asked_fields)),
      f"task.question='relation' needs task.num_students={self.num_students} "
      f"> 1 and a field that has an order, one of {', '.join(ORDERED)}, in "
      f"task.fields={self.fields}",
    )
    require(
      self.question != "aggregate" or bool(self.asked_fields),
      "task.question='aggregate' is about grades: add 'grade' to "
      f"task.fields={self.fields}",
    )
    _documents.require_document(self)

  @property
  def asked_fields(self) -> tuple[str, ...]:
    """The fields that questions are about."""
    allowed = {"recall": FIELDS, "relation": ORDERED, "aggregate": ("grade",)}
    return tuple(f for f in self.fields if f in allowed[self.question])

  def number(self, field: str) -> int:
    """How many values a field has."""
    return getattr(self, f"num_{field}s")

  def first_value(self, field: str) -> int:
    """The token of a field's value 0."""
    before = FIELDS[: FIELDS.index(field)]
    return FIRST_ID + self.num_ids + sum(self.number(f) for f in before)

  @property
  def first_filler(self) -> int:
    return self.first_value(FIELDS[-1]) + self.number(FIELDS[-1])

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  @property
  def record(self) -> int:
    """Tokens of a record: the mark, the id, the values."""
    return 2 + len(self.fields)

  @property
  def question_tokens(self) -> int:
    """Tokens of all questions."""
    return self.num_questions * _QUESTION_TOKENS[self.question]

  def areas(self, length: int) -> tuple[int, int]:
    """Where the records' area ends and where the questions start.

    Raises:
      ValueError: `length` cannot hold the records, the gap and the questions.
    """
    questions_at = length + 1 - self.question_tokens
    records_end = questions_at - round(self.gap_share * length)
    tokens = self.num_students * self.record
    if tokens > records_end:
      least = math.ceil(
        (tokens + self.question_tokens - 1) / (1 - self.gap_share)
      )
      raise ValueError(
        f"length={length} is too short for task.num_students="
        f"{self.num_students} records of {self.record} tokens and "
        f"task.num_questions={self.num_questions} questions with "
        f"task.gap_share={self.gap_share}: use a length of at least {least}, "
        "fewer of them, or a smaller gap_share"
      )
    return records_end, questions_at

  def min_distance(self, length: int) -> int:
    """No value asked for is nearer to its answer than this.

    Raises:
      ValueError: as `areas`.
    """
    records_end, questions_at = self.areas(length)
    return questions_at - records_end + _QUESTION_TOKENS[self.question]

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` where lengths do not fit or attention could answer.

    A target is predicted from the token before it, whose features reach
    `num_layers * (window - 1)` tokens further back. A baseline that reads its
    last `question_chunks` alone must find all questions there, and no record.
    """
    chunks = getattr(experiment.learner, "question_chunks", 0)
    if not chunks:
      _documents.require_out_of_reach(self, experiment)
      return
    alone = chunks * experiment.chunk
    for field, length in experiment.lengths:
      records_end, questions_at = self.areas(length)
      require(
        records_end <= length - alone < questions_at,
        f"learner.question_chunks * chunk={alone} tokens, which are read "
        f"alone, must hold the {self.question_tokens} tokens of the "
        f"questions and none of the records before {records_end} at {field}="
        f"{length}: change learner.question_chunks or task.gap_share",
      )


class Task(_documents.Endless):
  """Endless examples, each made from (seed, split, index) alone."""

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    The evidence of an answer is every value that decides it; its distance is
    that of the farthest.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    config = self.config
    records_end, questions_at = config.areas(length)
    rng = base.example_rng(self.seed, split, index)
    students = config.num_students
    ids_S = rng.choice(config.num_ids, students, replace=False) + FIRST_ID
    value = {
      field: rng.integers(config.number(field), size=students)
      for field in config.fields
    }
    self._differ(value)

    at_S = _documents.places(
      rng, records_end, students, config.record, config.depth
    )
    seq = _documents.filler(
      rng, length + 1, config.interference,
      FIRST_ID, config.first_filler, config.vocab_size,
    )  # fmt: skip
    for student, at in enumerate(at_S):
      values = [config.first_value(f) + value[f][student] for f in value]
      seq[at : at + config.record] = [STUDENT, ids_S[student], *values]

    answer = np.full(length + 1, -1, np.int32)
    distance = np.full(length + 1, -1, np.int32)
    relevant = np.zeros(length + 1, bool)
    at = questions_at
    for number, (asked, field, of) in enumerate(
      self._questions(rng, ids_S, value)
    ):
      seq[at : at + 1 + len(asked)] = [QUESTION, *asked]
      at += len(asked)  # the answer
      evidence = at_S[list(of)] + 2 + config.fields.index(field)
      answer[at], distance[at] = number, at - evidence.min()
      relevant[evidence] = True
      at += 1

    return _documents.example(config, seq, answer, distance, relevant)

  def _differ(self, value) -> None:
    """Changes a value if there were no two students to compare."""
    if self.config.question == "relation":
      field = self.config.asked_fields[-1]
      if all(len(set(value[f])) == 1 for f in self.config.asked_fields):
        value[field][0] = (value[field][0] + 1) % self.config.number(field)

  def _questions(self, rng, ids_S, value):
    """(tokens after the mark, the answer last; field; students) of each."""
    config = self.config
    students = range(config.num_students)

    def name(field):
      return FIRST_FIELD + FIELDS.index(field)

    found: list[tuple[list[int], str, tuple[int, ...]]] = []
    for field in config.asked_fields:
      first, values = config.first_value(field), value[field]
      if config.question == "recall":
        for s in students:
          found += [([ids_S[s], name(field), first + values[s]], field, (s,))]
      elif config.question == "relation":
        for a, b in itertools.permutations(students, 2):
          if values[a] != values[b]:
            higher = ids_S[a if values[a] > values[b] else b]
            asked = [MORE, name(field), ids_S[a], ids_S[b], higher]
            found += [(asked, field, (a, b))]
      else:
        mean = (2 * values.sum() + len(values)) // (2 * len(values))
        for kind, result in zip(
          AGGREGATES, (values.max(), values.min(), mean), strict=True
        ):
          asked = [kind, name(field), first + result]
          found += [(asked, field, tuple(students))]
    again = config.num_questions > len(found)
    for at in rng.choice(len(found), config.num_questions, replace=again):
      yield found[at]
