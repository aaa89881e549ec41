"""Tasks and their examples, each a function of (split, index) alone."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from mattt_jax.data.splits import SPLITS, require_split

if TYPE_CHECKING:
  from mattt_jax.config import Experiment
  from mattt_jax.data.tokenizer import Tokenizer


def example_rng(seed: int, split: str, index: int) -> np.random.Generator:
  """The random numbers of one example: the same in every process, any order.

  The arguments are the key of a counter-based generator (two words of 64 bits),
  so that no two examples of any split share a stream.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  require_split(split)
  if seed < 0 or index < 0:
    raise ValueError(f"seed={seed} and index={index} must not be negative")
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
  # [L] bool: this target is asked for later, so that an oracle of what to write
  # keeps it; all False where a task cannot know.
  relevant: np.ndarray


class Config(Protocol):
  """A task file's frozen settings, `Config`; `check` runs before compiling."""

  def check(self, experiment: "Experiment") -> None:
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

    `step` is the outer step that the example is for, on which a curriculum
    depends; None: the end of the curriculum.
    """

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence at outer step `step` (a curriculum may
    start shorter than `length`); a multiple of the chunk.
    """


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
    """A checksum of each document, or part of the data, by its name."""


def checksum(content: bytes | str) -> str:
  """The beginning of the sha256 of a text."""
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

  tokenizer: "Tokenizer"

  def questions(
    self, split: str, index: int, length: int, most: int
  ) -> list[Question]:
    """What `example(split, index, length)` asks, in order.

    Args:
      split: as of `example`.
      index: as of `example`.
      length: as of `example`.
      most: choices of a question, at least 2; the arguments alone determine
        them.
    """


@runtime_checkable
class GuessingTask(Task, Protocol):
  """A task that knows how often rules without a model guess its answers."""

  def guessing(
    self, split: str, length: int, sequences: int
  ) -> Mapping[str, float | None]:
    """The share of answers that each rule, by its name, has right; None: there
    are none."""
