"""Student records: facts about students early, questions about them at the end.

The synthetic task of PERK (2507.06415), on the level of tokens. A sequence of
`length` tokens, and the target after its last one, is

    | records among filler .............. | gap (filler) | questions |
      STUDENT id name year school major grade              QUESTION ...

with an answer of one token at the end of every question:

    recall     QUESTION id FIELD                    the value of that field
    relation   QUESTION MORE FIELD id id'           the id with the higher one
    aggregate  QUESTION MAX | MIN | MEAN GRADE      over all students

Values of a field are tokens of its own, in order; a mean is rounded, halves up.
Filler never holds a mark, but a share `interference` of it is drawn from the
tokens of ids and values.
"""

import dataclasses
import itertools
from typing import ClassVar

from mattt_jax.config import require, require_choice
from mattt_jax.tasks import _documents
from mattt_jax.tasks._drafts import Draft

FIELDS = ("name", "year", "school", "major", "grade")
ORDERED = ("year", "grade")  # fields of which one value is the higher
STUDENT, QUESTION, MORE, MAX, MIN, MEAN = range(1, 7)  # token 0 is unused
FIRST_FIELD = 7  # the tokens that name fields, then ids, values, filler
FIRST_ID = FIRST_FIELD + len(FIELDS)
_QUESTION_TOKENS = {"recall": 4, "relation": 6, "aggregate": 4}


@dataclasses.dataclass(frozen=True)
class Config(_documents.Config):
  """Settings, in addition to those of all documents of facts."""

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

  counts: ClassVar = ("num_students", "num_questions")

  def __post_init__(self):
    super().__post_init__()
    require_choice("task.question", self.question, tuple(_QUESTION_TOKENS))
    for field in self.fields:
      require_choice("task.fields", field, FIELDS)
    require(
      0 < len(self.fields) == len(set(self.fields)),
      f"task.fields={self.fields} must name at least one field, each once",
    )
    _documents.require_least(
      self, num_students=1, num_questions=1, num_ids=self.num_students,
      num_names=1, num_years=2, num_schools=1, num_majors=1, num_grades=2,
    )  # fmt: skip
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

  @property
  def asked_fields(self) -> tuple[str, ...]:
    """Fields that questions are about."""
    allowed = {"recall": FIELDS, "relation": ORDERED, "aggregate": ("grade",)}
    return tuple(f for f in self.fields if f in allowed[self.question])

  def number(self, field: str) -> int:
    """Number of values of a field."""
    return getattr(self, f"num_{field}s")

  def first_value(self, field: str) -> int:
    """Token of a field's value 0."""
    before = FIELDS[: FIELDS.index(field)]
    return FIRST_ID + self.num_ids + sum(self.number(f) for f in before)

  @property
  def first_filler(self) -> int:
    return self.first_value(FIELDS[-1]) + self.number(FIELDS[-1])

  @property
  def record(self) -> int:
    """Tokens of a record: the mark, the id, the values."""
    return 2 + len(self.fields)

  @property
  def fact_tokens(self) -> int:
    return self.num_students * self.record

  @property
  def question_tokens(self) -> int:
    return self.num_questions * _QUESTION_TOKENS[self.question]

  @property
  def least_distance(self) -> int:
    return _QUESTION_TOKENS[self.question]

  def check(self, experiment) -> None:
    """Raises `ValueError` where lengths do not fit or attention could answer.

    A learner that reads its last `question_chunks` alone must find all
    questions there, and no record.
    """
    chunks = getattr(experiment.learner, "question_chunks", 0)
    if not chunks:
      super().check(experiment)
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


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def draft(self, rng, length, step):
    """Draws records and questions.

    The evidence of an answer is every value that decides it; its distance is
    that of the farthest.
    """
    del step
    config, students = self.config, self.config.num_students
    records_end, questions_at = config.areas(length)
    ids_S = rng.choice(config.num_ids, students, replace=False) + FIRST_ID
    value = {
      field: rng.integers(config.number(field), size=students)
      for field in config.fields
    }
    self._differ(value)

    at_S = _documents.places(
      rng, records_end, students, config.record, config.depth
    )
    filler = _documents.filler(
      rng, length + 1, config.interference,
      FIRST_ID, config.first_filler, config.vocab_size,
    )  # fmt: skip
    draft = Draft(filler, length)
    for student, at in enumerate(at_S):
      values = [config.first_value(f) + value[f][student] for f in value]
      draft.tokens[at : at + config.record] = [STUDENT, ids_S[student], *values]
    at = questions_at
    questions = self._questions(rng, ids_S, value)
    for number, (question, field, of) in enumerate(questions):
      draft.tokens[at : at + 1 + len(question)] = [QUESTION, *question]
      at += len(question)  # the answer
      evidence = at_S[list(of)] + 2 + config.fields.index(field)
      draft.ask(at, number, at - evidence.min(), evidence)
      at += 1
    return draft

  def _differ(self, value) -> None:
    """Changes a value if there were no two students to compare."""
    config = self.config
    if config.question == "relation":
      if all(len(set(value[f])) == 1 for f in config.asked_fields):
        field = config.asked_fields[-1]
        value[field][0] = (value[field][0] + 1) % config.number(field)

  def _questions(self, rng, ids_S, value):
    """Draws questions: tokens after the mark, answer last; field; students."""
    config = self.config
    students = range(config.num_students)
    questions: list[tuple[list[int], str, tuple[int, ...]]] = []
    for field in config.asked_fields:
      name = FIRST_FIELD + FIELDS.index(field)
      first, values = config.first_value(field), value[field]
      if config.question == "recall":
        for s in students:
          question = [ids_S[s], name, first + values[s]]
          questions += [(question, field, (s,))]
      elif config.question == "relation":
        for a, b in itertools.permutations(students, 2):
          if values[a] != values[b]:
            higher = ids_S[a if values[a] > values[b] else b]
            question = [MORE, name, ids_S[a], ids_S[b], higher]
            questions += [(question, field, (a, b))]
      else:
        mean = (2 * values.sum() + len(values)) // (2 * len(values))
        results = {MAX: values.max(), MIN: values.min(), MEAN: mean}
        for kind, result in results.items():
          question = [kind, name, first + result]
          questions += [(question, field, tuple(students))]
    again = config.num_questions > len(questions)
    for at in rng.choice(len(questions), config.num_questions, replace=again):
      yield questions[at]
