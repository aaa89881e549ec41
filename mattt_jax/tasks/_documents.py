"""Facts in a document, and questions at its end: what such tasks share.

| facts at random places among filler ....... | gap (filler) | questions |
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from mattt_jax.config import (
  Experiment,
  ModelConfig,
  require,
  require_at_least,
  require_share,
)
from mattt_jax.data import splits
from mattt_jax.tasks import base
from mattt_jax.tasks._drafts import Draft


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of such documents; lengths and distances are in tokens."""

  num_fillers: int = 64
  # Share of filler that can be confused with facts; a task says how.
  interference: float = 0.5
  # Place of the facts, back to back, from the start (0) of what is before the
  # gap to its end (1). None: each at a random place.
  depth: float | None = None
  gap_share: float = 0.5  # filler between facts and questions, of length
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the answers
  context_weight: float = 1.0  # outer weight of every other target

  # The fields that say how many facts and questions there are.
  counts: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    require_least(self, num_fillers=1)
    require(
      0 <= self.interference <= 1,
      f"task.interference={self.interference} must lie in [0, 1]",
    )
    require_share("task.gap_share", self.gap_share)
    require(
      self.depth is None or 0 <= self.depth <= 1,
      f"task.depth={self.depth} must lie in [0, 1], or be None",
    )
    require_weights(self)

  @property
  def fact_tokens(self) -> int:
    """Tokens of all facts."""
    raise NotImplementedError

  @property
  def question_tokens(self) -> int:
    """Tokens of all questions, answers included."""
    raise NotImplementedError

  @property
  def least_distance(self) -> int:
    """Least distance of an answer if there were no gap."""
    raise NotImplementedError

  @property
  def first_filler(self) -> int:
    """The first token that is nothing but filler; all after it are."""
    raise NotImplementedError

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  def areas(self, length: int) -> tuple[int, int]:
    """As the function `areas`."""
    return areas(self, length, self.fact_tokens, self.question_tokens)

  def min_distance(self, length: int) -> int:
    """Least distance that an answer can have; raises what `areas` does."""
    end, questions_at = self.areas(length)
    return questions_at - end + self.least_distance

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` where lengths do not fit or, with `out_of_reach`,
    attention could answer."""
    require_out_of_reach(self, experiment, experiment.lengths)


@dataclasses.dataclass(frozen=True)
class PairConfig(Config):
  """Settings of documents that bind keys to values."""

  num_keys: int = 64
  num_values: int = 64

  first_key: ClassVar[int]  # keys, then values, then filler

  @property
  def first_value(self) -> int:
    return self.first_key + self.num_keys

  @property
  def first_filler(self) -> int:
    return self.first_value + self.num_values


class Task(base.BaseTask):
  """Endless examples, each made from (seed, split, index) alone."""

  def __init__(self, config: Any, seed: int):
    super().__init__(config, seed)
    self.vocab_size = config.vocab_size

  def size(self, split: str, length: int) -> None:
    """None: endless."""
    splits.require_split(split)

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens, as hard as at `step`.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    draft = self.draft(base.example_rng(self.seed, split, index), length, step)
    return draft.example(self.config.answer_weight, self.config.context_weight)

  def draft(
    self, rng: np.random.Generator, length: int, step: int | None
  ) -> Draft:
    """Draws an example; `ValueError`: `length` is too short."""
    raise NotImplementedError


def require_least(config: Any, **least: float) -> None:
  """Raises `ValueError` unless each named setting is at least so much."""
  for field, value in least.items():
    require_at_least(f"task.{field}", getattr(config, field), value)


def require_weights(config: Any) -> None:
  """Raises `ValueError` unless the outer weights make sense."""
  require_least(config, answer_weight=0, context_weight=0)
  require(
    config.answer_weight + config.context_weight > 0,
    "task.answer_weight=0 and task.context_weight=0 leave nothing to "
    "learn: make one of them positive",
  )


def require_ramp(field: str, ramp: tuple[int, int]) -> None:
  """Raises `ValueError` unless a ramp is two rising steps, or (0, 0)."""
  start, end = ramp
  require(
    ramp == (0, 0) or 0 <= start < end,
    f"task.{field}={ramp} must be (first step, later step), or (0, 0) for none",
  )


def ramped(peak: float, ramp: tuple[int, int], step: int | None) -> float:
  """Value at outer step `step` of a ramp from 0 to `peak`; None: `peak`."""
  start, end = ramp
  if step is None or step >= end:
    return peak
  return peak * max(0, step - start) / (end - start)


def reach(model: ModelConfig) -> int:
  """Farthest token, counted back from a target, that windows show to its
  prediction: the token before it sees `window` - 1 more in each layer."""
  return model.num_layers * (model.window - 1) + 1


def areas(
  config: Any, length: int, facts: int, questions: int
) -> tuple[int, int]:
  """Where the area of `facts` tokens ends, and where those of the `questions`
  start; `config.gap_share` of `length` lies between the two.

  Raises:
    ValueError: `length` cannot hold the facts, the gap and the questions.
  """
  questions_at = length + 1 - questions
  end = questions_at - round(config.gap_share * length)
  least = math.ceil((facts + questions - 1) / (1 - config.gap_share))
  require(
    facts <= end,
    f"length={length} is too short for "
    + "".join(f"task.{n}={getattr(config, n)}, " for n in config.counts)
    + f"{facts} tokens of facts and {questions} of questions with "
    f"task.gap_share={config.gap_share}: use a length of at least {least}, "
    "fewer of them, or a smaller gap_share",
  )
  return end, questions_at


def require_out_of_reach(
  config: Any,
  experiment: Experiment,
  lengths: list[tuple[str, int]],
  whole_gap: bool = True,
) -> None:
  """Raises `ValueError` where lengths do not fit or attention could answer.

  Args:
    config: with `out_of_reach`, windowed attention must not reach as far as
      `min_distance(length)`.
    experiment: has the chunk and the model.
    lengths: (field, tokens) of each length.
    whole_gap: all of the gap lies between the facts and the questions.
  """
  model, chunk = experiment.model, experiment.chunk
  seen = reach(model) if model.attention == "window" else 0
  for field, length in lengths:
    distance = config.min_distance(length)
    if not config.out_of_reach or distance > seen:
      continue
    fixes = ["use a smaller model.window"]
    if whole_gap:
      gap = round(config.gap_share * length) + seen + 1 - distance
      if gap < length:
        fixes += [f"task.gap_share >= {math.ceil(100 * gap / length) / 100}"]
      if config.gap_share:
        enough = math.ceil(gap / config.gap_share / chunk) * chunk
        fixes += [f"{field} >= {enough}"]
    raise ValueError(
      f"task.gap_share={config.gap_share} puts answers within {distance} "
      f"tokens of their evidence at {field}={length}, and attention reaches "
      f"{seen} (model.num_layers={model.num_layers} * (model.window="
      f"{model.window} - 1) + 1): {' or '.join(fixes)}, or use "
      "task.out_of_reach=False"
    )


def places(
  rng, area: int, number: int, size: int, depth: float | None = None
) -> np.ndarray:
  """Sorted starts of `number` facts of `size` tokens in the first `area`.

  Without a `depth` all placements are equally likely; with one they lie back to
  back, from the start of the area (0) to its end (1).
  """
  items = area - number * (size - 1)  # if a fact counts as one
  if depth is not None:
    return round(depth * (items - number)) + np.arange(number) * size
  starts = np.sort(rng.choice(items, number, replace=False))
  return starts + np.arange(number) * (size - 1)


def filler(
  rng, number: int, interference: float, first: int, own: int, end: int
) -> np.ndarray:
  """`number` tokens from `own` .. `end` - 1, a share `interference` of them
  misleading, from `first` .. `own` - 1."""
  foreign = rng.random(number) < interference
  misleading = rng.integers(first, own, number)
  plain = rng.integers(own, end, number)
  return np.where(foreign, misleading, plain).astype(np.int32)
