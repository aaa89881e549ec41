"""bAbI's first five tasks, hidden sentence by sentence among filler.

As BABILong (arXiv 2406.10149) hides them. A sequence of `length` tokens, and
the target after its last one, is

    | facts, in order, among filler sentences | gap (filler) | questions |

    qa1  one fact     where is Mary ? kitchen
    qa2  two facts    where is the milk ? kitchen
    qa3  three facts  where was the milk before the kitchen ? garden
    qa4  a map        what is north of the kitchen ? garden
    qa5  gifts        who gave the milk to John ? Mary

A token is a word (`Config.vocabulary`), an answer is one. Facts are sentences
like "Mary took the milk ."; those of filler end in "." too, but hold no verb:
a share `interference` of their words are people, places and objects, the others
mean nothing.

The same as text, in sentences of a real book, for tokenised models, is long_qa
with source="babi:qa1".
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import require, require_at_least, require_choice
from mattt_jax.tasks import _babi_rules as rules
from mattt_jax.tasks import _babi_world as worlds
from mattt_jax.tasks import _documents, base
from mattt_jax.tasks._babi_world import hide, text

if TYPE_CHECKING:
  from mattt_jax.config import Experiment

__all__ = ["Config", "Story", "Task", "hide", "tell", "text"]
_FILLER_WORDS = (3, 9)  # of a filler sentence, the full stop included


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; lengths and distances are in tokens, which are words."""

  kind: str = "qa1"  # to "qa5"
  num_facts: int = 7  # of the story, those that no question needs included
  num_questions: int = 1  # different ones, where there are that many
  num_people: int = 4
  num_places: int = 8
  num_objects: int = 4
  num_fillers: int = 64  # words that mean nothing
  interference: float = 0.5  # share of filler words that are names of things
  # Where the facts lie, back to back: 0 at the start of what is before the gap,
  # 1 at its end. None: each at a random place.
  depth: float | None = None
  gap_share: float = 0.5  # filler between facts and questions, of length
  out_of_reach: bool = True  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the answers
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    require_choice("task.kind", self.kind, tuple(worlds.VERBS))
    for field, least in (("num_questions", 1), ("num_fillers", 1),
                         ("answer_weight", 0), ("context_weight", 0),
                         ):  # fmt: skip
      require_at_least(f"task.{field}", getattr(self, field), least)
    for field, least, names in (
      ("num_people", 2, worlds.PEOPLE),
      ("num_places", 2, worlds.PLACES),
      ("num_objects", 1, worlds.OBJECTS),
    ):
      value = getattr(self, field)
      require(
        least <= value <= len(names),
        f"task.{field}={value} must lie in {least} .. {len(names)}",
      )
    fewest = worlds.FEWEST[self.kind]
    require(
      self.num_facts >= fewest,
      f"task.num_facts={self.num_facts} must be at least {fewest}: fewer allow "
      f"no question of task.kind={self.kind!r}",
    )
    require(
      self.kind != "qa4" or self.num_facts < self.num_places,
      f"task.num_facts={self.num_facts} must be < task.num_places="
      f"{self.num_places} with task.kind='qa4': every fact adds a place",
    )
    _documents.require_document(self)

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """The word of each token; token 0 is unused."""
    return (
      "",
      *worlds.GRAMMAR,
      *worlds.PEOPLE[: self.num_people],
      *worlds.PLACES[: self.num_places],
      *worlds.OBJECTS[: self.num_objects],
      *(f"filler{number}" for number in range(self.num_fillers)),
    )

  @property
  def first_name(self) -> int:
    """The first token that names a thing; people, places, then objects."""
    return 1 + len(worlds.GRAMMAR)

  @property
  def first_filler(self) -> int:
    return (
      self.first_name + self.num_people + self.num_places + self.num_objects
    )

  @property
  def vocab_size(self) -> int:
    return self.first_filler + self.num_fillers

  def areas(self, length: int) -> tuple[int, int]:
    """Where the facts' area ends, and the earliest that questions start.

    Raises:
      ValueError: `length` cannot hold it all, were each sentence the longest.
    """
    fact, question = worlds.LONGEST[self.kind]
    return _documents.areas(
      self, length, self.num_facts * fact, self.num_questions * question
    )

  def min_distance(self, length: int) -> int:
    """No word of a fact asked for is nearer to its answer than this.

    Raises:
      ValueError: as `areas`.
    """
    end, questions_at = self.areas(length)
    _, question = worlds.LONGEST[self.kind]
    return questions_at - end + question

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` where lengths do not fit or, with `out_of_reach`,
    attention could answer."""
    _documents.require_out_of_reach(self, experiment)


@dataclasses.dataclass(frozen=True)
class Story:
  """The sentences of what happened, in order, and questions about it."""

  sentences: tuple[worlds.Words, ...]
  questions: tuple[worlds.Question, ...]


class Task(_documents.Endless):
  """Endless examples, each made from (seed, split, index) alone."""

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._token = {word: token for token, word in enumerate(config.vocabulary)}

  def story(self, split: str, index: int) -> Story:
    """The story of example `index` of `split`, in words.

    Raises:
      ValueError: unknown split, or negative index.
    """
    return tell(self.config, base.example_rng(self.seed, split, index))

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    The evidence of an answer is every fact that it needs; its distance is that
    of the first word of the farthest.

    Raises:
      ValueError: unknown split, negative index, or a length too short.
    """
    c = self.config
    end, _ = c.areas(length)
    rng = base.example_rng(self.seed, split, index)
    story = tell(c, rng)
    facts = [self._tokens(words) for words in story.sentences]
    asked = [self._tokens((*q.words, q.answer)) for q in story.questions]
    questions_at = length + 1 - sum(map(len, asked))

    room = end - sum(map(len, facts))
    sentences, places = hide(rng, facts, self._filler(rng, room), c.depth)
    starts = np.cumsum([0, *map(len, sentences)])[places]
    gap = self._filler(rng, questions_at - end)
    seq = np.concatenate([*sentences, *gap, *asked])

    answer = np.full(length + 1, -1, np.int32)
    distance = np.full(length + 1, -1, np.int32)
    relevant = np.zeros(length + 1, bool)
    at = questions_at - 1
    for number, question in enumerate(story.questions):
      at += len(asked[number])
      evidence = list(question.evidence)
      answer[at], distance[at] = number, at - starts[evidence].min()
      for fact in evidence:  # without its full stop
        relevant[starts[fact] : starts[fact] + len(facts[fact]) - 1] = True
    return _documents.example(c, seq, answer, distance, relevant)

  def guessing(
    self, split: str, length: int, sequences: int
  ) -> dict[str, float | None]:
    """How often rules that link no two facts are right (`_babi_rules`).

    Returns:
      The share of each of `RULES`, of the answers of the first `sequences`
      examples, whatever their `length`; nothing of qa4 and qa5, whose answers
      are not places that somebody went to.
    """
    del length
    if self.config.kind not in ("qa1", "qa2", "qa3"):
      return {}
    asked = []
    for story in (self.story(split, index) for index in range(sequences)):
      named = rules.names(story.sentences)
      asked += [(named, question) for question in story.questions]
    return {
      name: float(np.mean([rule(*each) == each[1].answer for each in asked]))
      for name, rule in rules.RULES.items()
    }

  def _tokens(self, words) -> np.ndarray:
    return np.array([self._token[word] for word in words], np.int32)

  def _filler(self, rng, number: int) -> list[np.ndarray]:
    """Filler sentences of `number` tokens in all."""
    c = self.config
    least, most = _FILLER_WORDS
    tokens = _documents.filler(
      rng, number, c.interference, c.first_name, c.first_filler, c.vocab_size
    )
    ends = np.cumsum(rng.integers(least, most + 1, size=number // least + 1))
    ends = np.append(ends[ends < number], number)
    tokens[ends[ends > 0] - 1] = self._token["."]
    return [s for s in np.split(tokens, ends[:-1]) if len(s)]


def tell(config: Config, rng: np.random.Generator) -> Story:
  """A story, in words."""
  people, places, objects = (
    worlds.PEOPLE[: config.num_people],
    worlds.PLACES[: config.num_places],
    worlds.OBJECTS[: config.num_objects],
  )
  kind, number = config.kind, config.num_facts
  found: list[worlds.Question] = []
  while not found:  # a random life may leave nothing to ask for
    if kind == "qa4":
      facts = worlds.map_facts(rng, places, number)
      found = list(worlds.map_questions(facts))
    else:
      world = worlds.live(rng, kind, people, places, objects, number)
      facts, found = world.facts, list(worlds.questions(kind, world))
  again = config.num_questions > len(found)
  chosen = rng.choice(len(found), config.num_questions, replace=again)
  return Story(
    tuple(worlds.sentence(fact) for fact in facts),
    tuple(found[number] for number in chosen),
  )
