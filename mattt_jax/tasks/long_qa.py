"""Questions about long texts: a public set's, made at any length, or of tales.

| context ............................ | question | answer | padding: weight 0 |

`source` names where they are from:

    stories        six tales of a few lines, which need no files
    SET:PATH       a public set on local disk (data/public_sets.py)
    ruler:KIND     RULER's tasks as text, of any length (data/ruler_text.py)
    babi:KIND      bAbI's qa1 to qa5 among the sentences of a real text, of any
                   length, as BABILong has them (tasks/babi.py)

A context that is too long loses its middle, as in LongBench (arXiv 2308.14508),
or is an error with `cut=False`. The first of several right answers is asked
for, the space before it included. Its distance goes back to bAbI's farthest
fact, or else to the first place where the answer stands in the context, or to
the beginning. A multiple choice is among the set's own choices. Nothing ends a
written answer: it has at most as many tokens as the longest right one.
"""

import dataclasses
import functools
import re

import numpy as np

from mattt_jax.config import Experiment, require
from mattt_jax.data import public_sets, ruler_text, sources, splits, tokenizer
from mattt_jax.tasks import _documents, _generated, _texts, base
from mattt_jax.tasks._drafts import Draft

_MIN_HAYSTACK_BYTES = 1024  # shorter modules of "stdlib" are left out
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclasses.dataclass(frozen=True)
class Config(_texts.Tokenized):
  """Settings, in addition to the tokenizer."""

  # Or "SET:PATH", "ruler:KIND", "babi:KIND".
  source: str = public_sets.STORIES
  # The text that needles and facts are hidden in, a source of data/sources.py
  # ("directory:PATH" of books); "": the tales, again and again.
  haystack: str = ""
  cut: bool = True  # leave out the middle of a context that is too long
  answer_weight: float = 1.0  # outer weight of the answers
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    super().__post_init__()
    _documents.require_weights(self)
    maker = _generated.parse(self.source)
    require(
      not self.haystack or (maker is not None and maker.in_text),
      f"task.haystack={self.haystack!r} would not be used: "
      f"task.source={self.source!r} hides nothing in a text; leave it out",
    )

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if files are missing."""
    if _generated.parse(self.source) is None:
      public_sets.check(self.source)
    if self.haystack:
      try:
        sources.check(self.haystack, min_bytes=_MIN_HAYSTACK_BYTES, least=1)
      except ValueError as error:  # which names the field of another task
        text = str(error).replace("task.source=", "task.haystack=", 1)
        raise ValueError(text) from None


class Task(_texts.TextTask):
  """Records, read once and held in memory, or made from (split, index) alone.

  Training repeats its records, each time in another order.

  Raises:
    ValueError: as `TextTask`; what data/public_sets.py raises of a source,
      data/sources.py of a haystack.
  """

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._maker = _generated.parse(config.source)
    self._records = public_sets.load(
      public_sets.STORIES if self._maker else config.source
    )
    self._encode = self.tokenizer.encode
    # The questions about a text come one after the other.
    self._encode_context = functools.lru_cache(maxsize=8)(self._encode)
    self._size_of = functools.cache(self._largest)
    self._sentences = (
      {s: self._text(s) for s in splits.SPLITS} if self._maker else {}
    )

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out records; None (endless) for train and what is made."""
    splits.require_split(split)
    endless = split == "train" or self._maker
    return None if endless else len(self._records[split])

  def contents(self) -> dict[str, str]:
    """Checksum of each split's records."""
    return {
      split: base.checksum(repr((records, self._sentences.get(split))))
      for split, records in self._records.items()
    }

  def record(self, split: str, index: int, length: int) -> public_sets.Record:
    """Record of example `index`; `length` counts for what is made.

    Raises:
      ValueError: unknown split, no such record, a length too short for one.
    """
    base.example_rng(self.seed, split, index)  # refuses what is no example
    if self._maker:
      size, short = self._size_of(split, length)
      least, _ = self._maker.sizes
      while True:
        record = self._generated(split, index, size, length, short)
        too_many = self._tokens(record) - length - 1
        if too_many <= 0:
          return record
        require(
          size > least,
          f"length={length} is too short for task.source={self.config.source!r}"
          f": this one needs {length + too_many} tokens at least",
        )
        size = max(least, size - max(1, size // 64))
    records = self._records[split]
    if split != "train":
      return base.at_index(records, index, f"record of split={split!r}")
    epoch, at = divmod(index, len(records))
    rng = base.example_rng(self.seed, split, epoch)
    return records[rng.permutation(len(records))[at]]

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    Raises:
      ValueError: as `record`; the question and its answer do not fit, or, with
        `cut=False`, the context.
    """
    record = self.record(split, index, length)
    context, head, rest = self._parts(record, length)
    parts = [context, *(tokens for tokens, _ in rest)]
    draft = Draft(np.concatenate(parts), length)
    at = len(context)
    for tokens, number in rest:
      if number >= 0:
        evidence = self._evidence(record, number, context, head)
        places = np.concatenate([np.arange(*edges) for edges in evidence])
        back = at - evidence[0][0]
        draft.ask(slice(at, at + len(tokens)), number, back, places)
      at += len(tokens)
    return draft.example(self.config.answer_weight, self.config.context_weight)

  def questions(
    self, split: str, index: int, length: int, most: int
  ) -> list[base.Question]:
    """Questions of example `index`, earlier answers in place.

    Raises:
      ValueError: as `example`.
    """
    record = self.record(split, index, length)
    context, _, rest = self._parts(record, length)
    at, questions = len(context), []
    for tokens, number in rest:
      if number >= 0:
        space = " " * record.leads[number].endswith(" ")
        right = record.answers
        if len(record.leads) > 1:
          right = (right[number],)
        choices = dict.fromkeys((right[0], *record.choices))
        encoded = [self._encode(space + text) for text in choices]
        questions.append(
          base.Question(
            at=at - 1,
            choices=tuple(encoded[:most]) if record.choices else (),
            references=right,
            room=max(len(self._encode(space + text)) for text in right),
            metric=record.metric,
            asked=record.question,
            labels=record.labels,
          )
        )
      at += len(tokens)
    return questions

  def _parts(self, record, length: int):
    longest = self._after(record)
    room = length + 1 - longest
    require(
      room > 0,
      f"length={length} is too short for the {longest} tokens of the question "
      f"and the answer of record {record.id!r}: use at least {longest}",
    )
    return *self._cut(record, room), self._rest(record, record.answers)

  def _after(self, record) -> int:
    """Most tokens after the context, so that all choices leave the same room."""
    candidates = [(choice,) for choice in record.choices] or [record.answers]
    parts = (self._rest(record, answers) for answers in candidates)
    return max(sum(len(tokens) for tokens, _ in rest) for rest in parts)

  def _rest(self, record, answers) -> list[tuple[np.ndarray, int]]:
    """The parts after the context: tokens, and which answer they are, or -1."""
    parts, before = [], record.ask
    pairs = zip(record.leads, answers, strict=False)
    for number, (lead, text) in enumerate(pairs):
      # Tokenizers join a word to the space before it.
      space = " " * lead.endswith(" ")
      before += lead.removesuffix(" ")
      if before:
        parts.append((self._encode(before), -1))
      parts.append((self._encode(space + text), number))
      before = ""
    return parts

  def _tokens(self, record) -> int:
    return len(self._encode_context(record.context)) + self._after(record)

  def _cut(self, record, room: int) -> tuple[np.ndarray, int]:
    """The context in `room` tokens, and where its middle is missing."""
    tokens = self._encode_context(record.context)
    if len(tokens) <= room:
      return tokens, len(tokens)
    require(
      self.config.cut,
      f"record {record.id!r} has a context of {len(tokens)} tokens, and there "
      f"is room for {room}: use a length that is greater by "
      f"{len(tokens) - room}, or task.cut=True",
    )
    tail = room // 2
    kept = np.concatenate([tokens[: room - tail], tokens[len(tokens) - tail :]])
    return kept, room - tail

  def _evidence(self, record, number: int, context, head: int):
    """Spans of tokens, [first, after the last), that decide an answer."""
    if not record.evidence or head < len(context):
      return [self._find(context, head, record.answers[number])]
    starts = self.tokenizer.starts(record.context)
    edges = np.array(sorted(record.evidence))
    first = tokenizer.token_at(starts, edges[:, 0])
    return np.stack([first, np.searchsorted(starts, edges[:, 1])], 1).tolist()

  def _find(self, context, head: int, answer: str) -> tuple[int, int]:
    """First place of `answer` in the context, [first, after the last); (0, 0):
    it is not there."""
    decode, encode = self.tokenizer.decode, self._encode
    # Tokens of a part of a text may be others than in the whole of it, hence
    # min and max.
    size, end = len(encode(answer)), len(context)
    before, text, after = decode(context[:head]).partition(answer)
    if text:
      start = min(len(encode(before)), head)
      return start, min(start + size, head)
    _, text, after = decode(context[head:]).partition(answer)
    if text:  # from the end: a character may be cut at the start
      start = max(end - len(encode(text + after)), head)
      return start, min(start + size, end)
    return 0, 0

  def _generated(self, split, index, size, length, short) -> public_sets.Record:
    assert self._maker
    name, rng = f"{split}/{index}", base.example_rng(self.seed, split, index)
    return self._maker.record(
      name, rng, size, length, self._sentences[split], short
    )

  def _largest(self, split: str, length: int) -> tuple[int, bool]:
    """Size of the haystack that fills `length`, to about 2 %, and whether
    RULER's has the short form."""
    assert self._maker
    least, most = self._maker.sizes

    def fits(size, short):
      record = self._generated(split, 0, size, length, short)
      return self._tokens(record) <= length + 1

    # RULER's rule, and of tokens as short as bytes what fits.
    short = length < ruler_text.SHORT or not fits(least, False)
    low, high = least, 2 * least
    while low != most and fits(high, short):
      low, high = high, min(2 * high, most or 2 * high)
    while high - low > max(1, low // 64):
      middle = (low + high) // 2
      low, high = (middle, high) if fits(middle, short) else (low, middle)
    return low, short

  def _text(self, split: str) -> list[str]:
    """The sentences of the haystack of a split."""
    texts = list(dict.fromkeys(r.context for r in self._records[split]))
    if source := self.config.haystack:
      documents = sources.load(source, min_bytes=_MIN_HAYSTACK_BYTES)
      texts = [d.text.decode() for d in documents[split]]
    return _SENTENCE_END.split(" ".join(" ".join(texts).split()))
