"""Question sets, on rows of the publishers' schema."""

import json

import pytest

from mattt_jax.data import qa_sets


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
