"""Rules that link no two facts, and what they answer of bAbI's questions.

Stories name few places, so that such rules beat chance. None of them looks at
who went where: what a model has over the best of them, it must have linked.
"""

import collections
from collections.abc import Sequence

from mattt_jax.tasks import _babi_world as worlds


def last_place(named: Sequence[str], question: worlds.Question) -> str:
  """Last place that anybody went to."""
  return ["", *_places(named, but=_mentioned(question, worlds.PLACES))][-1]


def most_named(named: Sequence[str], question: worlds.Question) -> str:
  """Place that most went to, the first such."""
  places = _places(named, but=_mentioned(question, worlds.PLACES))
  return collections.Counter(places).most_common(1)[0][0] if places else ""


def before_thing(named: Sequence[str], question: worlds.Question) -> str:
  """Last place before the object in the question, its last time."""
  return _before(named, _mentioned(question, worlds.OBJECTS))


def before_place(named: Sequence[str], question: worlds.Question) -> str:
  """Last place before the one in the question, its last time."""
  return _before(named, _mentioned(question, worlds.PLACES))


# (places and objects as the story names them, question) -> answer, or "".
RULES = {rule.__name__: rule for rule in (last_place, most_named, before_thing,
                                          before_place)}  # fmt: skip


def names(sentences: Sequence[worlds.Words]) -> list[str]:
  """The places and objects that a story names, in order."""
  known = {*worlds.PLACES, *worlds.OBJECTS}
  return [word for words in sentences for word in words if word in known]


def _places(named: Sequence[str], but: str = "") -> list[str]:
  return [name for name in named if name in worlds.PLACES and name != but]


def _mentioned(question: worlds.Question, among: Sequence[str]) -> str:
  return next((word for word in question.words if word in among), "")


def _before(named: Sequence[str], name: str) -> str:
  at = [i for i, other in enumerate(named) if other == name]
  return ["", *_places(named[: at[-1]])][-1] if at else ""
