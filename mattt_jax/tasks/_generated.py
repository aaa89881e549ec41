"""Records made at any length: RULER's tasks, and bAbI's among real sentences.

ruler:KIND   data/ruler_text.py says what the kinds are
babi:qa1     to qa5: a story of tasks/babi.py, at its default sizes, hidden
             sentence by sentence in a text, as BABILong (2406.10149) does
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mattt_jax.config import require
from mattt_jax.data import ruler_text
from mattt_jax.data.public_sets import Record, ruler_record
from mattt_jax.tasks import _babi_world, babi

KINDS = {"ruler": ruler_text.KINDS, "babi": tuple(_babi_world.VERBS)}


@dataclasses.dataclass(frozen=True)
class Maker:
  """A maker of records of one kind."""

  name: str  # of KINDS
  kind: str

  @property
  def sizes(self) -> tuple[int, int | None]:
    """Least and most (None: any) that a haystack's size can be."""
    return ruler_text.sizes(self.kind) if self.name == "ruler" else (1, None)

  @property
  def in_text(self) -> bool:
    """Whether it hides something in a real text."""
    needles = ruler_text.NEEDLES.get(self.kind)
    return self.name == "babi" or getattr(needles, "haystack", "") == "text"

  def record(
    self,
    name: str,
    rng: np.random.Generator,
    size: int,
    length: int,
    sentences: Sequence[str],
    short: bool,
  ) -> Record:
    """Makes a record; the arguments are those of `ruler_text.generate`."""
    if self.name == "ruler":
      prompt, answers = ruler_text.generate(
        self.kind, rng, size, length, sentences, short=short
      )
      return ruler_record(name, prompt, answers)
    story = babi.tell(babi.Config(kind=self.kind), rng)
    facts = [babi.text(words) for words in story.sentences]
    first = int(rng.integers(len(sentences)))
    background = [sentences[(first + i) % len(sentences)] for i in range(size)]
    hidden, places = babi.hide(rng, facts, background)
    starts = np.cumsum([0, *(len(sentence) + 1 for sentence in hidden)])[places]
    question = story.questions[0]
    like = _like(question.answer)
    return Record(
      name, " ".join(hidden), babi.text(question.words), (question.answer,),
      "babilong", choices=like, labels=like,
      evidence=tuple(
        (int(starts[i]), int(starts[i]) + len(facts[i]))
        for i in question.evidence
      ),
    )  # fmt: skip


def parse(source: str) -> Maker | None:
  """Maker of a source's records; None: they are in files.

  Raises:
    ValueError: a kind that is not known.
  """
  name, colon, kind = source.partition(":")
  if not colon or name not in KINDS:
    return None
  require(
    kind in KINDS[name],
    f"task.source={source!r} is not known: the kinds of {name} are "
    f"{', '.join(KINDS[name])}",
  )
  return Maker(name, kind)


def _like(answer: str) -> tuple[str, ...]:
  """All names of the kind of `answer`."""
  return next(tuple(n) for n in babi.Config().names if answer in n)
