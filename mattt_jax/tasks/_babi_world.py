"""The small world of bAbI: people who move, take, drop and give; a map.

bAbI (arXiv 1502.05698), tasks 1 to 5, simulated anew. A fact is a tuple, its
verb first; a sentence is a tuple of words, the same for tokens and for text.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Words = tuple[str, ...]
Fact = tuple[str, ...]

PEOPLE = (
  "Mary John Sandra Daniel Fred Bill Jeff Julie "
  "Anna Peter Lucy Oscar Emma Hugo Clara Victor"
).split()
PLACES = (
  "kitchen bathroom bedroom hallway garden office school park "
  "cellar attic library museum station market harbour chapel"
).split()
OBJECTS = (
  "apple milk football book lamp key cup hat "
  "ball coin letter spoon pencil candle basket mirror"
).split()
# What a fact or a question is made of, beside the names of things.
GRAMMAR = (
  ". ? the to of is was where what who before did give "
  "went took dropped gave north south east west"
).split()
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_STEP = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}

# What can happen in each kind, and the fewest facts that allow a question.
VERBS = {
  "qa1": ("move",),
  "qa2": ("move", "take", "drop"),
  "qa3": ("move", "take", "drop"),
  "qa4": ("lie",),
  "qa5": ("move", "take", "drop", "give"),
}
_SENTENCES = {
  "move": "{} went to the {} .",
  "take": "{} took the {} .",
  "drop": "{} dropped the {} .",
  "give": "{} gave the {} to {} .",
  "lie": "the {} is {} of the {} .",
}
FEWEST = {"qa1": 1, "qa2": 2, "qa3": 3, "qa4": 1, "qa5": 4}
# They ask for the giver, the thing, the receiver.
_GIFT_QUESTIONS = (
  "who gave the {1} to {2} ?",
  "what did {0} give to {2} ?",
  "who did {0} give the {1} to ?",
)
# Words of the longest fact, and of the longest question with its answer.
LONGEST = {"qa1": (6, 5), "qa2": (6, 6), "qa3": (6, 9), "qa4": (8, 8),
           "qa5": (7, 9)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Question:
  """A question, its answer of one word, and the facts that decide it."""

  words: Words
  answer: str
  evidence: tuple[int, ...]  # their numbers, from 0


def sentence(fact: Fact) -> Words:
  """Words of a fact."""
  verb, *names = fact
  return tuple(_SENTENCES[verb].format(*names).split())


def text(words: Sequence[str]) -> str:
  """A sentence of words as English text, capital and full stop included."""
  joined = " ".join(words).replace(" .", ".").replace(" ?", "?")
  return joined[:1].upper() + joined[1:]


def hide(
  rng: np.random.Generator,
  facts: Sequence[T],
  background: Sequence[T],
  depth: float | None = None,
) -> tuple[list[T], np.ndarray]:
  """Puts facts among background sentences and keeps the order of both.

  Every way is equally likely; with a `depth` the facts stand together, from
  before all others (0) to after them (1). Returns all sentences, and the
  numbers of those that are facts.
  """
  number = len(facts) + len(background)
  if depth is None:
    places = np.sort(rng.choice(number, len(facts), replace=False))
  else:
    places = round(depth * len(background)) + np.arange(len(facts))
  chosen, fact, other = set(places.tolist()), iter(facts), iter(background)
  hidden = [next(fact if i in chosen else other) for i in range(number)]
  return hidden, places


class World:
  """Knowledge of a reader of all facts so far; nothing else is true.

  Nobody is anywhere before the first move. A thing that nobody has touched is
  wherever it is first taken.
  """

  def __init__(self, people, places, things):
    self.people, self.places, self.things = people, places, things
    self.facts = []
    self.at = {}  # person -> place, number of the fact
    self.holder = {}  # thing -> person, number of the fact since when
    self.left = {}  # dropped thing -> place, evidence
    self.seen = {}  # thing -> [(place, evidence)] of all its places, in order

  def possible(self, verb: str) -> list[Fact]:
    """Everything that can happen next, of one verb."""
    at, holder = self.at, self.holder
    if verb == "move":
      return [
        (verb, p, place)
        for p in self.people
        for place in self.places
        if p not in at or at[p][0] != place
      ]
    if verb == "take":
      return [
        (verb, p, thing)
        for p in self.people
        for thing in self.things
        if p in at and thing not in holder
        and self.left.get(thing, at[p])[0] == at[p][0]
      ]  # fmt: skip
    if verb == "drop":
      return [(verb, p, thing) for thing, (p, _) in holder.items()]
    return [
      ("give", p, thing, other)
      for thing, (p, _) in holder.items()
      for other in self.people
      if other != p and other in at and at[other][0] == at[p][0]
    ]

  def happen(self, fact: Fact) -> None:
    """Adds a fact, one of those possible."""
    number = len(self.facts)
    self.facts.append(fact)
    verb, person, what = fact[:3]
    if verb == "move":
      self.at[person] = what, number
      for thing, (holder, since) in self.holder.items():
        if holder == person:
          self.seen[thing].append((what, (since, number)))
      return
    place, moved = self.at[person]
    if verb == "take":
      self.holder[what] = person, number
      self.left.pop(what, None)
      self.seen.setdefault(what, [(place, (moved, number))])
    elif verb == "drop":
      del self.holder[what]
      self.left[what] = place, (moved, number)
    else:
      self.holder[what] = fact[3], number

  def where(self, thing: str) -> tuple[str, tuple[int, int]]:
    """Place of a thing that was touched, and the two facts that say so."""
    if thing in self.left:
      return self.left[thing]
    person, since = self.holder[thing]
    place, moved = self.at[person]
    return place, (min(since, moved), max(since, moved))


def live(rng, kind: str, people, places, things, number: int) -> World:
  """A world in which `number` facts happened, each of a random verb."""
  world = World(people, places, things)
  for _ in range(number):
    options = [world.possible(verb) for verb in VERBS[kind]]
    options = [facts for facts in options if facts]
    facts = options[rng.integers(len(options))]
    world.happen(facts[rng.integers(len(facts))])
  return world


def map_facts(rng, places, number: int) -> list[Fact]:
  """Draws a map of `number` + 1 places on a grid, as facts in random order."""
  names = [places[i] for i in rng.permutation(len(places))[: number + 1]]
  cells = {(0, 0): names[0]}
  facts: list[Fact] = []
  for name in names[1:]:
    free = [
      (x, y, side)
      for x, y in cells
      for side, (dx, dy) in _STEP.items()
      if (x + dx, y + dy) not in cells
    ]
    x, y, side = free[rng.integers(len(free))]
    beside = cells[x, y]
    cells[x + _STEP[side][0], y + _STEP[side][1]] = name
    if rng.integers(2):
      facts.append(("lie", name, side, beside))
    else:
      facts.append(("lie", beside, OPPOSITE[side], name))
  return [facts[i] for i in rng.permutation(number)]


def map_questions(facts: Sequence[Fact]) -> Iterator[Question]:
  """All questions about a map; "north of" is "next to it, in the north"."""
  for number, (_, place, side, other) in enumerate(facts):
    for a, of, b in ((place, side, other), (other, OPPOSITE[side], place)):
      yield Question(("what", "is", of, "of", "the", b, "?"), a, (number,))
      yield Question(("what", "is", "the", a, of, "of", "?"), b, (number,))


def questions(kind: str, world: World) -> Iterator[Question]:
  """All questions of a kind that have one answer, which was told."""
  if kind == "qa1":
    for person, (place, number) in world.at.items():
      yield Question(("where", "is", person, "?"), place, (number,))
  elif kind == "qa2":
    for thing in world.seen:
      place, evidence = world.where(thing)
      yield Question(("where", "is", "the", thing, "?"), place, evidence)
  elif kind == "qa3":
    # Only places where the thing was once: "before the kitchen" is one time.
    for thing, seen in world.seen.items():
      visits = [place for place, _ in seen]
      for (before, one), (place, two) in zip(seen, seen[1:], strict=False):
        if visits.count(place) == 1:
          yield Question(
            ("where", "was", "the", thing, "before", "the", place, "?"),
            before, tuple(sorted({*one, *two})),
          )  # fmt: skip
  else:
    gifts = {n: f[1:] for n, f in enumerate(world.facts) if f[0] == "give"}
    for number, gift in gifts.items():
      for gap, words in enumerate(_GIFT_QUESTIONS):
        rest = gift[:gap] + gift[gap + 1 :]
        like = [other[:gap] + other[gap + 1 :] for other in gifts.values()]
        if like.count(rest) == 1:
          asked = tuple(words.format(*gift).split())
          yield Question(asked, gift[gap], (number,))
