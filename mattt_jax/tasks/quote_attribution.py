"""Quote attribution: who said this, long ago?

A stretch of prose, then questions about the direct speech in it,

    Who said: "He is just what a"? Elizabeth

with the first words of what was said, which stand nowhere else in the document,
and the speaker as the text names them beside it (tasks/_speech.py). Distances
are to the nearer of the two.

Python modules say nothing aloud, so the default source is made-up dialogue;
`mattt prepare books DIR` gives real one.
"""

import dataclasses
import re

from mattt_jax.config import require_at_least
from mattt_jax.tasks import _questions, _speech


@dataclasses.dataclass(frozen=True)
class Config(_questions.Config):
  """Settings, in addition to those of all questions about real text."""

  source: str = "dialogue"  # or "directory:PATH", "tfds:NAME"
  num_words: int = 5  # of what was said, in the question

  def __post_init__(self):
    super().__post_init__()
    require_at_least("task.num_words", self.num_words, 1)


class Task(_questions.Task):
  """Speakers to choose from are all those that the stretch names as such."""

  config: Config
  what = "direct speech with a named speaker"

  def find(self, document):
    """Finds speech with a named speaker; asks nothing about short or repeated
    speech."""
    text = document.text.decode()
    plain = " ".join(text.split())
    words = re.compile(rf"\S+(?:\s+\S+){{{self.config.num_words - 1}}}")
    for speech in _speech.speeches(text):
      name = " ".join(text[slice(*speech.name)].split())
      said = words.match(text, *speech.text)
      if said is None:
        yield _questions.Fact(name, (speech.name,))
        continue
      opening = " ".join(said.group().split())
      ask = f'\nWho said: "{opening}"?' if plain.count(opening) == 1 else ""
      yield _questions.Fact(name, (said.span(), speech.name), ask)

  def mentions(self, question, facts):
    """The speakers; no one who may be the right one by another name."""
    right = question.name.split()
    names = super().mentions(question, facts)
    return [n for n in names if n == question.name or not _alias(n, right)]


def _alias(name: str, right: list[str]) -> bool:
  """Whether one of two names begins or ends the other (Darcy, Mr. Darcy)."""
  short, long = sorted((name.split(), right), key=len)
  return short in (long[: len(short)], long[-len(short) :])
