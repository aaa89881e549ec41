"""Associative recall: key-value pairs early, questions about them at the end.

A sequence of `length` tokens, and the target after its last one, is

    | pairs among filler ............ | gap (filler) | queries |
      PAIR k.. v..   PAIR k.. v..                      QUERY k.. v.. QUERY ...

The queries stand back to back at the very end. The gap before them is
`round(gap_share * length)` tokens of filler; the pairs lie at random places in
all that is before it. A pair binds its key to its value, the last binding of
a key counts, and every query asks for another key. Filler never holds a mark,
but a share `interference` of it is drawn from the tokens of keys and values.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.tasks import _documents, base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

PAIR = 1  # token 0 is unused
QUERY = 2
FIRST_KEY = 3  # keys, then values, then filler
MAX_TOKENS = 4  # of a key or a value


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; lengths and distances are in tokens, steps are outer steps."""

  num_keys: int = 64  # tokens that keys are made of
  num_values: int = 64
  num_fillers: int = 64
  key_length: int = 1  # 1 to 4 tokens
  value_length: int = 1
  num_pairs: int = 16
  num_queries: int = 16  # of different keys
  updates: int = 0  # more pairs, each binding a bound key to another value
  interference: float = 0.8  # share of filler drawn from keys and values
  # Where the pairs lie, back to back: 0 at the start of what is before the gap,
  # 1 at its end. None: each at a random place.
  depth: float | None = None
  gap_share: float = 0.5  # filler between pairs and queries, share of length
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the values of the queries
  context_weight: float = 1.0  # outer weight of every other target
  # Interference rises linearly from 0 at the first of these steps to its
  # value at the second; (0, 0): no ramp.
  interference_ramp: tuple[int, int] = (0, 0)
  # Sequences have lengths[i] tokens before step lengths_until[i], and the
  # experiment's length after the last; (): no length curriculum.
  lengths: tuple[int, ...] = ()
  lengths_until: tuple[int, ...] = ()

  def __post_init__(self):
    for field, least in (("num_keys", 1), ("num_values", 1), ("updates", 0),
                         ("num_fillers", 1), ("num_pairs", 1),
                         ("num_queries", 1), ("answer_weight", 0),
                         ("context_weight", 0)):  # fmt: skip
      require_at_least(f"task.{field}", getattr(self, field), least)
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
    _documents.require_document(self)
    start, end = self.interference_ramp
    require(
      (start, end) == (0, 0) or 0 <= start < end,
      f"task.interference_ramp={self.interference_ramp} must be (first step, "
      "later step), or (0, 0) for none",
    )
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
  def first_value(self) -> int:
    return FIRST_KEY + self.num_keys

  @property
  def first_filler(self) -> int:
    return self.first_value + self.num_values

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  @property
  def unit(self) -> int:
    """Tokens of a pair, and of a query: the mark, the key, the value."""
    return 1 + self.key_length + self.value_length

  def areas(self, length: int) -> tuple[int, int]:
    """Where the pairs' area ends and where the queries start.

    Raises:
      ValueError: `length` cannot hold the pairs, the gap and the queries.
    """
    queries_at = length + 1 - self.num_queries * self.unit
    pairs_end = queries_at - round(self.gap_share * length)
    tokens = (self.num_pairs + self.updates) * self.unit
    if tokens > pairs_end:
      needed = tokens + self.num_queries * self.unit - 1
      least = math.ceil(needed / (1 - self.gap_share))
      raise ValueError(
        f"length={length} is too short for task.num_pairs={self.num_pairs} + "
        f"task.updates={self.updates} pairs and task.num_queries="
        f"{self.num_queries} queries of {self.unit} tokens with "
        f"task.gap_share={self.gap_share}: use a length of at least {least}, "
        "fewer of them, or a smaller gap_share"
      )
    return pairs_end, queries_at

  def min_distance(self, length: int) -> int:
    """The smallest distance that an answer can have (it does occur).

    The nearest case: the pair that ends the pairs' area is asked for first.

    Raises:
      ValueError: `length` cannot hold the pairs, the gap and the queries.
    """
    pairs_end, queries_at = self.areas(length)
    return queries_at - pairs_end + self.unit

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence at outer step `step`."""
    for shorter, until in zip(self.lengths, self.lengths_until, strict=True):
      if step < until:
        return shorter
    return length

  def interference_at(self, step: int | None) -> float:
    """Share of filler drawn from keys and values at outer step `step`."""
    start, end = self.interference_ramp
    if step is None or step >= end:
      return self.interference
    return self.interference * max(0, step - start) / (end - start)

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` where lengths do not fit or attention could answer.

    A target is predicted from the token before it, whose features reach
    `num_layers * (window - 1)` tokens further back.
    """
    lengths = experiment.lengths + [("task.lengths", n) for n in self.lengths]
    require(
      not self.lengths or not experiment.train.random_lengths,
      f"task.lengths={self.lengths} does nothing with train.random_lengths="
      f"{experiment.train.random_lengths}: choose one of them",
    )
    model, chunk = experiment.model, experiment.chunk
    reach = _documents.reach(model)
    for field, length in lengths:
      require(
        length > 0 and length % chunk == 0,
        f"{field}={length} must be a multiple of chunk={chunk}",
      )
      distance = self.min_distance(length)
      windowed = model.attention == "window" and self.out_of_reach
      if windowed and distance <= reach:
        gap = reach + 1 - self.unit  # the least that is out of reach
        fixes = ["use a smaller model.window"]
        if gap < length:
          fixes += [f"task.gap_share >= {math.ceil(100 * gap / length) / 100}"]
        if self.gap_share:
          enough = math.ceil(gap / self.gap_share / chunk) * chunk
          fixes += [f"{field} >= {enough}"]
        raise ValueError(
          f"task.gap_share={self.gap_share} puts answers within {distance} "
          f"tokens of their pair at {field}={length}, and attention reaches "
          f"{reach} (model.num_layers={model.num_layers} * (model.window="
          f"{model.window} - 1) + 1): {' or '.join(fixes)}"
        )


class Task(_documents.Endless):
  """Endless examples, each made from (seed, split, index) alone."""

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence at outer step `step`."""
    return self.config.train_length(length, step)

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens, as hard as at `step`.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    config = self.config
    pairs_end, queries_at = config.areas(length)
    rng = base.example_rng(self.seed, split, index)
    bound_P = np.concatenate(
      [
        np.arange(config.num_pairs),
        rng.integers(config.num_pairs, size=config.updates),
      ]
    )
    bound_P = rng.permutation(bound_P)  # which key each pair binds, in order
    keys = rng.choice(config.different_keys, config.num_pairs, replace=False)
    keys = _digits(keys, config.num_keys, config.key_length) + FIRST_KEY
    values = self._values(rng, bound_P)
    asked_Q = rng.choice(config.num_pairs, config.num_queries, replace=False)

    unit, num_pairs = config.unit, len(bound_P)
    pair_at_P = _documents.places(rng, pairs_end, num_pairs, unit, config.depth)
    seq = _documents.filler(
      rng, length + 1, config.interference_at(step),
      FIRST_KEY, config.first_filler, config.vocab_size,
    )  # fmt: skip
    last_P = np.zeros(config.num_pairs, np.int64)  # key -> its last pair
    last_P[bound_P] = np.arange(num_pairs)  # the last assignment stands
    for pair, at in enumerate(pair_at_P):
      seq[at : at + unit] = [PAIR, *keys[bound_P[pair]], *values[pair]]
    answer = np.full(length + 1, -1, np.int32)
    distance = np.full(length + 1, -1, np.int32)
    relevant = np.zeros(length + 1, bool)
    for query, key in enumerate(asked_Q):
      at, pair = queries_at + query * unit, last_P[key]
      seq[at : at + unit] = [QUERY, *keys[key], *values[pair]]
      value = slice(at + 1 + config.key_length, at + unit)
      answer[value] = query
      distance[value] = at - pair_at_P[pair]
      evidence = pair_at_P[pair] + 1 + config.key_length
      relevant[evidence : evidence + config.value_length] = True

    return _documents.example(config, seq, answer, distance, relevant)

  def _values(self, rng, bound_P) -> np.ndarray:
    """Value tokens of each pair; a key's next value is always another one."""
    number = self.config.different_values
    codes: list[int] = []
    bound: dict[int, int] = {}
    for key in bound_P.tolist():
      if key in bound:
        code = (bound[key] + 1 + int(rng.integers(number - 1))) % number
      else:
        code = int(rng.integers(number))
      bound[key] = code
      codes.append(code)
    digits = _digits(
      np.array(codes), self.config.num_values, self.config.value_length
    )
    return digits + self.config.first_value


def _digits(codes: np.ndarray, base_: int, number: int) -> np.ndarray:
  """The `number` digits of each code in base `base_`: [..., number]."""
  return codes[..., None] // base_ ** np.arange(number) % base_
