"""bAbI's first five tasks, hidden sentence by sentence among filler.

As BABILong (arXiv 2406.10149) hides them. A sequence of `length` tokens, and
the target after its last one, is

    | facts, in order, among filler sentences | gap (filler) | questions |

    qa1  one fact     where is Mary ? kitchen
    qa2  two facts    where is the milk ? kitchen
    qa3  three facts  where was the milk before the kitchen ? garden
    qa4  a map        what is north of the kitchen ? garden
    qa5  gifts        who gave the milk to John ? Mary

A token is a word (`Config.vocabulary`), an answer is one. Sentences of filler
end in "." like facts ("Mary took the milk ."), but hold no verb: a share
`interference` of their words are names of things, the others mean nothing.

For the same as text, in a real book, use long_qa with source="babi:qa1".
"""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from mattt_jax.config import require, require_choice
from mattt_jax.tasks import _babi_rules as rules
from mattt_jax.tasks import _babi_world as worlds
from mattt_jax.tasks import _documents, base
from mattt_jax.tasks._babi_world import hide, text
from mattt_jax.tasks._drafts import Draft

__all__ = ["Config", "Story", "Task", "hide", "tell", "text"]
_FILLER_WORDS = (3, 9)  # of a filler sentence, the full stop included


@dataclasses.dataclass(frozen=True)
class Config(_documents.Config):
  """Settings, in addition to those of all documents of facts."""

  kind: str = "qa1"  # to "qa5"
  num_facts: int = 7  # of the story, those that no question needs included
  num_questions: int = 1  # different ones, where there are that many
  num_people: int = 4
  num_places: int = 8
  num_objects: int = 4

  counts: ClassVar = ("num_facts", "num_questions")

  def __post_init__(self):
    super().__post_init__()
    require_choice("task.kind", self.kind, tuple(worlds.VERBS))
    _documents.require_least(self, num_questions=1)
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

  @property
  def names(self) -> tuple[list[str], list[str], list[str]]:
    """People, places and objects."""
    return (
      worlds.PEOPLE[: self.num_people],
      worlds.PLACES[: self.num_places],
      worlds.OBJECTS[: self.num_objects],
    )

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """Word of each token; token 0 is unused."""
    fillers = (f"filler{number}" for number in range(self.num_fillers))
    return "", *worlds.GRAMMAR, *itertools.chain(*self.names), *fillers

  @property
  def first_name(self) -> int:
    """First token that names a thing; people, places, then objects."""
    return 1 + len(worlds.GRAMMAR)

  @property
  def first_filler(self) -> int:
    return self.first_name + sum(map(len, self.names))

  # Sizes are those of the longest sentences.

  @property
  def fact_tokens(self) -> int:
    return self.num_facts * worlds.LONGEST[self.kind][0]

  @property
  def question_tokens(self) -> int:
    return self.num_questions * self.least_distance

  @property
  def least_distance(self) -> int:
    return worlds.LONGEST[self.kind][1]


@dataclasses.dataclass(frozen=True)
class Story:
  """Sentences of what happened, in order, and questions about it."""

  sentences: tuple[worlds.Words, ...]
  questions: tuple[worlds.Question, ...]


class Task(_documents.Task):
  """Endless examples, each made from (seed, split, index) alone."""

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._token = {word: token for token, word in enumerate(config.vocabulary)}

  def story(self, split: str, index: int) -> Story:
    """Story of example `index` of `split`, in words; raises as `example`."""
    return tell(self.config, base.example_rng(self.seed, split, index))

  def draft(self, rng, length, step):
    """Draws a story and its questions.

    The evidence of an answer is every fact that it needs; its distance is that
    of the first word of the farthest.
    """
    del step
    c = self.config
    end, _ = c.areas(length)
    story = tell(c, rng)
    facts = [self._tokens(words) for words in story.sentences]
    questions = [self._tokens((*q.words, q.answer)) for q in story.questions]
    questions_at = length + 1 - sum(map(len, questions))

    room = end - sum(map(len, facts))
    sentences, places = hide(rng, facts, self._filler(rng, room), c.depth)
    starts = np.cumsum([0, *map(len, sentences)])[places]
    gap = self._filler(rng, questions_at - end)
    draft = Draft(np.concatenate([*sentences, *gap, *questions]), length)

    at = questions_at - 1
    for number, question in enumerate(story.questions):
      at += len(questions[number])
      evidence = list(question.evidence)
      words = [  # of each fact, without its full stop
        starts[fact] + np.arange(len(facts[fact]) - 1) for fact in evidence
      ]
      farthest = starts[evidence].min()
      draft.ask(at, number, at - farthest, np.concatenate(words))
    return draft

  def guessing(
    self, split: str, length: int, sequences: int
  ) -> dict[str, float | None]:
    """Shares of answers, over the first `sequences` examples, that rules
    without linked facts (`_babi_rules.RULES`) have right; none for qa4 and qa5,
    whose answers are not places that somebody went to."""
    del length
    if self.config.kind not in ("qa1", "qa2", "qa3"):
      return {}
    stories = [self.story(split, index) for index in range(sequences)]
    cases = [
      (rules.names(s.sentences), asked)
      for s in stories
      for asked in s.questions
    ]
    return {
      name: float(np.mean([rule(*case) == case[1].answer for case in cases]))
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
  kind, number = config.kind, config.num_facts
  questions: list[worlds.Question] = []
  while not questions:  # a random life may leave nothing to ask for
    if kind == "qa4":
      facts = worlds.map_facts(rng, config.names[1], number)
      questions = list(worlds.map_questions(facts))
    else:
      world = worlds.live(rng, kind, *config.names, number)
      facts, questions = world.facts, list(worlds.questions(kind, world))
  again = config.num_questions > len(questions)
  chosen = rng.choice(len(questions), config.num_questions, replace=again)
  return Story(
    tuple(worlds.sentence(fact) for fact in facts),
    tuple(questions[number] for number in chosen),
  )
