"""A rule that holds for the whole document, applied to items far back.

    | pairs, demonstrations, filler ........ | gap (filler) | queries |
      PAIR k v   RULE x f(x)   PAIR k v ...          QUERY k f(v)  RULE x f(x)

f is a permutation of the symbols, drawn for each document and shown
`demonstrations` times for each symbol. A query asks for f of the symbol that
its key was bound to: what stores pairs verbatim lacks the rule; what has
learned the rule still needs the item. `num_rule_queries` of the queries ask for
the rule alone; they are scored, but are no answers.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from mattt_jax.config import require, require_choice
from mattt_jax.tasks import _documents
from mattt_jax.tasks._drafts import Draft

PAIR, QUERY, RULE = 1, 2, 3  # token 0 is unused
FIRST_KEY = 4  # keys, then symbols, then filler
_UNIT = 3  # tokens of a pair, a demonstration, a query


@dataclasses.dataclass(frozen=True)
class Config(_documents.Config):
  """Settings, in addition to those of all documents of facts."""

  num_keys: int = 256
  num_symbols: int = 8
  num_pairs: int = 16
  num_queries: int = 6  # of different keys
  num_rule_queries: int = 2  # of the rule alone
  rule: str = "permutation"  # or "shift": f(x) = x + s, or "identity"
  demonstrations: int = 2  # of each symbol
  # Outer steps between which the share of symbols that f moves rises from 0 to
  # 1; (0, 0): no ramp. f(x) = x for the others.
  rule_ramp: tuple[int, int] = (0, 0)
  answer_weight: float = 8.0  # outer weight of what the queries ask for

  counts: ClassVar = (
    "num_pairs",
    "demonstrations",
    "num_symbols",
    "num_queries",
    "num_rule_queries",
  )

  def __post_init__(self):
    super().__post_init__()
    _documents.require_least(
      self, num_symbols=2, num_pairs=1, num_queries=1, num_rule_queries=0,
      demonstrations=0,
    )  # fmt: skip
    require(
      self.num_queries <= self.num_pairs <= self.num_keys,
      f"task.num_queries={self.num_queries} <= task.num_pairs="
      f"{self.num_pairs} <= task.num_keys={self.num_keys} must hold: every "
      "pair has a key of its own, every query another key",
    )
    require_choice("task.rule", self.rule, ("permutation", "shift", "identity"))
    _documents.require_ramp("rule_ramp", self.rule_ramp)
    require(
      self.rule == "permutation" or self.rule_ramp == (0, 0),
      f"task.rule_ramp={self.rule_ramp} needs task.rule='permutation'",
    )

  @property
  def first_symbol(self) -> int:
    return FIRST_KEY + self.num_keys

  @property
  def first_filler(self) -> int:
    return self.first_symbol + self.num_symbols

  @property
  def fact_tokens(self) -> int:
    return _UNIT * (self.num_pairs + self.demonstrations * self.num_symbols)

  @property
  def question_tokens(self) -> int:
    return _UNIT * (self.num_queries + self.num_rule_queries)

  @property
  def least_distance(self) -> int:
    return _UNIT

  def moved(self, step: int | None) -> int:
    """Number of symbols that f moves at outer step `step`; it cannot be 1."""
    share = _documents.ramped(1.0, self.rule_ramp, step)
    number = round(share * self.num_symbols)
    return 0 if number == 1 else number


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def draft(self, rng, length, step):
    """Pairs and demonstrations in random order, then the queries."""
    c = self.config
    end, queries_at = c.areas(length)
    symbol_S = c.first_symbol + np.arange(c.num_symbols)
    image_S = c.first_symbol + self._rule(rng, step)
    keys_P = rng.choice(c.num_keys, c.num_pairs, replace=False) + FIRST_KEY
    bound_P = rng.integers(c.num_symbols, size=c.num_pairs)
    asked_Q = rng.choice(c.num_pairs, c.num_queries, replace=False)

    filler = _documents.filler(
      rng, length + 1, c.interference, FIRST_KEY, c.first_filler, c.vocab_size
    )
    draft = Draft(filler, length)

    def write(at, *unit):
      draft.tokens[at : at + _UNIT] = unit

    shown = np.repeat(np.arange(c.num_symbols), c.demonstrations)
    facts = rng.permutation(c.num_pairs + len(shown))
    at_F = _documents.places(rng, end, len(facts), _UNIT, c.depth)
    pair_at_P = np.zeros(c.num_pairs, np.int64)
    for fact, at in zip(facts, at_F, strict=True):
      if fact < c.num_pairs:
        pair_at_P[fact] = at
        write(at, PAIR, keys_P[fact], symbol_S[bound_P[fact]])
      else:
        x = shown[fact - c.num_pairs]
        write(at, RULE, symbol_S[x], image_S[x])

    order = rng.permutation(c.num_queries + c.num_rule_queries)
    at_Q = range(queries_at, length + 1, _UNIT)
    for at, query in zip(at_Q, order, strict=True):
      answer_at = at + _UNIT - 1
      if query < c.num_queries:
        pair = asked_Q[query]
        write(at, QUERY, keys_P[pair], image_S[bound_P[pair]])
        back = at - pair_at_P[pair]
        draft.ask(answer_at, query, back, answer_at - back)
      else:
        x = rng.integers(c.num_symbols)
        write(at, RULE, symbol_S[x], image_S[x])
        draft.scored[answer_at] = True
    return draft

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
