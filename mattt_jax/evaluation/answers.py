"""Answers to the questions that a text asks: chosen by loss, or written.

A text is read once, chunk by chunk. The chunk of a question is read again from
the state at its start, up to the answer, then each candidate or what the model
writes: inner steps and memory writes are those of a text that says so.

    chosen    The candidate of the lowest mean loss a token (length-normalised,
              as in 2005.14165). It must be the only one: equals are wrong.
    written   Greedily, scored by the rules of `text_match`.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment, require
from mattt_jax.evaluation import bootstrap, own_rules, text_match
from mattt_jax.evaluation.reader import Reader, state_of
from mattt_jax.tasks import batches as batches_lib
from mattt_jax.tasks.base import Question, QuestionTask, Task
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.tokens import tokens_of

KINDS = ("forced", "choice", "written")


def require_questions(
  text: str, task: Task, learner: Learner, kinds: Sequence[str]
) -> QuestionTask:
  """The task, if its questions can be answered so.

  Args:
    text: what the task is called in messages.
    task: of these questions.
    learner: which answers.
    kinds: of `KINDS`, without "forced".

  Raises:
    ValueError: the task has no questions, the learner cannot read in parts, or
      what it writes are not the task's tokens.
  """
  if not isinstance(task, QuestionTask):
    able = (
      name
      for name in registry.names(config_lib.TASKS)
      if hasattr(registry.load(config_lib.TASKS, name).Task, "questions")
    )
    raise ValueError(
      f"task {text!r} has no questions to answer: use --answers=forced, or one "
      f"of {', '.join(able)}"
    )
  require(
    learner.streams,
    f"answers={','.join(kinds)} needs a system that carries a state on while "
    "it reads, and this one reads only whole sequences: use --answers=forced",
  )
  require(
    "written" not in kinds or task.vocab_size == learner.model.vocab_size,
    f"answers=written: task {text!r} has {task.vocab_size} tokens, the model "
    f"{learner.model.vocab_size}: use the tokenizer that it was trained with",
  )
  return task


def collect(
  text: str,
  task: QuestionTask,
  experiment: Experiment,
  split: str,
  length: int,
  kinds: Sequence[str],
) -> list[list[Question]]:
  """The questions of each sequence that will be read.

  Raises:
    ValueError: there are none, for "choice" none with two choices, or for
      "written" one of a set whose rule is not here.
  """
  number, size = experiment.eval.sequences, task.size(split, length)
  questions = [
    task.questions(split, index, length, experiment.eval.choices)
    for index in range(number if size is None else min(number, size))
  ]
  every = [question for row in questions for question in row]
  choices = max((len(question.choices) for question in every), default=-1)
  about = f"task {text!r}, length={length}, split={split!r}: "
  require(
    choices >= 0,
    f"{about}nothing is asked in {len(questions)} sequences: use a larger "
    "length, or more --sequences",
  )
  require(
    choices > 1 or "choice" not in kinds,
    f"{about}no question has choices: use --answers=written, or a set of "
    "multiple choice",
  )
  if "written" in kinds:
    for metric in {question.metric for question in every}:
      own_rules.check(metric)
  return questions


def measure(
  reader: Reader,
  task: QuestionTask,
  split: str,
  length: int,
  asked: Sequence[Sequence[Question]],
  kinds: Sequence[str],
) -> dict[str, Any]:
  """Reads sequences and answers their questions.

  Args:
    reader: gives also `chunk` and `eval.batch_size`.
    task: gives the sequences.
    split: as of the questions.
    length: as of the questions.
    asked: as `collect` gives them.
    kinds: "choice", "written" or both.

  Returns:
    `sequences`; for questions with two or more choices `choice_questions`,
    `choice_accuracy`, `choice_chance` and `choice_<rule>` of rules that guess;
    for all `written_questions`, `written_exact_match`, `written_f1`,
    `written_string_match` and `written_<rule>` of `own_rules.own_rule`; and the
    `intervals` of these shares, of 95 %, by bootstrap of sequences.
  """
  chunk = reader.experiment.chunk
  size = reader.experiment.eval.batch_size
  shape = _shape(asked, chunk)
  room = max(question.room for row in asked for question in row) + 1
  context = length + max(shape[1], math.ceil(room / chunk) * chunk)
  shares = _Shares(len(asked))
  batches = batches_lib.eval_batches(task, split, length, len(asked), size)
  for first, batch in zip(range(0, len(asked), size), batches, strict=True):
    tokens = tokens_of(batch)
    by_chunk = _by_chunk(asked[first : first + size], chunk)
    chunks = range(max(by_chunk, default=-1) + 1)
    states = reader.states(tokens, context)
    for number, state in zip(chunks, states, strict=False):
      for row, question in by_chunk[number]:
        row_state = state_of(state, row)
        tokens_L = jax.tree.map(lambda x, row=row: x[row], tokens)
        if "choice" in kinds and len(question.choices) > 1:
          loss_K = reader.choice_losses(row_state, tokens_L, question, shape)
          shares.add(first + row, "choice", _choice_scores(question, loss_K))
        if "written" in kinds:
          text = reader.write(
            row_state, tokens_L, question, task.tokenizer, context
          )
          shares.add(first + row, "written", _written_scores(question, text))
  return {
    "sequences": len(asked),
    **shares.questions,
    **bootstrap.summary(shares.sums),
  }


def _by_chunk(
  asked: Sequence[Sequence[Question]], chunk: int
) -> dict[int, list[tuple[int, Question]]]:
  """Rows and questions of each chunk."""
  by_chunk = collections.defaultdict(list)
  for row, questions in enumerate(asked):
    for question in questions:
      by_chunk[question.at // chunk].append((row, question))
  return by_chunk


def _choice_scores(question: Question, loss_K: np.ndarray) -> dict[str, float]:
  return {
    "accuracy": bool(np.all(loss_K[0] < loss_K[1:])),
    "chance": 1 / len(question.choices),
    **question.guesses,
  }


def _written_scores(question: Question, text: str) -> dict[str, float]:
  references = question.references
  return {
    "exact_match": text_match.exact_match(text, references),
    "f1": text_match.f1(text, references),
    "string_match": text_match.string_match(text, references, any_of=True),
    **own_rules.own_rule(
      question.metric, text, references, question.asked, question.labels
    ),
  }


class _Shares:
  """Sums of scores and of questions, of each of N sequences."""

  def __init__(self, sequences: int):
    self.sums: dict[str, np.ndarray] = collections.defaultdict(
      lambda: np.zeros((sequences, 2))
    )
    self.questions: collections.Counter[str] = collections.Counter()

  def add(self, row: int, kind: str, scores: Mapping[str, float]) -> None:
    self.questions[f"{kind}_questions"] += 1
    for name, score in scores.items():
      self.sums[f"{kind}_{name}"][row] += score, 1


def _shape(asked, chunk: int) -> tuple[int, int]:
  """Most candidates of a question, and tokens (whole chunks) to read of each:
  one shape, and one program, for all questions."""
  questions = [question for row in asked for question in row]
  tokens = max(
    q.at % chunk + max(map(len, q.choices), default=0) for q in questions
  )
  candidates = max(len(q.choices) for q in questions)
  return candidates, math.ceil(tokens / chunk) * chunk
