"""A rule that holds for the whole document, applied to items far back.

    | pairs, demonstrations, filler ........ | gap (filler) | queries |
      PAIR k v   RULE x f(x)   PAIR k v ...          QUERY k f(v)  RULE x f(x)

f is a permutation of the symbols, drawn for each document and shown
`demonstrations` times for each symbol. A query asks for f of the symbol that
its key was bound to: the item has to be recalled exactly, and the rule, of
which f(v) was never seen beside k, has to be applied to it. Among the queries
stand `num_rule_queries` plain ones, of the rule alone; they are scored, but are
no answers. What stores pairs
verbatim lacks the rule; what has learned the rule still needs the item.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import (
  require,
  require_at_least,
  require_choice,
)
from mattt_jax.tasks import _documents, base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

PAIR, QUERY, RULE = 1, 2, 3  # token 0 is unused
FIRST_KEY = 4  # keys, then symbols, then filler
_UNIT = 3  # tokens of a pair, a demonstration, a query


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; lengths and distances are in tokens."""

  num_keys: int = 256
  num_symbols: int = 8
  num_fillers: int = 64
  num_pairs: int = 16
  num_queries: int = 6  # of different keys
  num_rule_queries: int = 2  # of the rule alone
  rule: str = "permutation"  # or "shift": f(x) = x + s, or "identity"
  demonstrations: int = 2  # of each symbol
  # The share of the symbols that f moves rises from 0 at the first of these
  # outer steps to 1 at the second; (0, 0): no ramp. f(x) = x for the others.
  rule_ramp: tuple[int, int] = (0, 0)
  interference: float = 0.5  # share of filler drawn from keys and symbols
  # Where pairs and demonstrations lie, back to back: 0 at the start of what is
  # before the gap, 1 at its end. None: each at a random place.
  depth: float | None = None
  gap_share: float = 0.5  # filler between pairs and queries, share of length
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 8.0  # outer weight of what the queries ask for
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    for field, least in (("num_symbols", 2), ("num_fillers", 1),
                         ("num_pairs", 1), ("num_queries", 1),
                         ("demonstrations", 0), ("num_rule_queries", 0),
                         ("answer_weight", 0), ("context_weight", 0),
                         ):  # fmt: skip
      require_at_least(f"task.{field}", getattr(self, field), least)
    require(
      self.num_queries <= self.num_pairs <= self.num_keys,
      f"task.num_queries={self.num_queries} <= task.num_pairs="
      f"{self.num_pairs} <= task.num_keys={self.num_keys} must hold: every "
      "pair has a key of its own, every query another key",
    )
    require_choice("task.rule", self.rule, ("permutation", "shift", "identity"))
    start, end = self.rule_ramp
    require(
      (start, end) == (0, 0) or 0 <= start < end,
      f"task.rule_ramp={self.rule_ramp} must be (first step, later step), or "
      "(0, 0) for none",
    )
    require(
      self.rule == "permutation" or end == 0,
      f"task.rule_ramp={self.rule_ramp} needs task.rule='permutation'",
    )
    _documents.require_document(self)

  @property
  def first_symbol(self) -> int:
    return FIRST_KEY + self.num_keys

  @property
  def first_filler(self) -> int:
    return self.first_symbol + self.num_symbols

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  def moved(self, step: int | None) -> int:
    """How many symbols f moves at outer step `step`: not 1, which cannot be."""
    start, end = self.rule_ramp
    share = 1.0
    if step is not None and step < end:
      share = max(0, step - start) / (end - start)
    number = round(share * self.num_symbols)
    return 0 if number == 1 else number

  def areas(self, length: int) -> tuple[int, int]:
    """Where the area of pairs ends and where the queries start.

    Raises:
      ValueError: `length` cannot hold it all.
    """
    queries = self.num_queries + self.num_rule_queries
    queries_at = length + 1 - queries * _UNIT
    end = queries_at - round(self.gap_share * length)
    items = self.num_pairs + self.demonstrations * self.num_symbols
    require(
      items * _UNIT <= end,
      f"length={length} is too short for task.num_pairs={self.num_pairs}, "
      f"{items - self.num_pairs} demonstrations and task.num_queries="
      f"{self.num_queries} with task.gap_share={self.gap_share}: the first "
      f"{end} tokens must hold {items * _UNIT}; use a longer one, fewer of "
      "them, or a smaller gap_share",
    )
    return end, queries_at

  def min_distance(self, length: int) -> int:
    """The smallest distance that an answer can have.

    Raises:
      ValueError: `length` cannot hold it all.
    """
    end, queries_at = self.areas(length)
    return queries_at - end + _UNIT

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if lengths do not fit, or attention could answer."""
    _documents.require_out_of_reach(self, experiment)


class Task(_documents.Endless):
  """Endless examples, each made from (seed, split, index) alone."""

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    c = self.config
    end, queries_at = c.areas(length)
    rng = base.example_rng(self.seed, split, index)
    rule_S = self._rule(rng, step)
    keys_P = rng.choice(c.num_keys, c.num_pairs, replace=False) + FIRST_KEY
    bound_P = rng.integers(c.num_symbols, size=c.num_pairs)
    asked_Q = rng.choice(c.num_pairs, c.num_queries, replace=False)

    seq = _documents.filler(
      rng, length + 1, c.interference, FIRST_KEY, c.first_filler, c.vocab_size
    )
    # Pairs and demonstrations in random order, at random places.
    shown = np.repeat(np.arange(c.num_symbols), c.demonstrations)
    kinds = rng.permutation(c.num_pairs + len(shown))
    at_I = _documents.places(rng, end, len(kinds), _UNIT, c.depth)
    pair_at_P = np.zeros(c.num_pairs, np.int64)
    for kind, at in zip(kinds, at_I, strict=True):
      if kind < c.num_pairs:
        pair_at_P[kind] = at
        seq[at : at + _UNIT] = [
          PAIR, keys_P[kind], c.first_symbol + bound_P[kind]
        ]  # fmt: skip
      else:
        x = shown[kind - c.num_pairs]
        seq[at : at + _UNIT] = [
          RULE, c.first_symbol + x, c.first_symbol + rule_S[x]
        ]  # fmt: skip

    answer = np.full(length + 1, -1, np.int32)
    distance = np.full(length + 1, -1, np.int32)
    relevant = np.zeros(length + 1, bool)
    scored = np.zeros(length + 1, bool)
    order = rng.permutation(c.num_queries + c.num_rule_queries)
    for place, query in enumerate(order):
      at = queries_at + place * _UNIT
      scored[at + 2] = True
      if query >= c.num_queries:
        x = rng.integers(c.num_symbols)
        seq[at : at + _UNIT] = [
          RULE, c.first_symbol + x, c.first_symbol + rule_S[x]
        ]  # fmt: skip
        continue
      pair = asked_Q[query]
      seq[at : at + _UNIT] = [
        QUERY, keys_P[pair], c.first_symbol + rule_S[bound_P[pair]]
      ]  # fmt: skip
      answer[at + 2] = query
      distance[at + 2] = at - pair_at_P[pair]
      relevant[pair_at_P[pair] + 2] = True
    return _documents.example(c, seq, answer, distance, relevant, scored)

  def _rule(self, rng, step: int | None) -> np.ndarray:
    """f, as f(x) for each symbol."""
    n = self.config.num_symbols
    rule_S = np.arange(n)
    if self.config.rule == "shift":
      return (rule_S + rng.integers(n)) % n
    if self.config.rule == "permutation":
      moved = rng.permutation(n)[: self.config.moved(step)]
      rule_S[moved] = np.roll(moved, 1)  # one cycle through all of them
    return rule_S
