"""Multi-query associative recall, its queries at power-law distances.

MQAR of zoology (arXiv 2312.04927). A sequence of `length` tokens, and the
target after its last one, is

    | k v k v ... k v | gap (filler) | .. k v .... k v ........ k v ... |
      all pairs                        the queries among filler

The place of each query is one of the slots of two tokens after the gap. Slot
g = 1, 2, .. is drawn with a probability in proportion to g^(power - 1), the
power law that gaps between repeated bigrams of real text follow, and no slot
twice. Every key is asked for once, by nothing but itself: filler never holds a
key of this document. A share `interference` of it is drawn from the other keys
and the values.

The pairs stand first, or at `depth` in the gap; `gap_share` and `power` say how
far back that is. As published: no gap, so that most queries come soon, many of
them in reach of attention; results are read by distance. What the publication
scores without showing it, the value, stands after its query here, as in any
text.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import (
  require,
  require_at_least,
  require_positive,
)
from mattt_jax.tasks import _documents, base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

FIRST_KEY = 1  # token 0 is unused; keys, then values, then filler


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; lengths and distances are in tokens."""

  num_keys: int = 64
  num_values: int = 64
  num_fillers: int = 64
  num_pairs: int = 16  # of different keys and different values
  power: float = 0.01  # of the power law of places; 1: uniform
  interference: float = 1.0  # share of filler drawn from keys and values
  gap_share: float = 0.0  # filler between pairs and queries, share of length
  # Share of that filler that stands before the pairs, which stay back to back.
  depth: float = 0.0
  out_of_reach: bool = False  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the values of the queries
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    for field, least in (("num_fillers", 1), ("num_pairs", 1),
                         ("answer_weight", 0), ("context_weight", 0),
                         ):  # fmt: skip
      require_at_least(f"task.{field}", getattr(self, field), least)
    for field in ("num_keys", "num_values"):
      require(
        self.num_pairs <= getattr(self, field),
        f"task.num_pairs={self.num_pairs} needs as many different ones: use "
        f"task.{field}={getattr(self, field)} >= {self.num_pairs}",
      )
    require_positive("task.power", self.power)
    _documents.require_document(self)
    require(
      self.depth is not None and (self.depth == 0 or self.gap_share > 0),
      f"task.depth={self.depth} is a share of the gap, and task.gap_share="
      f"{self.gap_share}: make that larger, or depth 0",
    )

  @property
  def first_value(self) -> int:
    return FIRST_KEY + self.num_keys

  @property
  def first_filler(self) -> int:
    return self.first_value + self.num_values

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  def queries(self, length: int) -> tuple[int, int]:
    """Where the first slot for a query starts, and how many slots there are.

    Raises:
      ValueError: `length` cannot hold the pairs, the gap and the queries.
    """
    pairs = 2 * self.num_pairs
    gap_at, gap_end = _documents.areas(self, length, pairs, pairs)
    start = pairs + gap_end - gap_at
    return start, (length + 1 - start) // 2

  def pairs_at(self, length: int) -> int:
    """Where the first pair starts.

    Raises:
      ValueError: as `queries`.
    """
    return round(self.depth * (self.queries(length)[0] - 2 * self.num_pairs))

  def min_distance(self, length: int) -> int:
    """The smallest distance that an answer can have (it does occur).

    The nearest case: the last pair is asked for in the first slot.

    Raises:
      ValueError: as `queries`.
    """
    last = self.pairs_at(length) + 2 * (self.num_pairs - 1)
    return self.queries(length)[0] - last

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` where lengths do not fit or, with `out_of_reach`,
    attention could answer."""
    _documents.require_out_of_reach(self, experiment)


class Task(_documents.Endless):
  """Endless examples, each made from (seed, split, index) alone."""

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    c = self.config
    start, slots = c.queries(length)
    rng = base.example_rng(self.seed, split, index)
    # The tokens with the keys shuffled: the first num_pairs of them are bound,
    # and filler is drawn from what comes after.
    shuffled = np.arange(FIRST_KEY, c.vocab_size)
    shuffled[: c.num_keys] = rng.permutation(shuffled[: c.num_keys])
    keys_P = shuffled[: c.num_pairs]
    values_P = rng.choice(c.num_values, c.num_pairs, replace=False)
    values_P += c.first_value
    probability = np.arange(1.0, slots + 1) ** (c.power - 1)
    slot_P = rng.choice(
      slots, c.num_pairs, replace=False, p=probability / probability.sum()
    )

    filler = _documents.filler(
      rng, length + 1, c.interference, c.num_pairs,
      c.first_filler - FIRST_KEY, c.vocab_size - FIRST_KEY,
    )  # fmt: skip
    seq = shuffled[filler].astype(np.int32)
    pair_at_P = c.pairs_at(length) + 2 * np.arange(c.num_pairs)
    query_at_P = start + 2 * slot_P
    for at_P in (pair_at_P, query_at_P):
      seq[at_P], seq[at_P + 1] = keys_P, values_P
    answer = np.full(length + 1, -1, np.int32)
    distance = np.full(length + 1, -1, np.int32)
    relevant = np.zeros(length + 1, bool)
    answer[query_at_P + 1] = np.argsort(np.argsort(slot_P))  # in their order
    distance[query_at_P + 1] = query_at_P - pair_at_P
    relevant[pair_at_P + 1] = True
    return _documents.example(c, seq, answer, distance, relevant)
