"""Questions about paragraphs that are hidden among others, up to any length.

As RULER hides SQuAD and HotpotQA (QA-1 and QA-2, arXiv 2404.06654). A sequence
of `length` tokens, and the target after its last one, is

    | paragraphs, the evidence among them | gap | Question: ... Answer: ... |

where every paragraph is its title, a line of text and an empty line, and the
gap, a share of `length`, holds paragraphs that are not evidence. Those that the
set gives with a question come first, then others of the same split in random
order, again and again if need be. The first of them, and the first of the gap,
loses its beginning, so that the length is exact.

The answer is the question's first one, with the end of its line. Training and
held-out questions share no paragraph (data/qa_sets.py). A length leaves out the
questions that do not fit. Wrong choices are answers to other questions of the
split that ask with the same word (who, how many), or to any if there are none.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mattt_jax.config import Experiment, require, require_share
from mattt_jax.data import qa_sets, splits
from mattt_jax.tasks import _documents, _texts, base
from mattt_jax.tasks._drafts import Draft

_MARGIN = 8  # tokens that a written answer may have above the longest right one
_ASKS = re.compile(r"\b(how \w+|wh(?:at|en|ere|ich|o|om|ose|y))\b", re.I)


@dataclasses.dataclass(frozen=True)
class Config(_texts.Tokenized):
  """Settings, in addition to the tokenizer."""

  source: str = "town"  # or "directory:PATH", which `mattt prepare` wrote
  gap_share: float = 0.0  # without evidence before the question, of length
  out_of_reach: bool = False  # refuse answers that attention can reach
  answer_weight: float = 1.0  # outer weight of the answer
  context_weight: float = 1.0  # outer weight of every other target

  def __post_init__(self):
    super().__post_init__()
    _documents.require_weights(self)
    require_share("task.gap_share", self.gap_share)

  def gap(self, length: int) -> int:
    """Tokens between the paragraphs that may be evidence and the question."""
    return round(self.gap_share * length)

  def min_distance(self, length: int) -> int:
    """Least distance of the evidence to the answer."""
    return self.gap(length) + 1

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if the source is missing or bad, a split has no
    question that fits or, with `out_of_reach`, attention could answer."""
    _documents.require_out_of_reach(self, experiment, experiment.lengths)
    task = Task(self, 0)
    for _, length in experiment.lengths:
      for split in splits.SPLITS:
        task.fitting(split, length)


class Task(_texts.TextTask):
  """Questions: endless and in random order in train, each once elsewhere.

  Raises:
    ValueError: as `TextTask`; what data/qa_sets.py raises of a source; a split
      without a paragraph that is not evidence.
  """

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._paragraphs, questions = qa_sets.load(config.source)
    self._parts = qa_sets.split(questions, len(self._paragraphs), config.source)
    self._paragraph = functools.cache(self._encode)
    self._answers = functools.cache(self._answers_by_kind)
    self._sizes = {}
    for split, part in self._parts.items():
      most = max(len(set(q["evidence"])) for q in part.questions)
      require(
        most < len(part.pool),
        f"task.source={config.source!r}: the {len(part.pool)} paragraphs of "
        f"split={split!r} must be more than the {most} that a question is "
        "answered from: add some",
      )
      self._sizes[split] = np.array([self._size(q) for q in part.questions])

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out questions that fit; None (endless) for train."""
    splits.require_split(split)
    return None if split == "train" else len(self.fitting(split, length))

  def contents(self) -> dict[str, str]:
    """Checksum of each list of rows."""
    rows: dict[str, Any] = {"paragraphs": self._paragraphs}
    rows |= {split: part.questions for split, part in self._parts.items()}
    return {name: base.checksum(json.dumps(rows[name])) for name in rows}

  def fitting(self, split: str, length: int) -> np.ndarray:
    """Numbers of a split's questions that fit into `length` tokens.

    Raises:
      ValueError: unknown split, or none fits.
    """
    splits.require_split(split)
    sizes = self._sizes[split]
    numbers = np.flatnonzero(sizes + self.config.gap(length) <= length + 1)
    least = int(np.ceil((sizes.min() - 1) / (1 - self.config.gap_share)))
    require(
      len(numbers) > 0,
      f"length={length} is too short for the questions of split={split!r}: the "
      f"shortest and its evidence have {sizes.min()} tokens, and task.gap_share"
      f"={self.config.gap_share}: use a length of at least {least}",
    )
    return numbers

  def question(self, split: str, index: int, length: int) -> qa_sets.Row:
    """Row of the question of example `index`; raises what `example` does."""
    return self._question(split, index, length)[0]

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens; `step` does not matter.

    The distance of the answer is that of its first token to the beginning of
    the farthest evidence; `relevant` are the paragraphs of the evidence.

    Raises:
      ValueError: unknown split, no such question, or none fits.
    """
    question, rng = self._question(split, index, length)
    asked, answer_at = self._asked(question)
    questions_at = length + 1 - len(asked)
    evidence = list(dict.fromkeys(question["evidence"]))
    gap = self.config.gap(length)
    others = self._others(rng, split, question)
    room = questions_at - gap - sum(len(self._paragraph(n)) for n in evidence)
    cut, *front = self._fill(others, room) or [np.zeros(0, np.int32)]
    order = [*map(self._paragraph, evidence), *front]

    pieces, at, places = [cut], len(cut), []
    for number in rng.permutation(len(order)):
      piece = order[number]
      if number < len(evidence):
        places.append(at + np.arange(len(piece)))
      pieces.append(piece)
      at += len(piece)
    pieces += [*self._fill(others, gap), asked]
    draft = Draft(np.concatenate(pieces), length)
    answer_at += questions_at
    back = answer_at - places[0][0]
    draft.ask(slice(answer_at, None), 0, back, np.concatenate(places))
    return draft.example(self.config.answer_weight, self.config.context_weight)

  def questions(
    self, split: str, index: int, length: int, most: int
  ) -> list[base.Question]:
    """The question of example `index`, with `most` answers to choose from.

    Raises:
      ValueError: as `example`.
    """
    question, rng = self._question(split, index, length)
    asked, answer_at = self._asked(question)
    right = question["answers"]
    _, _, before = self._after_space(f"{right[0]}\n")
    same = {text.casefold() for text in right}
    by_kind = self._answers(split)
    others = [
      [text for text in by_kind[kind] if text.casefold() not in same]
      for kind in (_kind(question), None)
    ]
    drawn = rng.permutation(others[0] or others[1])[: most - 1].tolist()
    encode = self.tokenizer.encode
    return [
      base.Question(
        at=length - len(asked) + answer_at,
        choices=tuple(encode(f"{before}{a}\n") for a in (right[0], *drawn)),
        references=tuple(right),
        room=max(len(encode(f" {a}\n")) for a in right) + _MARGIN,
        end="\n",
      )
    ]

  def _answers_by_kind(self, split: str) -> dict[str | None, list[str]]:
    """Different answers to the questions of each kind; None: to all."""
    by_kind: dict[str | None, dict[str, str]] = {None: {}}
    for question in self._parts[split].questions:
      text = question["answers"][0]
      for kind in (_kind(question), None):
        by_kind.setdefault(kind, {}).setdefault(text.casefold(), text)
    return {kind: list(texts.values()) for kind, texts in by_kind.items()}

  def _question(self, split: str, index: int, length: int):
    """A question, and the random numbers of its example."""
    rng = base.example_rng(self.seed, split, index)
    fitting = self.fitting(split, length)
    if split == "train":
      index = int(rng.integers(len(fitting)))
    what = f"question of split={split!r} that fits into length={length}"
    number = base.at_index(fitting, index, what)
    return self._parts[split].questions[number], rng

  def _size(self, question: qa_sets.Row) -> int:
    """Tokens of a question, its answer and its evidence."""
    evidence = set(question["evidence"])
    asked, _ = self._asked(question)
    return len(asked) + sum(len(self._paragraph(n)) for n in evidence)

  def _asked(self, question: qa_sets.Row) -> tuple[np.ndarray, int]:
    """Tokens of the question and its answer, and where the answer starts."""
    ask = f"Question: {question['question']}\nAnswer:"
    before = self.tokenizer.encode(ask)
    said, start, _ = self._after_space(f"{question['answers'][0]}\n")
    return np.concatenate([before, said]), len(before) + start

  def _encode(self, number: int) -> np.ndarray:
    row = self._paragraphs[number]
    return self.tokenizer.encode(f"{row['title']}\n{row['text']}\n\n")

  def _others(
    self, rng: np.random.Generator, split: str, question: qa_sets.Row
  ) -> Iterator[np.ndarray]:
    """Paragraphs that are no evidence, without end."""
    pool = set(self._parts[split].pool) - set(question["evidence"])
    order = rng.permutation(sorted(pool))
    own = np.isin(order, question["paragraphs"])
    order = np.concatenate([order[own], order[~own]])
    while True:
      yield from map(self._paragraph, order.tolist())
      order = rng.permutation(order)

  def _fill(self, others: Iterator[np.ndarray], room: int) -> list[np.ndarray]:
    """Paragraphs of `room` tokens in all, the first one cut."""
    pieces: list[np.ndarray] = []
    while room > 0:
      pieces.append(next(others)[-room:])
      room -= len(pieces[-1])
    return pieces[::-1]


def _kind(question: qa_sets.Row) -> str:
  """Word that a question asks with, in lower case; "" if none."""
  asks = _ASKS.search(question["question"])
  return asks.group().lower() if asks else ""
