"""How well a written answer matches its references: the published rules.

    exact_match, f1    SQuAD (arXiv 1606.05250), also HotpotQA
    string_match       RULER (arXiv 2404.06654)
    only_label         bAbI tasks as BABILong scores them (arXiv 2406.10149)
    rouge_l            ROUGE-L (Lin 2004), of NarrativeQA and of summaries

Each is of one answer, in [0, 1]; the score of a set is the mean. Without
references they raise `ValueError`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from mattt_jax.config import require

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
  """SQuAD's: lower case, no ASCII punctuation, no articles, single spaces."""
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
  """1 if the answer equals one of the references, normalised, else 0."""
  return best(
    lambda reference: normalize(answer) == normalize(reference), references
  )


def f1(answer: str, references: Sequence[str]) -> float:
  """The F1 of the words of the answer and a reference, normalised; the best.

  An answer or reference without words matches only another one without.
  """
  words = normalize(answer).split()

  def score(reference: str) -> float:
    wanted = normalize(reference).split()
    if not words or not wanted:
      return words == wanted
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))

  return best(score, references)


def string_match(
  answer: str, references: Sequence[str], *, any_of: bool = False
) -> float:
  """The share of references that the answer contains, in any case; with
  `any_of` one of them is enough, as RULER has it for questions."""
  _require(references)
  found = [reference.lower() in answer.lower() for reference in references]
  return float(any(found)) if any_of else sum(found) / len(found)


def only_label(
  answer: str, target: str, question: str, labels: Sequence[str]
) -> float:
  """1 if the answer names the target and no other of a task's labels, else 0.

  What follows the first full stop does not count, nor do labels in the
  question.

  Args:
    answer: as the model wrote it.
    target: one of the labels, or several with commas between.
    question: as it was asked.
    labels: every possible answer of the task.
  """
  said = answer.lower().partition(".")[0]
  named = {
    label.lower()
    for label in labels
    if label.lower() in said and label.lower() not in question.lower()
  }
  return float(named == {part.strip() for part in target.lower().split(",")})


def rouge_l(answer: str, references: Sequence[str]) -> float:
  """The F1 of the longest common subsequence of the words of the answer and a
  reference; the best. Words are letters and digits, in lower case, unstemmed.
  """
  words = _WORD.findall(answer.lower())

  def score(reference: str) -> float:
    wanted = _WORD.findall(reference.lower())
    longest = common_sizes(words, wanted)[-1][-1]
    return 2 * longest / max(1, len(words) + len(wanted))

  return best(score, references)


def common_sizes(a: list[str], b: list[str]) -> list[list[int]]:
  """Lengths of the longest common subsequences of the first i of `a` and the
  first j of `b`."""
  sizes = [[0] * (len(b) + 1)]
  for word in a:
    before, row = sizes[-1], [0]
    for j, other in enumerate(b):
      row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    sizes.append(row)
  return sizes


def best(score: Callable[[str], float], references: Sequence[str]) -> float:
  """The highest score that any of the references gives."""
  _require(references)
  return float(max(map(score, references)))


def _require(references: Sequence[str]) -> None:
  require(
    not isinstance(references, str) and len(references) > 0,
    f"references={references!r} must be a list of at least one answer",
  )
