"""Question sets, from their publishers' JSON, as two lists of rows.

paragraphs: {title, text}; a paragraph's number is its place in the list.
questions: {id, question, answers, paragraphs, evidence}; the numbers of the
paragraphs that come with the question, and of those that hold the answer.

`mattt prepare` writes them as FILES. A set is named by a string: "town"
(data/town.py), or "directory:PATH" with these files.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mattt_jax.config import require
from mattt_jax.data import sources, town
from mattt_jax.data.splits import SPLITS

Row = dict[str, Any]
FILES = ("paragraphs.jsonl", "questions.jsonl")
_HELD_OUT_SHARE = 0.2  # of the groups of questions, for each of tune and test


@dataclasses.dataclass(frozen=True)
class Part:
  """The questions of a split, and the numbers of its paragraphs."""

  questions: tuple[Row, ...]
  pool: tuple[int, ...]


def load(source: str) -> tuple[list[Row], list[Row]]:
  """Paragraphs and questions of a set.

  Raises:
    ValueError: an unknown source, no such files, or rows of another schema.
  """
  if source == "town":
    return town.rows()
  kind, _, name = source.partition(":")
  require(
    kind == "directory" and bool(name),
    f"task.source={source!r} is not known: use 'town' or 'directory:PATH'",
  )
  lists: list[list[Row]] = []
  for file in FILES:
    path = Path(name).expanduser() / file
    try:
      with path.open(encoding="utf-8") as lines:
        lists.append([json.loads(line) for line in lines])
    except OSError as error:
      raise ValueError(
        f"task.source={source!r}: {path} cannot be read ({error.strerror}): "
        f"write it with `mattt prepare squad {name}` (or hotpotqa)"
      ) from error
    except ValueError as error:
      raise ValueError(
        f"task.source={source!r}: {path} is not JSON lines ({error}): prepare "
        "it again in another directory"
      ) from error
  for file, rows in zip(FILES, lists, strict=True):
    require(bool(rows), f"task.source={source!r}: {file} has no rows")
    for number, row in enumerate(rows, 1):
      problem = _problem(row, file, len(lists[0]))
      require(
        not problem,
        f"task.source={source!r}: {file}, line {number}: {problem}: see "
        "data/qa_sets.py for the rows",
      )
  return lists[0], lists[1]


def _problem(row: Any, file: str, paragraphs: int) -> str:
  """The mistake in a row of a file; "" if there is none."""

  def is_list(field: str, good: Callable[[Any], bool]) -> bool:
    values = row.get(field)
    return isinstance(values, list) and bool(values) and all(map(good, values))

  if file == FILES[0]:
    good = isinstance(row, dict) and all(
      isinstance(row.get(field), str) for field in ("title", "text")
    )
    return "" if good else "needs the texts `title` and `text`"
  if not isinstance(row, dict):
    return "is no object"
  for field in ("id", "question"):
    if not (isinstance(row.get(field), str) and row[field]):
      return f"needs a text `{field}`"
  if not is_list("answers", lambda x: isinstance(x, str) and bool(x)):
    return "needs `answers`, a list of texts"
  for field in ("paragraphs", "evidence"):
    if not is_list(field, lambda n: type(n) is int and 0 <= n < paragraphs):
      return f"needs `{field}`, numbers of the {paragraphs} paragraphs"
  return ""


def split(
  questions: list[Row], paragraphs: int, source: str
) -> dict[str, Part]:
  """Deals questions and paragraphs to the splits; none is in two.

  Questions that share a paragraph of evidence, themselves or through others,
  are one group; a hash of its first id (sorted) decides its split, about a
  fifth for each of tune and test. Paragraphs of evidence follow their
  questions. The others go with the test questions that they were published
  with, then with those of tune; the rest is in train. So training reads nothing
  that a held-out question needs. `paragraphs` is how many there are.

  Raises:
    ValueError: an id comes twice, or fewer than three groups.
  """
  ids = [question["id"] for question in questions]
  require(
    len(set(ids)) == len(ids),
    f"task.source={source!r}: {len(ids) - len(set(ids))} questions have the id "
    "of another one: prepare it again in another directory",
  )
  group = list(range(paragraphs))  # a forest: the root names the group

  def root(number: int) -> int:
    while group[number] != number:
      group[number] = group[group[number]]
      number = group[number]
    return number

  for question in questions:
    for number in question["evidence"]:
      group[root(number)] = root(question["evidence"][0])
  first: dict[int, str] = {}
  for question in questions:
    key = root(question["evidence"][0])
    first[key] = min(question["id"], first.get(key, question["id"]))
  dealt = sources.split_by_name(list(first.values()), source, _HELD_OUT_SHARE)
  part_of = {name: part for part, names in dealt.items() for name in names}
  parts: dict[str, list[Row]] = {part: [] for part in SPLITS}
  for question in questions:
    name = first[root(question["evidence"][0])]
    parts[part_of[name]].append(question)
  owner: dict[int, str] = {}
  for field in ("paragraphs", "evidence"):
    for part in SPLITS:  # the last one to name a paragraph has it
      owner |= {n: part for question in parts[part] for n in question[field]}
  return {
    part: Part(
      tuple(sorted(parts[part], key=lambda q: sources.uniform(q["id"]))),
      tuple(n for n in range(paragraphs) if owner.get(n, "train") == part),
    )
    for part in SPLITS
  }


class _Paragraphs(dict[tuple[str, str], int]):
  """Numbers each different (title, text) once, in order of appearance."""

  def __missing__(self, key: tuple[str, str]) -> int:
    return self.setdefault(key, len(self))


def read_squad(content: bytes) -> tuple[list[Row], list[Row]]:
  """Paragraphs and answerable questions of SQuAD 2.0 (arXiv 1806.03822).

  Raises:
    ValueError: not JSON of its schema.
  """
  return _read("SQuAD 2.0", _squad, content)


def read_hotpotqa(content: bytes) -> tuple[list[Row], list[Row]]:
  """Paragraphs and questions of HotpotQA, distractor setting (1809.09600).

  Raises:
    ValueError: not JSON of its schema.
  """
  return _read("HotpotQA", _hotpotqa, content)


def _read(name: str, read: Callable, content: bytes):
  paragraphs = _Paragraphs()
  try:
    questions: list[Row] = list(read(json.loads(content), paragraphs))
    require(bool(questions), "it has no questions")
  except (ValueError, LookupError, TypeError) as error:
    raise ValueError(
      f"this is not {name}'s JSON: {type(error).__name__}: {error}"
    ) from error
  return [{"title": t, "text": text} for t, text in paragraphs], questions


def _squad(content: Any, paragraphs: _Paragraphs) -> Iterator[Row]:
  for article in content["data"]:
    for paragraph in article["paragraphs"]:
      number = paragraphs[article["title"], paragraph["context"]]
      for qa in paragraph["qas"]:
        if not qa["is_impossible"]:
          answers = [answer["text"] for answer in qa["answers"]]
          yield {
            "id": qa["id"],
            "question": qa["question"],
            "answers": list(dict.fromkeys(answers)),
            "paragraphs": [number],
            "evidence": [number],
          }


def _hotpotqa(content: Any, paragraphs: _Paragraphs) -> Iterator[Row]:
  for row in content:
    supporting = {title for title, _ in row["supporting_facts"]}
    numbers = {
      title: paragraphs[title, "".join(sentences)]
      for title, sentences in row["context"]
    }
    yield {
      "id": row["_id"],
      "question": row["question"],
      "answers": [row["answer"]],
      "paragraphs": list(numbers.values()),
      "evidence": [n for t, n in numbers.items() if t in supporting],
    }
