"""RULER's needles, variables and words, on the level of tokens.

After RULER (arXiv 2404.06654). A sequence of `length` tokens, and the target
after its last one, is

    | haystack: what is asked for, among the rest | gap (the rest) | question |

    kind              in the haystack                 question, its answer last
    niah_single       NEEDLE k v..                    QUERY k v..
    niah_multikey     the same of several keys        QUERY k v..      of one
    niah_multivalue   the same of several values      QUERY k v.. v.. of all
    niah_multiquery   the same of several keys        QUERY k v.. QUERY k' v'..
    variable_tracking NEEDLE x v  NEEDLE y x  ..      QUERY v x y ..
    common_words      words, each several times       QUERY w w ..
    frequent_words    words, by a power law           QUERY w w ..

Several values, variables or words are asked for in the order in which they
first appear; each is an answer of its own, so that the exact matches are
RULER's share of references found.

A share `interference` of the rest of the haystack, the gap included, can be
confused with what is asked for:

    niah_multikey      needles of other keys (0: RULER's MK-1, 1: MK-2)
    variable_tracking  chains of other variables and values
    common_words       words that appear `rare_repeats` times
    frequent_words     all words, those asked for included
    other kinds        filler that is drawn from the tokens of keys and values
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from mattt_jax.config import require, require_choice, require_positive
from mattt_jax.tasks import _documents, _ruler_words
from mattt_jax.tasks._drafts import Draft

NEEDLE, QUERY = 1, 2  # token 0 is unused
FIRST_KEY = 3  # keys (variables, words), then values, then filler
# Published number of things that each kind asks for; niah_multikey: of needles.
ITEMS = {
  "niah_single": 1,
  "niah_multikey": 4,
  "niah_multivalue": 4,
  "niah_multiquery": 4,
  "variable_tracking": 5,  # a chain of 4 hops
  "common_words": 10,
  "frequent_words": 3,
}
# Tokens of a question, and the places of their evidence; None: no answer.
Piece = tuple[Sequence[int] | np.ndarray, np.ndarray | None]
DISTRACTORS = ("niah_multikey", "variable_tracking")  # confused by needles


@dataclasses.dataclass(frozen=True)
class Config(_documents.PairConfig):
  """Settings, in addition to those of all pairs; keys are also the variables
  and the words."""

  kind: str = "niah_single"  # or another one of ITEMS
  # Values of the key, queries, variables of the chain, words asked for; of
  # niah_multikey: needles at least. 0: as published, see ITEMS.
  num_items: int = 0
  value_length: int = 1  # tokens of a needle's value
  repeats: int = 30  # common_words: of a word that is asked for
  rare_repeats: int = 3  # common_words: of the others
  power: float = 2.0  # frequent_words: word i of them ~ (i + 2)^-power

  first_key: ClassVar[int] = FIRST_KEY

  def __post_init__(self):
    super().__post_init__()
    require_choice("task.kind", self.kind, tuple(ITEMS))
    _documents.require_least(
      self, num_items=0, num_values=1, value_length=1, repeats=1, rare_repeats=1
    )
    require_positive("task.power", self.power)
    require(
      self.depth is None or self.kind not in _ruler_words.KINDS,
      f"task.depth={self.depth} is of needles: use None with task.kind="
      f"{self.kind!r}, whose words are everywhere",
    )
    require(
      self.kind != "niah_single" or self.items == 1,
      f"task.num_items={self.num_items} must be 0 or 1 with "
      "task.kind='niah_single': choose another kind for more",
    )
    require(
      self.kind != "variable_tracking"
      or (self.items > 1 and self.value_length == 1 < self.num_values),
      f"task.kind={self.kind!r} needs task.num_items={self.num_items} >= 2 (or "
      f"0), task.value_length={self.value_length} == 1 and task.num_values="
      f"{self.num_values} >= 2",
    )  # fmt: skip
    require(
      self.kind != "common_words" or self.repeats > self.rare_repeats,
      f"task.repeats={self.repeats} must be > task.rare_repeats="
      f"{self.rare_repeats}, or no word is common",
    )
    more = 1 + self.distractors  # keys of its own for a distractor
    needed = {
      "niah_single": 1,
      "niah_multikey": max(self.items, more),
      "niah_multivalue": 1,
      "variable_tracking": self.items * more,
    }.get(self.kind, self.items)
    require(
      needed <= self.num_keys,
      f"task.num_keys={self.num_keys} must be at least {needed} for "
      f"task.kind={self.kind!r} with {self.items} items",
    )

  @property
  def items(self) -> int:
    """`num_items`, or as many as published."""
    return self.num_items or ITEMS[self.kind]

  @property
  def distractors(self) -> bool:
    """Whether needles, and not filler, can be confused with the evidence."""
    return self.kind in DISTRACTORS and self.interference > 0

  @property
  def unit(self) -> int:
    """Tokens of a needle: the mark, the key, the value."""
    return 2 + self.value_length

  @property
  def question_tokens(self) -> int:
    values = self.items * self.value_length
    return {
      "niah_multivalue": 2 + values,
      "niah_multiquery": 2 * self.items + values,
      "variable_tracking": 2 + self.items,
      "common_words": 1 + self.items,
      "frequent_words": 1 + self.items,
    }.get(self.kind, self.unit)

  @property
  def least_distance(self) -> int:
    return 2  # the mark, and what is before the gap

  def areas(self, length: int) -> tuple[int, int]:
    """End of the area of what is asked for, and start of the question.

    Raises:
      ValueError: `length` cannot hold it, or what `_ruler_words.counts` raises.
    """
    facts, question = self.items * self.unit, self.question_tokens
    if self.kind == "niah_multikey" and self.depth is not None:
      facts += self.unit - 1  # that the other needles can lie on either side
    if self.kind in _ruler_words.KINDS:
      counts = _ruler_words.counts(self, length + 1 - question)
      facts = int(counts[: self.items].sum())
    if self.kind != "frequent_words":
      return _documents.areas(self, length, facts, question)
    end, question_at = _documents.areas(self, length, 1, question)
    require(  # a greater length makes more of them
      facts <= end,
      f"task.interference={self.interference} makes {facts} of the "
      f"{question_at} tokens before the question words that are asked for, and "
      f"only {end} are before the gap of task.gap_share={self.gap_share}: use "
      "a smaller one of the two",
    )
    return end, question_at


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def draft(self, rng, length, step):
    """Draws a haystack and its question.

    The evidence of a value is the value in its needle; that of a variable, the
    statements of the chain up to its own; that of a word, each time that it
    appears. An answer's distance is that of the farthest.
    """
    del step
    c = self.config
    end, question_at = c.areas(length)
    plain = c.kind in (*_ruler_words.KINDS, *DISTRACTORS)
    filler = _documents.filler(
      rng, length + 1, 0.0 if plain else c.interference,
      FIRST_KEY, c.first_filler, c.vocab_size,
    )  # fmt: skip
    names = rng.permutation(c.num_keys) + FIRST_KEY
    draft = Draft(filler, length)
    haystack = draft.tokens[:question_at]
    question: Iterable[Piece]
    if c.kind in _ruler_words.KINDS:
      places = _ruler_words.hide(c, rng, haystack, end, names)
      question = [([QUERY], None), *((haystack[at[:1]], at) for at in places)]
    else:
      question = self._needles(rng, haystack, end, names)

    at, number = question_at, 0
    for tokens, evidence in question:
      span = slice(at, at + len(tokens))
      draft.tokens[span] = tokens
      if evidence is not None:
        draft.ask(span, number, at - evidence.min(), evidence)
        number += 1
      at += len(tokens)
    return draft

  def _needles(self, rng, seq, end, names) -> Iterator[Piece]:
    """Puts needles into the haystack `seq`, those asked for (of the first
    `names`) before `end`; yields the pieces of the question."""
    c = self.config
    values = rng.integers(c.num_values, size=(c.items, c.value_length))
    wanted = np.full((c.items, c.unit), NEEDLE)
    wanted[:, 1], wanted[:, 2:] = names[: c.items], values + c.first_value
    others = wanted[:0]
    if c.kind == "niah_multikey":
      others, wanted = wanted[1:], wanted[:1]
    if c.kind == "niah_multivalue":
      wanted[:, 1] = names[0]
    if c.kind == "variable_tracking":
      wanted[1:, 2] = wanted[:-1, 1]

    size = wanted.size
    if c.depth is None:
      room = end - size - others.size
      others = np.concatenate([others, self._others(rng, wanted, names, room)])
      first = rng.permutation(len(wanted) + len(others)) < len(wanted)
      merged = np.zeros((len(first), c.unit), np.int64)
      merged[first], merged[~first] = wanted, others
      at = _strew(rng, seq[:end], merged)[first]
    else:
      start = round(c.depth * (end - size))
      at = start + np.arange(len(wanted)) * c.unit
      seq[start : start + size] = wanted.ravel()
      before, after = start // c.unit, (end - start - size) // c.unit
      room = (before + after - len(others)) * c.unit
      others = np.concatenate([others, self._others(rng, wanted, names, room)])
      share = round(len(others) * start / max(1, end - size))
      number = min(before, max(share, len(others) - after))
      _strew(rng, seq[:start], others[:number])
      _strew(rng, seq[start + size : end], others[number:])
    _strew(rng, seq[end:], self._others(rng, wanted, names, len(seq) - end))

    if c.kind == "variable_tracking":
      yield [QUERY, wanted[0, 2]], None
      for hop in range(c.items):
        yield wanted[hop, 1:2], (at[: hop + 1, None] + [1, 2]).ravel()
      return
    order = range(len(wanted))
    if c.kind == "niah_multiquery":
      order = rng.permutation(len(wanted))
    for number, needle in enumerate(order):
      if number == 0 or c.kind == "niah_multiquery":
        yield [QUERY, wanted[needle, 1]], None
      yield wanted[needle, 2:], at[needle] + np.arange(2, c.unit)

  def _others(self, rng, wanted, names, room: int) -> np.ndarray:
    """Other needles, [.., unit], which fill their share of `room` tokens."""
    c = self.config
    if not c.distractors:
      return np.zeros((0, c.unit), np.int64)
    if c.kind == "niah_multikey":
      number = int(c.interference * room / c.unit)
      values = rng.integers(c.num_values, size=(number, c.value_length))
      needles = np.full((number, c.unit), NEEDLE)
      needles[:, 1] = rng.choice(names[1:], number)
      needles[:, 2:] = values + c.first_value
      return needles
    number = int(c.interference * room / (c.items * c.unit))
    chains = np.full((number, c.items, c.unit), NEEDLE)
    for chain in chains:
      chain[:, 1] = rng.choice(names[c.items :], c.items, replace=False)
    values = rng.integers(1, c.num_values, size=number)  # not the one asked for
    values = (wanted[0, 2] - c.first_value + values) % c.num_values
    chains[:, 0, 2] = values + c.first_value
    chains[:, 1:, 2] = chains[:, :-1, 1]
    # In random order, but each chain in its own.
    order = rng.permutation(np.repeat(np.arange(number), c.items))
    needles = np.zeros((number * c.items, c.unit), np.int64)
    needles[np.argsort(order, kind="stable")] = chains.reshape(-1, c.unit)
    return needles


def _strew(rng, seq, needles) -> np.ndarray:
  """Puts needles [n, unit], in order, at random places; returns these."""
  number, unit = needles.shape
  at = _documents.places(rng, len(seq), number, unit)
  seq[at[:, None] + np.arange(unit)] = needles
  return at
