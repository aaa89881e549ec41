"""LongBench's rules for a written answer (arXiv 2308.14508), as its code is.

    f1               of words, as in `text_match.f1`
    rouge            ROUGE-L of summaries, as the package `rouge` 1.0.1 has it
    classification   1 / the number of classes that the answer names, the right
                     one among them
    number           share of the numbers in the answer that are the right one
    code_similarity  how alike the first line of code and the right one are

The best of several references counts; only the first line of an answer, where
examples in the prompt would make a model go on with more of them. A score is of
one answer, in [0, 1]; that of a task is the mean.
"""

import difflib
import functools
import re
from collections.abc import Callable, Sequence

from mattt_jax.config import require
from mattt_jax.evaluation import text_match

_NUMBER = re.compile(r"\d+")
_NO_CODE = ("`", "#", "//")


def score(
  name: str, answer: str, references: Sequence[str], classes: Sequence[str] = ()
) -> float:
  """The score of an answer to a question of LongBench's task `name`.

  Args:
    name: as in the field `dataset` of its rows, without "_e".
    answer: as the model wrote it.
    references: the right ones (`answers`).
    classes: every answer of a classification (`all_classes`).

  Raises:
    ValueError: as `check`; no references.
  """
  check(name)
  if name in _FIRST_LINE:
    answer = answer.lstrip("\n").partition("\n")[0]
  named = functools.partial(classification, classes=classes)
  rule = _RULES.get(name, named)
  return text_match.best(lambda right: rule(answer, right), references)


def check(name: str) -> None:
  """Raises `ValueError` if task `name` has no rule here."""
  require(
    name not in _SEGMENTED,
    f"LongBench scores {name} by Chinese words, which its code finds with the "
    "package jieba, not in use here: leave the file of this task out, or use "
    "--answers=forced",
  )
  require(
    name in _RULES or name in _CLASSIFICATION,
    f"LongBench has no task {name!r}: its tasks that can be scored are "
    f"{', '.join(sorted((*_RULES, *_CLASSIFICATION)))}",
  )


def f1(answer: str, reference: str) -> float:
  """SQuAD's F1, but nothing is alike where there are no words."""
  words = text_match.normalize(reference)
  return text_match.f1(answer, [reference]) if words else 0.0


def rouge(answer: str, reference: str) -> float:
  """ROUGE-L of summaries: the F1 of the different words that a sentence of the
  answer and one of the reference have in common, in order.

  Sentences end at full stops, words at spaces; case and all other signs count.
  (In a sentence of many hundreds of words `rouge` runs out of stack, and
  LongBench counts 0; here it is scored like any other.)
  """
  said, wanted = _sentences(answer), _sentences(reference)
  if not said or not wanted:
    return 0.0
  common = {word for a in wanted for b in said for word in _common(a, b)}
  precision = len(common) / len(set().union(*said))
  recall = len(common) / len(set().union(*wanted))
  return 2 * precision * recall / (precision + recall + 1e-8)


def classification(
  answer: str, reference: str, classes: Sequence[str]
) -> float:
  """1 / the number of `classes` in the answer if `reference` is one, else 0.

  A class whose name is a part of the right one's does not count. The published
  loop takes it out of the list that it goes through, and so passes over the
  next class: that one counts even if it is such a part too.
  """
  named = [label for label in classes if label in answer]
  at = 0
  while at < len(named):
    if named[at] in reference and named[at] != reference:
      named.remove(named[at])
    at += 1
  return 1 / len(named) if reference in named else 0.0


def number(answer: str, reference: str) -> float:
  """The share of the numbers in the answer that are `reference`, as written."""
  numbers = _NUMBER.findall(answer)
  return numbers.count(reference) / len(numbers) if numbers else 0.0


def paragraph(answer: str, reference: str, word: str) -> float:
  """`number` of the number after `word` in the reference.

  Raises:
    ValueError: there is none.
  """
  right = re.search(rf"{word}(\d+)", reference)
  if right is None:
    raise ValueError(
      f"the right answer {reference!r} must have {word!r} and a number after it"
    )
  return number(answer, right[1])


def code_similarity(answer: str, reference: str) -> float:
  """How alike the answer's first line of code is: a whole number of hundredths.

  The first line without ` or # or //, empty or not, counts; without such a line
  the answer is empty. LongBench calls `fuzzywuzzy.fuzz.ratio` without
  python-Levenshtein (by which more may match): this is the ratio of difflib.
  """
  lines = answer.lstrip("\n").split("\n")
  line = next((x for x in lines if not any(s in x for s in _NO_CODE)), "")
  if not line or not reference:
    return float(line == reference)
  alike = difflib.SequenceMatcher(None, line, reference).ratio()
  return round(100 * alike) / 100


def _sentences(text: str) -> list[list[str]]:
  # A sentence of spaces has one word, the empty one, as "".split(" ") has it.
  return [part.split() or [""] for part in text.split(".") if part]


def _common(wanted: list[str], said: list[str]) -> set[str]:
  """The words of a longest common subsequence; of several, the one that `rouge`
  finds: from the end, a word of `said` is passed over before one of `wanted`.
  """
  size = text_match.common_sizes(wanted, said)
  words, i, j = set(), len(wanted), len(said)
  while i and j:
    if wanted[i - 1] == said[j - 1]:
      words.add(wanted[i - 1])
      i, j = i - 1, j - 1
    elif size[i - 1][j] > size[i][j - 1]:
      i -= 1
    else:
      j -= 1
  return words


_RULES: dict[str, Callable[[str, str], float]] = {
  **dict.fromkeys(
    ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa",
     "musique", "triviaqa"), f1,
  ),
  **dict.fromkeys(("gov_report", "qmsum", "multi_news", "samsum"), rouge),
  **dict.fromkeys(("lcc", "repobench-p"), code_similarity),
  "passage_count": number,
  "passage_retrieval_en": functools.partial(paragraph, word="Paragraph "),
  "passage_retrieval_zh": functools.partial(paragraph, word="段落"),
}  # fmt: skip
_CLASSIFICATION = ("trec", "lsht")
_FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
_SEGMENTED = ("multifieldqa_zh", "dureader", "vcsum")
