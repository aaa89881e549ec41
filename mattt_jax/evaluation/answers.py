"""Answers to the questions that a text asks: chosen by loss, or written.

A text is read once, chunk by chunk. Where a question lies, its chunk is read
again from the state at the chunk's start, up to the answer, with each candidate
after it, or with what the model writes: the inner steps and memory writes are
those of a text that says so, whichever ends of chunks the answer crosses.

    chosen    The candidate of the lowest mean loss a token, which does not
              prefer short ones as a sum does (length-normalised, as in
              2005.14165). It must be the only one: equals are wrong.
    written   Greedily, scored by the rules of `text_match`; of several
              references the best, or the one that is in the answer, counts.
"""

import collections
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment, require
from mattt_jax.data.tokenizer import Tokenizer
from mattt_jax.evaluation import bootstrap, own_rules, reader, text_match
from mattt_jax.inference.generate import generate
from mattt_jax.inference.session import Session
from mattt_jax.tasks import batches as batches_lib
from mattt_jax.tasks.base import Question, QuestionTask, Task
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.coordination import rate_scale
from mattt_jax.ttt.inner_loop import Learner, read_sequence

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
    raise ValueError(
      f"task {text!r} has no questions to answer: use --answers=forced, or one "
      f"of {', '.join(_tasks())}"
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


def _tasks() -> list[str]:
  names = registry.names(config_lib.TASKS)
  return [
    name
    for name in names
    if hasattr(registry.load(config_lib.TASKS, name).Task, "questions")
  ]


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
  wanted, size = experiment.eval.sequences, task.size(split, length)
  asked = [
    task.questions(split, index, length, experiment.eval.choices)
    for index in range(wanted if size is None else min(wanted, size))
  ]
  number = max((len(q.choices) for row in asked for q in row), default=-1)
  about = f"task {text!r}, length={length}, split={split!r}: "
  require(
    number >= 0,
    f"{about}nothing is asked in {len(asked)} sequences: use a larger length, "
    "or more --sequences",
  )
  require(
    number > 1 or "choice" not in kinds,
    f"{about}no question has choices: use --answers=written, or a set of "
    "multiple choice",
  )
  if "written" in kinds:
    for metric in {question.metric for row in asked for question in row}:
      own_rules.check(metric)
  return asked


def measure(
  experiment: Experiment,
  learner: Learner,
  task: QuestionTask,
  split: str,
  length: int,
  asked: Sequence[Sequence[Question]],
  kinds: Sequence[str],
  *,
  inner: bool,
  memory: bool,
  step: int | None = None,
) -> dict[str, Any]:
  """Reads sequences and answers their questions.

  Args:
    experiment: gives `chunk` and `eval.batch_size`.
    learner: is not changed.
    task: gives the sequences.
    split: as of the questions.
    length: as of the questions.
    asked: as `collect` gives them.
    kinds: "choice", "written" or both.
    inner: whether the fast weights learn while reading.
    memory: whether the memory is read and written.
    step: as in `evaluate`.

  Returns:
    `sequences`; of the questions with two or more choices `choice_questions`,
    `choice_accuracy`, `choice_chance` and, where the task has rules that guess,
    `choice_<rule>`; of all `written_questions`, `written_exact_match`,
    `written_f1`, `written_string_match`, and of those of a set with a rule of
    its own (`own_rules.own_rule`) `written_<rule>`; and `intervals` of these
    shares, of 95 %, by bootstrap of sequences.
  """
  graphdef, params = nnx.split(learner)
  scale = 1.0 if step is None else rate_scale(experiment.inner, step)
  parts = {"inner": inner, "memory": memory}
  chunk, size = experiment.chunk, experiment.eval.batch_size
  shape = _shape(asked, chunk)
  room = max(question.room for row in asked for question in row) + 1
  context = length + max(shape[1], math.ceil(room / chunk) * chunk)
  shares = _Shares(len(asked))
  batches = batches_lib.eval_batches(task, split, length, len(asked), size)
  for first, batch in zip(range(0, len(asked), size), batches, strict=True):
    here = collections.defaultdict(list)  # the questions of each chunk
    for row, questions in enumerate(asked[first : first + size]):
      for question in questions:
        here[question.at // chunk].append((row, question))
    states = reader.states(graphdef, params, batch, context, scale, **parts)
    wanted = range(max(here, default=-1) + 1)
    for number, state in zip(wanted, states, strict=False):
      for row, question in here[number]:
        own = _row(state, row)
        example = {key: batch[key][row] for key in reader.READ}
        if "choice" in kinds and len(question.choices) > 1:
          loss_K = choice_losses(
            graphdef, params, own, example, question, shape, scale, **parts
          )
          right = bool(np.all(loss_K[0] < loss_K[1:]))
          shares.add(first + row, "choice", {
            "accuracy": right,
            "chance": 1 / len(question.choices),
            **question.guesses,
          })  # fmt: skip
        if "written" in kinds:
          text = write(
            learner, own, example["tokens"], question, task.tokenizer, context,
            scale, **parts,
          )  # fmt: skip
          references = question.references
          shares.add(first + row, "written", {
            "exact_match": text_match.exact_match(text, references),
            "f1": text_match.f1(text, references),
            "string_match": text_match.string_match(
              text, references, any_of=True
            ),
            **own_rules.own_rule(
              question.metric, text, references, question.asked, question.labels
            ),
          })  # fmt: skip
  return {"sequences": len(asked), **shares.summary()}


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

  def summary(self) -> dict[str, Any]:
    totals = {name: sums_Nx2.sum(0) for name, sums_Nx2 in self.sums.items()}
    return {
      **self.questions,
      **{name: float(total / count) for name, (total, count) in totals.items()},
      "intervals": {
        name: bootstrap.interval(*sums_Nx2.T)
        for name, sums_Nx2 in self.sums.items()
      },
    }


def _shape(asked, chunk: int) -> tuple[int, int]:
  """Candidates of a question, and tokens (whole chunks) to read of each: one
  shape, and one program, for all questions."""
  questions = [question for row in asked for question in row]
  return max(len(q.choices) for q in questions), max(
    math.ceil((q.at % chunk + max(map(len, q.choices), default=0)) / chunk)
    * chunk
    for q in questions
  )


def choice_losses(
  graphdef: nnx.GraphDef,
  params: Any,
  state: ContextState,
  example: Mapping[str, np.ndarray],
  question: Question,
  shape: tuple[int, int],
  scale: Any = 1.0,
  *,
  inner: bool,
  memory: bool,
) -> np.ndarray:
  """The mean loss a token of each choice, in its place: [K] float64.

  Args:
    graphdef: of the learner.
    params: of the learner.
    state: of the sequence before the chunk in which the question lies.
    example: `reader.READ` of the sequence, arrays [L].
    question: has choices.
    shape: (candidates, tokens) to read, at least as many as there are; whole
      chunks of tokens.
    scale: multiplies the inner learning rate.
    inner: whether the fast weights learn while reading.
    memory: whether the memory is read and written.
  """
  chunk = nnx.merge(graphdef, params).chunk
  start, at = question.at // chunk * chunk, question.at
  arrays = {key: np.zeros(shape, example[key].dtype) for key in reader.READ}
  before = at - start  # targets
  for row, choice in enumerate(question.choices):
    stop = before + len(choice)
    for key, array in arrays.items():
      array[row, :before] = example[key][start:at]
    arrays["tokens"][row, before] = example["tokens"][at]
    arrays["tokens"][row, before + 1 : stop] = choice[:-1]
    arrays["targets"][row, before:stop] = choice
    arrays["inner_weight"][row, before:stop] = 1
  loss_KxL = np.asarray(_losses(
    graphdef, params, state, [arrays[key] for key in reader.READ], scale,
    inner=inner, memory=memory,
  ))  # fmt: skip
  return np.array([
    np.mean(loss_L[before : before + len(choice)], dtype=np.float64)
    for loss_L, choice in zip(loss_KxL, question.choices, strict=False)
  ])  # fmt: skip


def write(
  learner: Learner,
  state: ContextState,
  tokens_L: np.ndarray,
  question: Question,
  tokenizer: Tokenizer,
  context_length: int,
  scale: Any = 1.0,
  *,
  inner: bool,
  memory: bool,
) -> str:
  """What the learner answers, greedily: up to the question's `end`, which is
  left out, or `room` tokens.

  Args:
    learner: is not changed.
    state: of the sequence before the chunk in which the question lies.
    tokens_L: of the whole sequence.
    question: is answered.
    tokenizer: knows every token that the learner can write.
    context_length: that the state was made for.
    scale: multiplies the inner learning rate.
    inner: whether the fast weights learn while reading.
    memory: whether the memory is read and written.
  """
  session = Session(
    learner, context_length, inner=inner, memory=memory, rate_scale=scale,
    state=state,
  )  # fmt: skip
  session.read(tokens_L[session.position : question.at + 1])
  end, written, text = question.end, list[int](), ""
  while len(written) < question.room and not (end and end in text):
    written += generate(session, 1, jax.random.key(0), temperature=0)
    text = tokenizer.decode(written)
  return text.partition(end)[0] if end else text


@jax.jit
def _row(state: ContextState, row: int) -> ContextState:
  return jax.tree.map(lambda x: x[row], state)


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=("inner", "memory")
)
def _losses(graphdef, params, state, arrays, scale, *, inner, memory):
  """The loss of each token of K texts after `state`: [K, L]."""

  def read(*arrays_L):
    learner = nnx.merge(graphdef, params)
    _, out = read_sequence(
      learner, state, *arrays_L, inner=inner, memory=memory, rate_scale=scale
    )
    return out.loss_C.reshape(-1)

  return jax.vmap(read)(*arrays)
