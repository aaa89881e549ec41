"""Tasks and their examples, each a function of (split, index) alone."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from mattt_jax.config import Experiment, require
from mattt_jax.data.splits import SPLITS, require_split
from mattt_jax.data.tokenizer import Tokenizer


def example_rng(seed: int, split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, the same in every process and any order.

  The arguments are the key of a counter-based generator: no two examples of
  any split share a stream.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  require_split(split)
  require(
    seed >= 0 and index >= 0,
    f"seed={seed} and index={index} must not be negative",
  )
  key = (seed, index * len(SPLITS) + SPLITS.index(split))
  return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


class Example(TypedDict):
  """One sequence of L tokens. `B` sequences of a batch are stacked in front.

  `inner_weight` is what test-time training learns on (0: padding, or a target
  that does not exist), `outer_weight` what the meta loss scores.
  """

  tokens: np.ndarray  # [L] int32
  targets: np.ndarray  # [L] int32, the next token
  inner_weight: np.ndarray  # [L] float32
  outer_weight: np.ndarray  # [L] float32
  answer: np.ndarray  # [L] int32: which answer this target belongs to, or -1
  distance: np.ndarray  # [L] int32: tokens back to its evidence, or -1
  relevant: np.ndarray  # [L] bool: asked for later; False if a task cannot know


class Config(Protocol):
  """A task file's frozen settings, `Config`; `check` runs before compiling."""

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if the experiment's sizes do not fit the task."""


class Task(Protocol):
  """A task file's `Task(config, seed)`.

  The same (split, index, length, step) gives the same example on any host,
  whatever was asked before.
  """

  vocab_size: int

  def size(self, split: str, length: int) -> int | None:
    """Number of different examples, None if endless."""

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> Example:
    """Example `index` of `split`, `length` tokens.

    `step` is the outer step, for a curriculum; None: the end of it.
    """

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence at outer step `step`, a multiple of the
    chunk; a curriculum may start shorter than `length`."""


class BaseTask:
  """A task whose training sequences all have the experiment's length."""

  def __init__(self, config: Any, seed: int):
    self.config = config
    self.seed = seed

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence: always `length`."""
    return length


@runtime_checkable
class ReadingTask(Task, Protocol):
  """A task that reads files: a run resumes with the same ones only."""

  def contents(self) -> dict[str, str]:
    """Checksum of each document, or part of the data, by its name."""


def at_index(items: Any, index: int, what: str) -> Any:
  """Item `index`, or `ValueError`; `what` says what an item is."""
  require(
    0 <= index < len(items),
    f"index={index} is no {what}: there are {len(items)}, counted from 0",
  )
  return items[index]


def checksum(content: bytes | str) -> str:
  """Beginning of the sha256 of a text."""
  content = content.encode() if isinstance(content, str) else content
  return hashlib.sha256(content).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Question:
  """A question that an example asks, and what is known about its answer."""

  at: int  # which target the first token of the answer is
  choices: tuple[np.ndarray, ...]  # tokens of each, the right one first; or ()
  references: tuple[str, ...]  # every right answer, as text
  room: int  # tokens that a written answer may have
  end: str = ""  # text that ends a written answer before that; "": none does
  # The set's own rule for written answers (`own_rules.own_rule`), and what it
  # needs: the question as text, every possible answer.
  metric: str = ""
  asked: str = ""
  labels: tuple[str, ...] = ()
  # Whether rules that guess without a model are right, by name.
  guesses: Mapping[str, bool] = dataclasses.field(default_factory=dict)


@runtime_checkable
class QuestionTask(Task, Protocol):
  """A task whose answers can also be chosen or written."""

  tokenizer: Tokenizer

  def questions(
    self, split: str, index: int, length: int, most: int
  ) -> list[Question]:
    """Questions of `example(split, index, length)`, in order, each with at
    most `most` choices (2 or more), which the arguments alone determine."""


@runtime_checkable
class GuessingTask(Task, Protocol):
  """A task that knows how often rules without a model guess its answers."""

  def guessing(
    self, split: str, length: int, sequences: int
  ) -> Mapping[str, float | None]:
    """Share of answers that each rule has right, by its name; None: there are
    no answers."""
