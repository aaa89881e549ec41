"""Associative recall: key-value pairs early, questions about them at the end.

A sequence of `length` tokens, and the target after its last one, is

    | pairs among filler ............ | gap (filler) | queries |
      PAIR k.. v..   PAIR k.. v..                      QUERY k.. v.. QUERY ...

The gap is `round(gap_share * length)` tokens of filler; the pairs lie at random
places before it. The last binding of a key counts, and every query asks for
another key. Filler never holds a mark, but a share `interference` of it is
drawn from the tokens of keys and values.
"""

import bisect
import dataclasses
from typing import ClassVar

import numpy as np

from mattt_jax.config import require
from mattt_jax.tasks import _documents
from mattt_jax.tasks._drafts import Draft

PAIR = 1  # token 0 is unused
QUERY = 2
FIRST_KEY = 3  # keys, then values, then filler
MAX_TOKENS = 4  # of a key or a value


@dataclasses.dataclass(frozen=True)
class Config(_documents.PairConfig):
  """Settings, in addition to those of all pairs; steps are outer steps."""

  key_length: int = 1  # 1 to 4 tokens
  value_length: int = 1
  num_pairs: int = 16
  num_queries: int = 16  # of different keys
  updates: int = 0  # more pairs, each binding a bound key to another value
  interference: float = 0.8  # share of filler drawn from keys and values
  # Steps between which interference rises from 0 to its value; (0, 0): no ramp.
  interference_ramp: tuple[int, int] = (0, 0)
  # Sequences have lengths[i] tokens before step lengths_until[i], and the
  # experiment's length after the last; (): no length curriculum.
  lengths: tuple[int, ...] = ()
  lengths_until: tuple[int, ...] = ()

  first_key: ClassVar[int] = FIRST_KEY

  counts: ClassVar = ("num_pairs", "updates", "num_queries")

  def __post_init__(self):
    super().__post_init__()
    _documents.require_least(
      self, num_keys=1, num_values=1, num_pairs=1, num_queries=1, updates=0
    )
    for field in ("key_length", "value_length"):
      value = getattr(self, field)
      require(
        1 <= value <= MAX_TOKENS,
        f"task.{field}={value} must lie in 1 .. {MAX_TOKENS}",
      )
    require(
      self.num_queries <= self.num_pairs,
      f"task.num_queries={self.num_queries} must be <= task.num_pairs="
      f"{self.num_pairs}: every query asks for another key",
    )
    require(
      self.num_pairs <= self.different_keys < 2**62,
      f"task.num_pairs={self.num_pairs} needs as many different keys; "
      f"task.num_keys={self.num_keys} with task.key_length={self.key_length} "
      f"gives {self.different_keys}: change task.num_keys",
    )
    require(
      self.different_values < 2**62,
      f"task.num_values={self.num_values} with task.value_length="
      f"{self.value_length} gives too many values: use fewer",
    )
    require(
      not self.updates or self.different_values > 1,
      f"task.updates={self.updates} needs another value to bind: use "
      "task.num_values >= 2",
    )
    _documents.require_ramp("interference_ramp", self.interference_ramp)
    steps = self.lengths_until
    require(
      len(steps) == len(self.lengths)
      and all(a < b for a, b in zip((0, *steps), steps, strict=False)),
      f"task.lengths_until={steps} must be one rising step for each of "
      f"task.lengths={self.lengths}",
    )

  @property
  def different_keys(self) -> int:
    return self.num_keys**self.key_length

  @property
  def different_values(self) -> int:
    return self.num_values**self.value_length

  @property
  def unit(self) -> int:
    """Tokens of a pair, and of a query: the mark, the key, the value."""
    return 1 + self.key_length + self.value_length

  @property
  def fact_tokens(self) -> int:
    return (self.num_pairs + self.updates) * self.unit

  @property
  def question_tokens(self) -> int:
    return self.num_queries * self.unit

  @property
  def least_distance(self) -> int:
    return self.unit  # the last pair before the gap is asked for first

  def interference_at(self, step: int | None) -> float:
    """Share of filler drawn from keys and values at outer step `step`."""
    return _documents.ramped(self.interference, self.interference_ramp, step)

  def check(self, experiment) -> None:
    require(
      not self.lengths or not experiment.train.random_lengths,
      f"task.lengths={self.lengths} does nothing with train.random_lengths="
      f"{experiment.train.random_lengths}: choose one of them",
    )
    shorter = [("task.lengths", length) for length in self.lengths]
    for field, length in shorter:
      require(
        length > 0 and length % experiment.chunk == 0,
        f"{field}={length} must be a multiple of chunk={experiment.chunk}",
      )
    lengths = experiment.lengths + shorter
    _documents.require_out_of_reach(self, experiment, lengths)


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence at outer step `step`."""
    lengths, steps = self.config.lengths, self.config.lengths_until
    return (*lengths, length)[bisect.bisect(steps, step)]

  def draft(self, rng, length, step):
    """Pairs, some of which a later one replaces, and the queries."""
    c = self.config
    pairs_end, queries_at = c.areas(length)
    bound_P = np.concatenate(
      [np.arange(c.num_pairs), rng.integers(c.num_pairs, size=c.updates)]
    )
    bound_P = rng.permutation(bound_P)  # which key each pair binds, in order
    keys = rng.choice(c.different_keys, c.num_pairs, replace=False)
    keys = _digits(keys, c.num_keys, c.key_length) + FIRST_KEY
    values = self._values(rng, bound_P)
    asked_Q = rng.choice(c.num_pairs, c.num_queries, replace=False)

    unit = c.unit
    pair_at_P = _documents.places(rng, pairs_end, len(bound_P), unit, c.depth)
    filler = _documents.filler(
      rng, length + 1, c.interference_at(step),
      FIRST_KEY, c.first_filler, c.vocab_size,
    )  # fmt: skip
    draft = Draft(filler, length)
    for pair, at in enumerate(pair_at_P):
      draft.tokens[at : at + unit] = [PAIR, *keys[bound_P[pair]], *values[pair]]
    last_P = np.zeros(c.num_pairs, np.int64)  # key -> its last pair
    last_P[bound_P] = np.arange(len(bound_P))  # the last assignment stands
    for query, key in enumerate(asked_Q):
      at, pair = queries_at + query * unit, last_P[key]
      draft.tokens[at : at + unit] = [QUERY, *keys[key], *values[pair]]
      value = np.arange(1 + c.key_length, unit)
      back = at - pair_at_P[pair]
      draft.ask(at + value, query, back, pair_at_P[pair] + value)
    return draft

  def _values(self, rng, bound_P) -> np.ndarray:
    """Value tokens of each pair; a key's next value is always another one."""
    c = self.config
    number = c.different_values
    codes: list[int] = []
    bound: dict[int, int] = {}  # key -> its last value
    for key in bound_P:
      if key in bound:
        bound[key] = (bound[key] + 1 + rng.integers(number - 1)) % number
      else:
        bound[key] = rng.integers(number)
      codes.append(bound[key])
    digits = _digits(np.array(codes), c.num_values, c.value_length)
    return digits + c.first_value


def _digits(codes: np.ndarray, base_: int, number: int) -> np.ndarray:
  """The `number` digits of each code in base `base_`: [..., number]."""
  return codes[..., None] // base_ ** np.arange(number) % base_
