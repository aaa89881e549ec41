"""Question sets, on rows of the publishers' schema."""

import json
import random

import numpy as np
import pytest
from bm25 import BM25

from mattt_jax.data import qa_sets
from mattt_jax.data.splits import SPLITS


def squad_question(name, impossible=False, answers=("France", "France")):
  return {
    "question": f"{name}?",
    "id": name,
    "answers": [{"text": a, "answer_start": 0} for a in answers],
    "is_impossible": impossible,
  }


SQUAD = {
  "version": "v2.0",
  "data": [
    {
      "title": "Normans",
      "paragraphs": [
        {
          "context": "In France.",
          "qas": [
            squad_question("a", answers=("France", "in France", "France")),
            squad_question("b", impossible=True, answers=()),
          ],
        },
        {"context": "Naïve.", "qas": [squad_question("c")]},
      ],
    },
    {
      "title": "Physics",
      "paragraphs": [{"context": "In France.", "qas": [squad_question("d")]}],
    },
  ],
}
HOTPOT = [
  {
    "_id": "1",
    "question": "Same?",
    "answer": "yes",
    "supporting_facts": [["Ed", 0], ["Scott", 0], ["Ed", 1]],
    "context": [
      ["Town", ["A town.", " Small."]],
      ["Scott", ["A man."]],
      ["Ed", ["A man.", " Too."]],
    ],
  },
  {
    "_id": "2",
    "question": "Where?",
    "answer": "Town",
    "supporting_facts": [["Town", 0]],
    "context": [["Ed", ["A man.", " Too."]], ["Town", ["A town.", " Small."]]],
  },
]


def test_squad():
  paragraphs, questions = qa_sets.read_squad(json.dumps(SQUAD).encode())
  assert paragraphs == [
    {"title": "Normans", "text": "In France."},
    {"title": "Normans", "text": "Naïve."},
    {"title": "Physics", "text": "In France."},
  ]
  assert [q["id"] for q in questions] == ["a", "c", "d"]  # b has no answer
  assert questions[0] == {
    "id": "a",
    "question": "a?",
    "answers": ["France", "in France"],
    "paragraphs": [0],
    "evidence": [0],
  }
  assert [q["evidence"] for q in questions] == [[0], [1], [2]]


def test_hotpotqa():
  paragraphs, questions = qa_sets.read_hotpotqa(json.dumps(HOTPOT).encode())
  assert paragraphs == [
    {"title": "Town", "text": "A town. Small."},
    {"title": "Scott", "text": "A man."},
    {"title": "Ed", "text": "A man. Too."},
  ]
  assert questions == [
    {"id": "1", "question": "Same?", "answers": ["yes"],
     "paragraphs": [0, 1, 2], "evidence": [1, 2]},
    {"id": "2", "question": "Where?", "answers": ["Town"],
     "paragraphs": [2, 0], "evidence": [0]},
  ]  # fmt: skip


@pytest.mark.parametrize(
  "content",
  [b"", b"[1]", b"{}", b"[{}]", b'{"data": [{"title": "a"}]}', b"\xff"],
)
def test_another_schema_is_refused(content):
  for read, name in (
    (qa_sets.read_squad, "SQuAD"),
    (qa_sets.read_hotpotqa, "HotpotQA"),
  ):
    with pytest.raises(ValueError, match=f"this is not {name}.*JSON"):
      read(content)


def rows(paragraphs, questions):
  """Questions of one or two paragraphs each, published with five."""
  rng = np.random.default_rng(0)
  asked = []
  for k in range(questions):
    given = rng.choice(paragraphs, 5, replace=False).tolist()
    asked.append(
      {"id": f"id{k}", "question": "?", "answers": ["a"],
       "paragraphs": given, "evidence": given[: 1 + k % 2]}
    )  # fmt: skip
  return asked


def test_no_paragraph_is_in_two_splits():
  asked = rows(900, 400)
  parts = qa_sets.split(asked, 900, "set")
  pools = [parts[split].pool for split in SPLITS]
  assert sorted(n for pool in pools for n in pool) == [*range(900)]
  found = [q["id"] for split in SPLITS for q in parts[split].questions]
  assert sorted(found) == sorted(q["id"] for q in asked)
  for split in SPLITS:
    pool = set(parts[split].pool)
    for question in parts[split].questions:
      assert pool.issuperset(question["evidence"])
  evidence = {n for q in asked for n in q["evidence"]}
  for split, above in (("train", ("tune", "test")), ("tune", ("test",))):
    others = set(parts[split].pool) - evidence
    for held_out in above:
      for question in parts[held_out].questions:
        assert others.isdisjoint(question["paragraphs"])
  shares = [len(parts[split].questions) / 400 for split in SPLITS]
  # Of some 200 groups of different sizes: about 0.04 of standard error.
  np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.13)


def test_the_order_of_questions_does_not_matter():
  asked = rows(900, 100)
  parts = qa_sets.split(asked, 900, "set")
  mixed = random.Random(1).sample(asked, 100)
  assert qa_sets.split(mixed, 900, "set") == parts
  first = [q["id"] for q in parts["train"].questions]
  assert sorted(first) != first  # nor does what was published side by side


def test_too_few_groups():
  asked = rows(9, 2)
  with pytest.raises(ValueError, match="'set' has 2 document"):
    qa_sets.split([asked[0], asked[1] | {"evidence": [7]}], 9, "set")
  with pytest.raises(ValueError, match="1 questions have the id of another"):
    qa_sets.split([*asked, asked[0]], 9, "set")


def test_the_town():
  paragraphs, asked = qa_sets.load("town")
  parts = qa_sets.split(asked, len(paragraphs), "town")
  assert min(len(parts[split].pool) for split in SPLITS) >= 4
  index = BM25([f"{p['title']} {p['text']}" for p in paragraphs])
  found = 0
  for question in asked:
    evidence = question["evidence"]
    texts = [paragraphs[n]["text"] for n in evidence]
    assert any(question["answers"][0] in text for text in texts)
    best = index.best(question["question"], 3).tolist()
    found += set(evidence) <= set(best)
  assert found == len(asked)
  assert {len(q["evidence"]) for q in asked} == {1, 2}


def prepared(folder, paragraphs, asked):
  for name, lines in (("paragraphs", paragraphs), ("questions", asked)):
    text = "".join(
      json.dumps(line, ensure_ascii=False) + "\n" for line in lines
    )
    (folder / f"{name}.jsonl").write_text(text)
  return f"directory:{folder}"


GOOD = {"id": "a", "question": "b?", "answers": ["c"], "paragraphs": [0],
        "evidence": [0]}  # fmt: skip


def test_what_prepare_writes_is_read(tmp_path):
  published = qa_sets.read_hotpotqa(json.dumps(HOTPOT).encode())
  published[0][0]["text"] += "\u2028\r\n"  # is no end of a row
  assert qa_sets.load(prepared(tmp_path, *published)) == published


@pytest.mark.parametrize(
  "paragraphs, asked, message",
  [
    ([{"title": "a", "text": "b"}], [], "questions.jsonl has no rows"),
    ([{"title": "a"}], [GOOD], "paragraphs.jsonl, line 1: needs the texts"),
    ([[]], [GOOD], "paragraphs.jsonl, line 1: needs the texts"),
    (None, [GOOD, 1], "questions.jsonl, line 2: is no object"),
    (None, [GOOD | {"id": 1}], "line 1: needs a text `id`"),
    (None, [GOOD | {"question": ""}], "needs a text `question`"),
    (None, [GOOD | {"answers": []}], "needs `answers`, a list of texts"),
    (None, [GOOD | {"answers": ["a", ""]}], "needs `answers`"),
    (None, [GOOD | {"evidence": [1]}], "`evidence`, numbers of the 1 para"),
    (None, [GOOD | {"evidence": []}], "needs `evidence`"),
    (None, [GOOD | {"paragraphs": [-1]}], "needs `paragraphs`"),
  ],
)
def test_rows_of_another_schema(tmp_path, paragraphs, asked, message):
  paragraphs = paragraphs or [{"title": "a", "text": "b"}]
  with pytest.raises(ValueError, match=message):
    qa_sets.load(prepared(tmp_path, paragraphs, asked))


def test_files_that_are_no_json_lines(tmp_path):
  source = prepared(tmp_path, [{"title": "a", "text": "b"}], [GOOD])
  (tmp_path / "questions.jsonl").write_bytes(b'{"id":\n')
  with pytest.raises(ValueError, match="questions.jsonl is not JSON lines"):
    qa_sets.load(source)
  (tmp_path / "questions.jsonl").write_bytes(b"\xff")
  with pytest.raises(ValueError, match="questions.jsonl is not JSON lines"):
    qa_sets.load(source)
  (tmp_path / "questions.jsonl").unlink()
  with pytest.raises(ValueError, match="write it with `mattt prepare squad"):
    qa_sets.load(source)
