"""Name cloze: which of the names met so far stands here, last seen long ago.

The text of books or code, as it is, asks the questions: a name whose last
mention lies more than `beyond` tokens back is an answer, and the model reads on
after it. Exact match and accuracy are those of its tokens.

    prose      capitalised words that are never in lower case (tasks/_names.py)
    *.py       names that the module imports or defines

Training reads windows at random places. Held-out documents are cut into windows
of `length` tokens (the first of each document, then the second, ...), each read
by itself: only names that it mentions have been met. Models too small to write
a name choose among those of `Task.questions` by their loss.
"""

import dataclasses
import functools

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.data import splits, tokenizer
from mattt_jax.tasks import _cloze, _names, base
from mattt_jax.tasks._drafts import Draft


@dataclasses.dataclass(frozen=True)
class Config(_cloze.Config):
  """Settings, in addition to those of names met far back."""

  num_mentions: int = 3  # of a name amid sentences, in the whole document

  def __post_init__(self):
    super().__post_init__()
    require_at_least("task.num_mentions", self.num_mentions, 1)
    require(
      self.context_weight > 0,
      "task.context_weight=0 leaves nothing to learn in a window without an "
      "answer: make it positive, and task.answer_weight larger",
    )


class Task(_cloze.Task):
  """Windows of documents; the tune and test windows do not overlap."""

  config: Config

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._mentions_in = functools.cache(self._find)

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out windows; None (endless) for train."""
    splits.require_split(split)
    return None if split == "train" else len(self._windows(split, length))

  def _window(self, split: str, index: int, length: int) -> tuple[int, int]:
    """The document and the start of example `index`."""
    if split == "train":
      return self._train_window(index, length)
    splits.require_split(split)
    windows = self._windows(split, length)
    what = f"window of split={split!r} and length={length}"
    start, document = base.at_index(windows, index, what)
    return document, start

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    The distance of an answer is from its first token back to the last one of
    the name's last mention, whose tokens are `relevant`.

    Raises:
      ValueError: unknown split, or no such window.
    """
    document, start = self._window(split, index, length)
    _, tokens = self.document(split, document)
    draft = Draft(tokens[start : start + length + 1], length)
    spans, names = self._mentions(split, document, start, length)
    for number, (now, last) in enumerate(self._clozes(spans, names)):
      back = spans[now, 0] - (spans[last, 1] - 1)
      draft.ask(slice(*spans[now]), number, back, slice(*spans[last]))
    return draft.example(self.config.answer_weight, self.config.context_weight)

  def choices(self, split: str, index: int, length: int) -> list[_cloze.Cloze]:
    """The answers of example `index`, by number, and what to choose from.

    Raises:
      ValueError: unknown split, or no such window.
    """
    document, start = self._window(split, index, length)
    _, tokens = self.document(split, document)
    spans, names = self._mentions(split, document, start, length)
    order = {name: k for k, name in enumerate(dict.fromkeys(names))}
    which, clozes = np.array([order[name] for name in names], np.int64), []
    for now, _ in self._clozes(spans, names):
      met = tuple(order)[: which[:now].max() + 1]
      first, stop = start + spans[now]
      said = self.tokenizer.decode(tokens[first:stop])
      before = said.partition(names[now])[0]
      at = int(spans[now, 0]) - 1
      clozes.append(_cloze.Cloze(at, met, int(which[now]), which[:now], before))
    return clozes

  def _clozes(self, spans, names) -> list[tuple[int, int]]:
    """(mention, last mention of the same name) of each answer."""
    last: dict[str, int] = {}
    pairs = []
    for now, name in enumerate(names):
      before = last.get(name, now)
      last[name] = now
      if spans[now, 0] - (spans[before, 1] - 1) > self.config.beyond:
        pairs.append((now, before))
    return pairs

  def _mentions(
    self, split: str, index: int, start: int, length: int
  ) -> tuple[np.ndarray, list[str]]:
    """The mentions that lie whole in a window: their first token and the one
    after the last, counted in the window, [number, 2]; and their names."""
    spans, names = self._mentions_in(split, index)
    inside = (spans[:, 0] >= start) & (spans[:, 1] <= start + length + 1)
    return spans[inside] - start, [names[i] for i in np.flatnonzero(inside)]

  def _find(self, split: str, index: int) -> tuple[np.ndarray, list[str]]:
    """Tokens and names of all mentions of a document."""
    document, _ = self._document(split, index)
    text = document.text.decode()
    mentions = _names.mentions(document.name, text, self.config.num_mentions)
    starts = self.tokenizer.starts(text)
    edges = np.array([edges for _, *edges in mentions], np.int64).reshape(-1, 2)
    first = tokenizer.token_at(starts, edges[:, 0])
    stop = np.searchsorted(starts, edges[:, 1])
    return np.stack([first, stop], 1), [name for name, *_ in mentions]
