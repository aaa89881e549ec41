"""How well a written answer matches its references: the published rules.

    exact_match, f1    SQuAD (arXiv 1606.05250), also HotpotQA
    string_match       RULER (arXiv 2404.06654)
    only_label         bAbI tasks as BABILong scores them (arXiv 2406.10149)
    rouge_l            ROUGE-L (Lin 2004), of NarrativeQA and of summaries

Each is of one answer, in [0, 1]; the score of a set is the mean.
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
  """1 if the answer equals one of the references, normalised, else 0.

  Raises:
    ValueError: no references.
  """
  return best(
    lambda reference: normalize(answer) == normalize(reference), references
  )


def f1(answer: str, references: Sequence[str]) -> float:
  """The F1 of the words of the answer and a reference, normalised; the best.

  An answer or reference without words matches only another one without.

  Raises:
    ValueError: no references.
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
  """The share of references that the answer contains, in any case.

  Args:
    answer: as the model wrote it.
    references: all of which were asked for.
    any_of: whether one of them is enough, as RULER has it for questions.

  Raises:
    ValueError: no references.
  """
  _require(references)
  found = [reference.lower() in answer.lower() for reference in references]
  return float(any(found)) if any_of else sum(found) / len(found)


def only_label(
  answer: str, target: str, question: str, labels: Sequence[str]
) -> float:
  """1 if of a task's labels the answer names the target and no other, else 0.

  What follows the first full stop does not count, nor do the labels that are
  in the question.

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

  Raises:
    ValueError: no references.
  """
  words = _WORD.findall(answer.lower())

  def score(reference: str) -> float:
    wanted = _WORD.findall(reference.lower())
    common = [0] * (len(wanted) + 1)  # of the words so far, and a beginning
    for word in words:
      before = 0
      for at, other in enumerate(wanted, 1):
        longest = max(common[at], common[at - 1])
        before, common[at] = (
          common[at],
          before + 1 if word == other else longest,
        )
    return 2 * common[-1] / max(1, len(words) + len(wanted))

  return best(score, references)


def best(score: Callable[[str], float], references: Sequence[str]) -> float:
  """The highest score that any of the references gives.

  Raises:
    ValueError: no references.
  """
  _require(references)
  return float(max(map(score, references)))


def _require(references: Sequence[str]) -> None:
  require(
    not isinstance(references, str) and len(references) > 0,
    f"references={references!r} must be a list of at least one answer",
  )
