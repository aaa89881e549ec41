"""Student records against a reader that knows only the format."""

import fractions
import types

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.tasks.student_records import FIELDS, Config, Task

SEED, LENGTH = 5, 256
STUDENT, QUESTION, MORE, MAX, MIN, MEAN = 1, 2, 3, 4, 5, 6
QUESTIONS = ("recall", "relation", "aggregate")


def configs(number):
  rng = np.random.default_rng(0)
  for i in range(number):
    question = QUESTIONS[i % 3]
    count = int(rng.integers(1, 6))
    fields = set(rng.choice(FIELDS, count, replace=False)) | {"grade"}
    yield Config(
      question=question,
      fields=tuple(map(str, rng.permutation(sorted(fields)))),
      num_students=int(rng.integers(2, 9)),
      num_questions=int(rng.integers(1, 9)),
      num_ids=int(rng.integers(9, 20)),
      num_names=int(rng.integers(1, 6)),
      num_years=int(rng.integers(2, 5)),
      num_schools=3,
      num_majors=2,
      num_grades=int(rng.integers(2, 7)),
      num_fillers=int(rng.integers(1, 9)),
      interference=float(rng.random()),
      gap_share=float(rng.random() * 0.3),
    )


def vocabulary(config):
  """[(kind, value)] of every token."""
  sizes = [("id", config.num_ids)]
  sizes += [(field, getattr(config, f"num_{field}s")) for field in FIELDS]
  tokens = [("mark", i) for i in range(7)]
  tokens += [("field", field) for field in FIELDS]
  for kind, number in sizes + [("filler", config.num_fillers)]:
    tokens += [(kind, value) for value in range(number)]
  return tokens


def read(config, example):
  """{index in the sequence: (answer, token, farthest evidence)}, all evidence,
  the records: id -> {field: (value, index)}, and the questions as asked."""
  seq = [*example["tokens"].tolist(), int(example["targets"][-1])]
  vocab = vocabulary(config)
  students, answers, evidence, asked = {}, {}, set(), []
  at = 0
  while at < len(seq):
    if seq[at] == STUDENT:
      kind, student = vocab[seq[at + 1]]
      assert kind == "id" and student not in students and not asked
      students[student] = {}
      for j, field in enumerate(config.fields):
        kind, value = vocab[seq[at + 2 + j]]
        assert kind == field
        students[student][field] = value, at + 2 + j
      at += 2 + len(config.fields)
    elif seq[at] == QUESTION:
      words = [vocab[token] for token in seq[at + 1 : at + 6]]
      if words[0][0] == "id":
        (_, student), (_, field) = words[:2]
        value, where = students[student][field]
        expected, used, size = (field, value), [where], 2
      elif words[0][1] == MORE:
        (_, field), (_, a), (_, b) = words[1:4]
        one, other = students[a][field], students[b][field]
        assert one[0] != other[0] and field in ("year", "grade")
        expected = "id", a if one[0] > other[0] else b
        used, size = [one[1], other[1]], 4
      else:
        (_, kind), (_, field) = words[:2]
        assert field == "grade"
        grades = [student["grade"] for student in students.values()]
        values, used = zip(*grades, strict=True)
        mean = fractions.Fraction(sum(values), len(values))
        rounded = int(mean) + (mean - int(mean) >= fractions.Fraction(1, 2))
        result = {MAX: max(values), MIN: min(values), MEAN: rounded}[kind]
        expected, size = ("grade", result), 2
      answers[at + 1 + size] = len(asked), expected, min(used)
      assert words[size] == expected
      evidence |= set(used)
      asked.append(tuple(words[:size]))
      at += 2 + size
    else:
      assert vocab[seq[at]][0] != "mark" and not asked
      at += 1
  return answers, evidence, students, asked


@pytest.mark.parametrize("config", list(configs(30)))
def test_a_reader_answers_every_question(config):
  task = Task(config, SEED)
  assert task.vocab_size == len(vocabulary(config))
  for index in range(4):
    example = task.example("train", index, LENGTH)
    answers, evidence, students, asked = read(config, example)
    assert len(students) == config.num_students
    assert len(answers) == config.num_questions
    assert max(answers) == LENGTH  # they stand at the very end
    answer, distance = np.full(LENGTH, -1), np.full(LENGTH, -1)
    relevant = np.zeros(LENGTH, bool)
    for at, (number, _, farthest) in answers.items():
      answer[at - 1], distance[at - 1] = number, at - farthest
    relevant[np.array(sorted(evidence)) - 1] = True
    np.testing.assert_array_equal(example["answer"], answer)
    np.testing.assert_array_equal(example["distance"], distance)
    np.testing.assert_array_equal(example["relevant"], relevant)
    assert distance[answer >= 0].min() >= config.min_distance(LENGTH)
    different = {
      "recall": config.num_students * len(config.fields),
      "relation": None,
      "aggregate": 3,
    }[config.question]
    if different and config.num_questions <= different:
      assert len(set(asked)) == config.num_questions


def test_records_come_before_the_gap_and_the_nearest_case_occurs():
  config = Config(num_students=2, num_questions=1, gap_share=0.5)
  nearest = 10**6
  for index in range(500):
    example = Task(config, SEED).example("test", index, 64)
    nearest = min(nearest, example["distance"][-1])
    assert (example["tokens"][29:61] > 11).all()  # no mark in the gap
  assert nearest == config.min_distance(64) == 32 + 4


def test_everyone_is_alike_but_one():
  config = Config(
    question="relation", num_students=2, num_questions=5, num_grades=2,
    fields=("grade",), gap_share=0.1,
  )  # fmt: skip
  for index in range(50):
    *_, students, _ = read(config, Task(config, 0).example("train", index, 64))
    assert len({s["grade"][0] for s in students.values()}) == 2


def test_interference_and_weights():
  for share, expected in ((0.0, 0.0), (0.4, 0.4), (1.0, 1.0)):
    config = Config(interference=share, gap_share=0.1, context_weight=0.25)
    example = Task(config, SEED).example("train", 0, 8192)
    kinds = [vocabulary(config)[t][0] for t in example["tokens"][:8000]]
    filler = kinds.count("filler") / (8000 - 8 * 7)
    # Misleading filler is drawn from ids and values, evenly.
    assert abs((1 - filler) - expected) < 0.03
    weight = np.where(example["answer"] >= 0, 1.0, 0.25)
    np.testing.assert_array_equal(example["outer_weight"], weight)
    assert (example["inner_weight"] == 1).all()


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(question="why"), "task.question='why'"),
    (dict(fields=("age",)), "task.fields='age'"),
    (dict(fields=()), "must name at least one field"),
    (dict(fields=("year", "year")), "each once"),
    (dict(num_ids=7), "task.num_ids=7"),
    (dict(question="relation", fields=("name",)), "needs .* a field that has"),
    (dict(question="relation", num_students=1), "num_students=1 > 1"),
    (dict(question="aggregate", fields=("year",)), "add 'grade'"),
    (dict(interference=1.5), "task.interference=1.5"),
    (dict(gap_share=1.0), "task.gap_share=1.0"),
    (dict(answer_weight=0.0, context_weight=0.0), "nothing to learn"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    Config(**changes)


def test_the_length_that_an_error_names_is_enough():
  config = Config(num_students=9, gap_share=0.3)
  with pytest.raises(ValueError, match="a length of at least (\\d+)") as error:
    config.areas(80)
  least = int(str(error.value).split("at least ")[1].split(",")[0])
  config.areas(least)
  with pytest.raises(ValueError):
    config.areas(least - 2)


def experiment(config, learner=None, length=LENGTH, **model):
  model = dict(num_layers=4, window=32, attention="window") | model
  return types.SimpleNamespace(
    lengths=[("length", length)], chunk=32, learner=learner,
    model=types.SimpleNamespace(**model),
  )  # fmt: skip


def test_attention_must_not_reach():
  config = Config()  # 132 tokens at least
  config.check(experiment(config))
  with pytest.raises(ValueError, match="within 132 tokens .* reaches 133"):
    config.check(experiment(config, window=34))
  config.check(experiment(config, window=34, attention="full"))


def test_questions_are_read_alone():
  config = Config(gap_share=0.1)

  def check(questions, **changes):
    learner = types.SimpleNamespace(question_chunks=questions)
    config.check(experiment(config, learner, **changes))

  check(1)  # 32 tokens, and the questions are 32 tokens with the last target
  with pytest.raises(ValueError, match="records before 199 at length=256"):
    check(2)
  with pytest.raises(ValueError, match="the 36 tokens of the questions"):
    config = Config(num_questions=9, gap_share=0.1)
    check(1)


def test_an_experiment_of_it():
  tree = config_lib.template("student_records", learner="perk")
  assert config_lib.from_config_dict(tree).task == Config()
