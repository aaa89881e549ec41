"""Which came first: the earlier of two names that were met long ago.

A stretch of a document, prose or code, then questions about the order in which
names first stood in it,

    Which came first, Elizabeth or Bingley? Elizabeth

Both first mentions are further back than `beyond` tokens, and at least `apart`
tokens lie between them; a coin decides which name is written first. Names are
those of name_cloze. The distance is to the later of the two first mentions.
"""

import dataclasses

import numpy as np

from mattt_jax.config import require_at_least
from mattt_jax.tasks import _names, _questions


@dataclasses.dataclass(frozen=True)
class Config(_questions.Config):
  """Settings, in addition to those of all questions about real text."""

  apart: int = 32  # tokens between the two first mentions, at least
  num_mentions: int = 3  # of a name amid sentences, in the whole document

  def __post_init__(self):
    super().__post_init__()
    require_at_least("task.apart", self.apart, 0)
    require_at_least("task.num_mentions", self.num_mentions, 1)


class Task(_questions.Task):
  """The facts are all mentions of names; two of them make a question."""

  config: Config
  what = "two names, first mentioned task.apart tokens apart"

  def find(self, document):
    """Finds all mentions of names."""
    text, least = document.text.decode(), self.config.num_mentions
    for name, start, stop in _names.mentions(document.name, text, least):
      yield _questions.Fact(name, ((start, stop),))

  def ask(self, rng, facts):
    """Asks about pairs of first mentions, in random order."""
    first: dict[str, _questions.Fact] = {}
    for fact in facts:
      first.setdefault(fact.name, fact)
    met = list(first.values())
    starts = np.array([fact.start for fact in met])
    stops = np.array([fact.stop for fact in met])
    apart = starts[None, :] - stops[:, None]
    early, late = np.nonzero(apart >= self.config.apart)
    for k in rng.permutation(len(early)):
      pair = met[early[k]], met[late[k]]
      names = tuple(pair[at].name for at in rng.permutation(2))
      ask = f"\nWhich came first, {names[0]} or {names[1]}?"
      yield _questions.Question(ask, pair[0].name, pair, names)

  def mentions(self, question, facts):
    """The mentions of the two names, in order."""
    return [fact.name for fact in facts if fact.name in question.names]
