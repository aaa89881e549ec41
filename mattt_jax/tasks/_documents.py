"""What tasks share that put facts in a document and ask about them at its end.

| facts at random places among filler ....... | gap (filler) | questions |
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mattt_jax.config import ModelConfig, require, require_share
from mattt_jax.data import splits
from mattt_jax.tasks import base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment


class Endless:
  """A task without an end; its `example` makes each from its index alone."""

  def __init__(self, config: Any, seed: int):
    self.config = config
    self.seed = seed
    self.vocab_size = config.vocab_size

  def size(self, split: str, length: int) -> None:
    """None: endless."""
    splits.require_split(split)

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence: always `length`."""
    return length


def require_document(config: Any) -> None:
  """Raises `ValueError` unless shares, depth and weights make sense."""
  require(
    0 <= config.interference <= 1,
    f"task.interference={config.interference} must lie in [0, 1]",
  )
  require_share("task.gap_share", config.gap_share)
  depth = getattr(config, "depth", None)
  require(
    depth is None or 0 <= depth <= 1,
    f"task.depth={depth} must lie in [0, 1], or be None",
  )
  require(
    config.answer_weight + config.context_weight > 0,
    "task.answer_weight=0 and task.context_weight=0 leave nothing to "
    "learn: make one of them positive",
  )


def reach(model: ModelConfig) -> int:
  """How far back, in tokens, a target can be predicted from by windows: the
  token before it, and as far as the features of that one look."""
  return model.num_layers * (model.window - 1) + 1


def areas(
  config: Any, length: int, facts: int, questions: int
) -> tuple[int, int]:
  """Where the area of the facts ends, and where the questions start.

  Args:
    config: its `gap_share` of `length` lies between the two.
    length: tokens of a sequence, without the target after the last one.
    facts: tokens that the area must hold.
    questions: tokens of the questions, answers included.

  Raises:
    ValueError: `length` cannot hold the facts, the gap and the questions.
  """
  questions_at = length + 1 - questions
  end = questions_at - round(config.gap_share * length)
  least = math.ceil((facts + questions - 1) / (1 - config.gap_share))
  require(
    facts <= end,
    f"length={length} is too short for {facts} tokens of facts and "
    f"{questions} of questions with task.gap_share={config.gap_share}: use a "
    f"length of at least {least}, fewer of them, or a smaller gap_share",
  )
  return end, questions_at


def require_out_of_reach(config: Any, experiment: "Experiment") -> None:
  """Raises `ValueError` where lengths do not fit or attention could answer.

  Args:
    config: `min_distance(length)` is the nearest that evidence can be to its
      answer; with `out_of_reach`, windowed attention must not get that far.
    experiment: its lengths and its model's reach count.
  """
  model = experiment.model
  for field, length in experiment.lengths:
    distance = config.min_distance(length)
    windowed = model.attention == "window" and config.out_of_reach
    require(
      not windowed or distance > reach(model),
      f"task.gap_share={config.gap_share} puts answers within {distance} "
      f"tokens of their evidence at {field}={length}, and attention reaches "
      f"{reach(model)} (model.num_layers={model.num_layers} * (model.window="
      f"{model.window} - 1) + 1): use a larger task.gap_share or {field}, a "
      "smaller model.window, or task.out_of_reach=False",
    )


def places(
  rng, area: int, number: int, size: int, depth: float | None = None
) -> np.ndarray:
  """Sorted starts of `number` facts of `size` tokens in the first `area`.

  Without a `depth` all placements are equally likely: choose which items of the
  area, if a fact counts as one item, are facts. With one they lie back to back,
  at the start of the area if it is 0, at its end if it is 1.
  """
  items = area - number * (size - 1)
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
  return np.where(
    foreign,
    rng.integers(first, own, number),
    rng.integers(own, end, number),
  ).astype(np.int32)


def example(
  config: Any,
  seq: np.ndarray,
  answer: np.ndarray,
  distance: np.ndarray,
  relevant: np.ndarray,
  scored: np.ndarray | None = None,
) -> base.Example:
  """The example of a document and the target after its last token.

  Args:
    config: its `answer_weight` is that of what is scored, its `context_weight`
      that of every other target.
    seq: [L + 1] tokens; the other arrays say of each what `base.Example` says
      of a target.
    answer: which answer a token belongs to, or -1.
    distance: tokens back to its evidence, or -1.
    relevant: bool, is asked for later.
    scored: bool, has the weight of answers; None: the answers.
  """
  scored = answer >= 0 if scored is None else scored
  weight = np.where(scored, config.answer_weight, config.context_weight)
  return {
    "tokens": seq[:-1],
    "targets": seq[1:],
    "inner_weight": np.ones(len(seq) - 1, np.float32),
    "outer_weight": weight[1:].astype(np.float32),
    "answer": answer[1:],
    "distance": distance[1:],
    "relevant": relevant[1:],
  }
