"""Question sets in their publishers' JSON, as two lists of rows.

paragraphs: {title, text}; a paragraph's number is its place in the list.
questions: {id, question, answers, paragraphs, evidence}; `paragraphs` are the
numbers of those that the set gives with the question, `evidence` of those that
it is answered from.
"""

import json
from typing import Any

from mattt_jax.config import require

Row = dict[str, Any]


class _Paragraphs:
  """Numbers each different paragraph once, in the order of their coming."""

  def __init__(self):
    self._numbers: dict[tuple[str, str], int] = {}

  def number(self, title: str, text: str) -> int:
    return self._numbers.setdefault((title, text), len(self._numbers))

  def rows(self) -> list[Row]:
    return [{"title": title, "text": text} for title, text in self._numbers]


def read_squad(content: bytes) -> tuple[list[Row], list[Row]]:
  """Paragraphs and answerable questions of SQuAD 2.0 (arXiv 1806.03822).

  Raises:
    ValueError: not JSON of its schema.
  """
  paragraphs, questions = _Paragraphs(), []
  try:
    for article in json.loads(content)["data"]:
      for paragraph in article["paragraphs"]:
        number = paragraphs.number(article["title"], paragraph["context"])
        for qa in paragraph["qas"]:
          if qa["is_impossible"]:
            continue
          answers = [answer["text"] for answer in qa["answers"]]
          questions.append(
            {
              "id": qa["id"],
              "question": qa["question"],
              "answers": list(dict.fromkeys(answers)),
              "paragraphs": [number],
              "evidence": [number],
            }
          )
    return _checked(paragraphs, questions)
  except (ValueError, LookupError, TypeError) as error:
    raise _wrong("SQuAD 2.0", error) from error


def read_hotpotqa(content: bytes) -> tuple[list[Row], list[Row]]:
  """Paragraphs and questions of HotpotQA, distractor setting (1809.09600).

  Raises:
    ValueError: not JSON of its schema.
  """
  paragraphs, questions = _Paragraphs(), []
  try:
    for row in json.loads(content):
      supporting = {title for title, _ in row["supporting_facts"]}
      numbers = {
        title: paragraphs.number(title, "".join(sentences))
        for title, sentences in row["context"]
      }
      questions.append(
        {
          "id": row["_id"],
          "question": row["question"],
          "answers": [row["answer"]],
          "paragraphs": list(numbers.values()),
          "evidence": [n for t, n in numbers.items() if t in supporting],
        }
      )
    return _checked(paragraphs, questions)
  except (ValueError, LookupError, TypeError) as error:
    raise _wrong("HotpotQA", error) from error


def _checked(
  paragraphs: _Paragraphs, questions: list[Row]
) -> tuple[list[Row], list[Row]]:
  require(bool(questions), "it has no questions")
  return paragraphs.rows(), questions


def _wrong(name: str, error: Exception) -> ValueError:
  return ValueError(
    f"this is not {name}'s JSON: {type(error).__name__}: {error}"
  )
