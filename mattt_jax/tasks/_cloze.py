"""Names met far back in a real text as answers: what such tasks share."""

import dataclasses

import numpy as np

from mattt_jax.config import Experiment, require
from mattt_jax.data.tokenizer import Tokenizer
from mattt_jax.tasks import _documents, _texts, base


@dataclasses.dataclass(frozen=True)
class Config(_texts.Config):
  """Settings, in addition to those of all texts; distances are in tokens."""

  beyond: int = 128  # the evidence ended further back than this
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the tokens of answers
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    super().__post_init__()
    _documents.require_least(self, beyond=0)
    _documents.require_weights(self)

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if files are missing or shorter than one chunk, no
    length has room for an answer or, with `out_of_reach`, attention could see
    its evidence."""
    super().check(experiment)
    longest = max(length for _, length in experiment.lengths)
    require(
      self.beyond < longest,
      f"task.beyond={self.beyond} must be smaller than the longest length, "
      f"{longest}: make it smaller, or the length larger",
    )
    model = experiment.model
    reach = _documents.reach(model)
    windowed = model.attention == "window" and self.out_of_reach
    require(
      not windowed or self.beyond >= reach,
      f"task.beyond={self.beyond} puts names within the {reach} tokens that "
      f"attention reaches (model.num_layers={model.num_layers} * "
      f"(model.window={model.window} - 1) + 1): use task.beyond={reach} or "
      "more, a smaller model.window, or task.out_of_reach=False",
    )


@dataclasses.dataclass(frozen=True)
class Cloze:
  """A name that is asked for.

  The tokens of a name in its place are `tokenizer.encode(before + name)`.
  """

  at: int  # which target its first token is
  names: tuple[str, ...]  # to choose from; as a rule as they were met
  right: int  # which of them it is
  mentions: np.ndarray  # [mentions so far] int64, which name each is, in order
  before: str  # what its first token says before it (a space, or nothing)

  def question(
    self, tokenizer: Tokenizer, most: int, end: str = ""
  ) -> base.Question:
    """Asks for a choice among `most` names: the right one, and others drawn.

    They are drawn because how far back they are would tell those met last from
    the right one. `end` follows each name, so that none is the beginning of
    another. Rules that guess choose among the same names.
    """
    others = np.setdiff1d(self.mentions, [self.right])
    drawn = np.random.default_rng(self.at).permutation(others)
    kept = [self.right, *drawn.tolist()][:most]
    encode, ends = tokenizer.encode, [tokenizer.encode(end)] if end else []
    written = tuple(
      np.concatenate([encode(self.before + self.names[k]), *ends]) for k in kept
    )
    mentions = self.mentions[np.isin(self.mentions, kept)]
    return base.Question(
      at=self.at,
      choices=written,
      references=(self.names[self.right].strip(),),
      room=len(written[0]),
      end=end,
      guesses={
        "majority": majority(mentions) == self.right,
        "nearest_mention": nearest_mention(mentions) == self.right,
      },
    )


class Task(_texts.Task):
  """Documents in which names are asked for."""

  line_end = ""  # after an answer

  def choices(self, split: str, index: int, length: int) -> list[Cloze]:
    """The answers of example `index`, by number, and what to choose from."""
    raise NotImplementedError

  def questions(
    self, split: str, index: int, length: int, most: int
  ) -> list[base.Question]:
    """The answers of example `index`, each among `most` names.

    Raises:
      ValueError: as `choices`.
    """
    return [
      cloze.question(self.tokenizer, most, self.line_end)
      for cloze in self.choices(split, index, length)
    ]

  def size(self, split: str, length: int) -> int | None:
    """Number of different examples, None if endless."""
    raise NotImplementedError

  def guessing(
    self, split: str, length: int, sequences: int
  ) -> dict[str, float | None]:
    """Shares of answers of the first `sequences` examples that guesses among
    all names have right: `chance` (any of them), `majority`,
    `nearest_mention`; None if there are no answers."""
    size = self.size(split, length)
    number = sequences if size is None else min(sequences, size)
    clozes = [c for i in range(number) for c in self.choices(split, i, length)]
    right: dict[str, list[float]] = {
      "chance": [1 / len(c.names) for c in clozes],
      "majority": [majority(c.mentions) == c.right for c in clozes],
      "nearest_mention": [
        nearest_mention(c.mentions) == c.right for c in clozes
      ],
    }
    return {k: float(np.mean(v)) if v else None for k, v in right.items()}


def majority(mentions: np.ndarray) -> int:
  """Name mentioned most; the first of equals."""
  return int(np.bincount(mentions).argmax())


def nearest_mention(mentions: np.ndarray) -> int:
  """Name mentioned last."""
  return int(mentions[-1])
