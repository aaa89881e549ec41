"""Multi-query associative recall, its queries at power-law distances.

MQAR of zoology (arXiv 2312.04927). A sequence of `length` tokens, and the
target after its last one, is

    | k v k v ... k v | gap (filler) | .. k v .... k v ........ k v ... |
      all pairs                        the queries among filler

The place of each query is one of the slots of two tokens after the gap, no slot
twice. Slot g = 1, 2, .. is drawn with a probability in proportion to
g^(power - 1), as gaps between repeated bigrams of real text are. Every key is
asked for once, and filler never holds one of this document: a share
`interference` of it is drawn from the other keys and the values.

The pairs stand first, or at `depth` in the gap. As published: no gap, so that
many queries are in reach of attention; results are read by distance. Unlike as
published, the value stands after its query, as in any text.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from mattt_jax.config import require, require_positive
from mattt_jax.tasks import _documents
from mattt_jax.tasks._drafts import Draft

FIRST_KEY = 1  # token 0 is unused; keys, then values, then filler


@dataclasses.dataclass(frozen=True)
class Config(_documents.PairConfig):
  """Settings, in addition to those of all pairs."""

  num_pairs: int = 16  # of different keys and different values
  power: float = 0.01  # of the power law of places; 1: uniform
  interference: float = 1.0  # share of filler drawn from keys and values
  gap_share: float = 0.0  # filler between pairs and queries, share of length
  # Share of that filler that stands before the pairs, which stay back to back.
  depth: float = 0.0
  out_of_reach: bool = False  # refuse answers that attention can reach

  first_key: ClassVar[int] = FIRST_KEY

  counts: ClassVar = ("num_pairs",)

  def __post_init__(self):
    super().__post_init__()
    _documents.require_least(self, num_pairs=1)
    for field in ("num_keys", "num_values"):
      require(
        self.num_pairs <= getattr(self, field),
        f"task.num_pairs={self.num_pairs} needs as many different ones: use "
        f"task.{field}={getattr(self, field)} >= {self.num_pairs}",
      )
    require_positive("task.power", self.power)
    require(
      self.depth is not None and (self.depth == 0 or self.gap_share > 0),
      f"task.depth={self.depth} is a share of the gap, and task.gap_share="
      f"{self.gap_share}: make that larger, or depth 0",
    )

  @property
  def fact_tokens(self) -> int:
    return 2 * self.num_pairs

  @property
  def question_tokens(self) -> int:
    return 2 * self.num_pairs

  def queries(self, length: int) -> tuple[int, int]:
    """Start of the first slot for a query, and the number of slots.

    Raises:
      ValueError: `length` cannot hold the pairs, the gap and the queries.
    """
    gap_at, gap_end = self.areas(length)
    start = self.fact_tokens + gap_end - gap_at
    return start, (length + 1 - start) // 2

  def pairs_at(self, length: int) -> int:
    """Start of the first pair; raises what `queries` does."""
    return round(self.depth * (self.queries(length)[0] - self.fact_tokens))

  def min_distance(self, length: int) -> int:
    """Least distance of an answer: that of the last pair, if the first slot
    asks for it; raises what `queries` does."""
    last = self.pairs_at(length) + self.fact_tokens - 2
    return self.queries(length)[0] - last

  def check(self, experiment) -> None:
    _documents.require_out_of_reach(
      self, experiment, experiment.lengths, whole_gap=self.depth == 0
    )


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def draft(self, rng, length, step):
    """Pairs, and a query for each of them."""
    del step
    c = self.config
    start, slots = c.queries(length)
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
    draft = Draft(shuffled[filler], length)
    pair_at_P = c.pairs_at(length) + 2 * np.arange(c.num_pairs)
    query_at_P = start + 2 * slot_P
    for at_P in (pair_at_P, query_at_P):
      draft.tokens[at_P], draft.tokens[at_P + 1] = keys_P, values_P
    order_P = np.argsort(np.argsort(slot_P))
    draft.ask(query_at_P + 1, order_P, query_at_P - pair_at_P, pair_at_P + 1)
    return draft
