"""Questions about a stretch of a document: what tasks that ask them share.

    | a stretch of a document ............. | questions, answers | padding |
      evidence | at least `beyond` tokens ... |

Training reads stretches at random places, drawn until one has a question.
Held-out documents are cut into windows of `length` tokens (the first of each
document, then the second, ...); those without a question are left out. The
questions, each with two or more names to choose from, replace a window's last
tokens. Padding appears only where a document ends.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mattt_jax.config import Experiment, require, require_at_least
from mattt_jax.data import sources, splits, tokenizer
from mattt_jax.tasks import _cloze, base
from mattt_jax.tasks._drafts import Draft

_MOST_DRAWS = 10_000  # of a training window, until one has a question


@dataclasses.dataclass(frozen=True)
class Config(_cloze.Config):
  """Settings, in addition to those of names met far back."""

  num_questions: int = 4  # at most, in an example; as many as there are and fit

  def __post_init__(self):
    super().__post_init__()
    require_at_least("task.num_questions", self.num_questions, 1)

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if files are missing or shorter than one chunk, a
    length has no room for evidence or, with `out_of_reach`, attention could
    see it."""
    super().check(experiment)
    for field, length in experiment.lengths:
      require(
        self.beyond < length,
        f"task.beyond={self.beyond} must be smaller than {field}={length}, or "
        "nothing can be asked: make it smaller, or the length larger",
      )


class Fact(NamedTuple):
  """Something that a text says in one place: a name is found there."""

  name: str
  # [first, after the last) of the evidence, in any order: characters of the
  # text as a task finds it, then tokens of the document.
  spans: tuple[tuple[int, int], ...]
  ask: str = ""  # the question up to the answer; "": not to be asked
  kind: str = ""  # facts of one kind have names of one kind

  @property
  def start(self) -> int:
    """Start of its evidence."""
    return min(start for start, _ in self.spans)

  @property
  def stop(self) -> int:
    """End of its evidence, after the last one."""
    return max(stop for _, stop in self.spans)


class Question(NamedTuple):
  """A question about some of the facts of a stretch."""

  ask: str
  name: str  # the answer
  evidence: tuple[Fact, ...]
  names: tuple[str, ...] = ()  # to choose from; (): all those mentioned

  @property
  def stop(self) -> int:
    """End of its evidence, after the last token, in the document."""
    return max(fact.stop for fact in self.evidence)


class _Read(NamedTuple):
  """A stretch of a document, and the questions after it."""

  document: int
  start: int
  stop: int
  questions: list[Question]


class Task(_cloze.Task):
  """Documents and their facts; a task says what these are and what to ask.

  Raises:
    ValueError: what `_texts.Task` raises; a split of which no document has
      anything to ask about.
  """

  config: Config
  what: str  # can be asked about, in words
  line_end = "\n"  # after an answer; "" if its names end so themselves

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._facts_of = functools.cache(self._facts)
    self._written = functools.lru_cache(2**16)(self._write)
    self._held_out = functools.cache(self._windows_with_questions)
    for split in splits.SPLITS:
      facts = (
        self._facts_of(split, document)[0]
        for document in range(len(self._documents[split]))
      )
      rng = np.random.default_rng(0)
      require(
        any(next(self.ask(rng, of_one), None) for of_one in facts),
        f"task.source={config.source!r}: no document of split={split!r} has "
        f"anything to ask about ({self.what}): use another source",
      )

  def find(self, document: sources.Document) -> Iterator[Fact]:
    """The facts of a document."""
    raise NotImplementedError

  def ask(
    self, rng: np.random.Generator, facts: Sequence[Fact]
  ) -> Iterator[Question]:
    """Questions, in random order, about facts that may be evidence."""
    for k in rng.permutation(len(facts)):
      if facts[k].ask:
        yield Question(facts[k].ask, facts[k].name, (facts[k],))

  def mentions(self, question: Question, facts: Sequence[Fact]) -> list[str]:
    """The names to choose from as the facts of a stretch mention them."""
    kind = question.evidence[0].kind
    return [fact.name for fact in facts if fact.kind == kind]

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out windows with a question; None (endless) for train.

    Raises:
      ValueError: unknown split, or no window of this length has a question.
    """
    splits.require_split(split)
    return None if split == "train" else len(self._held_out(split, length))

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    The distance of an answer is from its first token back to the last one of
    its evidence, which is `relevant`.

    Raises:
      ValueError: unknown split, no such window, or none has a question.
    """
    read = self._read(split, index, length)
    _, tokens = self.document(split, read.document)
    written = [self._written(q.ask, q.name) for q in read.questions]
    parts = [tokens[read.start : read.stop], *(said for said, *_ in written)]
    draft = Draft(np.concatenate(parts), length)
    at = read.stop - read.start
    for number, (question, (said, (first, stop), _)) in enumerate(
      zip(read.questions, written, strict=True)
    ):
      last = question.stop - 1 - read.start
      evidence = [
        np.arange(*edges) - read.start
        for fact in question.evidence
        for edges in fact.spans
      ]
      draft.ask(
        slice(at + first, at + stop), number, at + first - last,
        np.concatenate(evidence),
      )  # fmt: skip
      at += len(said)
    return draft.example(self.config.answer_weight, self.config.context_weight)

  def choices(self, split: str, index: int, length: int) -> list[_cloze.Cloze]:
    """The answers of example `index`, by number, and what to choose from.

    Raises:
      ValueError: as `example`.
    """
    read = self._read(split, index, length)
    facts = self._between(split, read.document, read.start, read.stop)
    at, clozes = read.stop - read.start, []
    for question in read.questions:
      written, (first, _), before = self._written(question.ask, question.name)
      mentions = self.mentions(question, facts)
      names = question.names or tuple(dict.fromkeys(mentions))
      which = np.array([names.index(name) for name in mentions], np.int64)
      right = names.index(question.name)
      clozes.append(_cloze.Cloze(at + first - 1, names, right, which, before))
      at += len(written)
    return clozes

  def _read(self, split: str, index: int, length: int) -> _Read:
    """The stretch and the questions of example `index`."""
    rng = base.example_rng(self.seed, split, index)
    if split == "train":
      for _ in range(_MOST_DRAWS):
        document, start = self._draw_window(rng, length)
        read = self._plan(rng, split, document, start, length)
        if read.questions:
          return read
      raise self._nothing(split, length)
    windows = self._held_out(split, length)
    what = f"window of split={split!r}, length={length}, that has a question"
    return base.at_index(windows, index, what)

  def _windows_with_questions(self, split: str, length: int) -> list[_Read]:
    reads = []
    for number, (start, document) in enumerate(self._windows(split, length)):
      rng = base.example_rng(self.seed, split, number)
      reads.append(self._plan(rng, split, document, start, length))
    if reads := [read for read in reads if read.questions]:
      return reads
    raise self._nothing(split, length)

  def _nothing(self, split: str, length: int) -> ValueError:
    return ValueError(
      f"length={length}: no window of split={split!r} has anything to ask "
      f"about ({self.what}) more than task.beyond={self.config.beyond} tokens "
      "before its questions: use a larger length, a smaller beyond or other "
      "documents"
    )

  def _plan(self, rng, split: str, document: int, start: int, length: int):
    """Chooses a window's questions, tried in random order: one is taken if all
    evidence is then far enough before the first question, and each question has
    names to choose from."""
    _, tokens = self.document(split, document)
    end = min(len(tokens), start + length + 1)
    beyond = self.config.beyond
    read, size = _Read(document, start, end, []), 0
    facts = self._between(split, document, start, end - beyond)
    for question in self.ask(rng, facts):
      written, *_ = self._written(question.ask, question.name)
      stop = min(end, start + length + 1 - size - len(written))
      more = [*read.questions, question]
      if max(q.stop for q in more) + beyond > stop:
        continue
      met = self._between(split, document, start, stop)
      if all(len(set(self.mentions(q, met))) > 1 for q in more):
        read, size = _Read(document, start, stop, more), size + len(written)
      if len(read.questions) == self.config.num_questions:
        break
    return read

  def _between(
    self, split: str, document: int, start: int, stop: int
  ) -> list[Fact]:
    """The facts that lie whole in a part of a document, in order."""
    facts, starts = self._facts_of(split, document)
    first, last = np.searchsorted(starts, (start, stop))
    return [fact for fact in facts[first:last] if fact.stop <= stop]

  def _facts(self, split: str, index: int) -> tuple[list[Fact], np.ndarray]:
    """The facts of a document, in order, and where they start, in tokens."""
    document, _ = self._document(split, index)
    starts = self.tokenizer.starts(document.text.decode())
    facts = []
    for fact in self.find(document):
      edges = np.array(fact.spans)
      first = tokenizer.token_at(starts, edges[:, 0]).tolist()
      stop = np.searchsorted(starts, edges[:, 1]).tolist()
      facts.append(fact._replace(spans=tuple(zip(first, stop, strict=True))))
    facts.sort(key=lambda fact: (fact.start, fact.stop))
    return facts, np.array([fact.start for fact in facts], np.int64)

  def _write(self, ask: str, name: str):
    """Tokens of a question, its answer and the end of the line; the answer's
    span in them; and what its first token says before it."""
    encode = self.tokenizer.encode
    lead, (said, first, before) = encode(ask), self._after_space(name)
    end = [encode(self.line_end)] if self.line_end else []
    span = len(lead) + first, len(lead) + len(said)
    return np.concatenate([lead, said, *end]), span, before
