"""Questions among documents, read back from the text alone."""

import json
from collections import Counter

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.data import qa_sets, tokenizer
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks.documents_qa import Config, Task

TOWN, ASKED = qa_sets.load("town")
PARTS = qa_sets.split(ASKED, len(TOWN), "town")
FULL = [f"{row['title']}\n{row['text']}\n\n" for row in TOWN]


def whole(example):
  return np.append(example["tokens"], example["targets"][-1])


def read(text):
  """(what is cut, whole paragraphs [(number, where)], where the question is),
  from the end to the beginning."""
  at = text.rindex("Question: ")
  rest, found = text[:at], []
  while True:
    last = [n for n, full in enumerate(FULL) if rest.endswith(full)]
    if not last:
      return rest, found, at
    rest = rest.removesuffix(FULL[last[0]])
    found.append((last[0], len(rest)))


def items(task, split, length, most=50):
  for index in range(min(task.size(split, length) or most, most)):
    example = task.example(split, index, length)
    yield index, example, bytes(whole(example).tolist()).decode()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("length", [512, 1001, 5000])
def test_a_reader_finds_the_evidence_and_the_answer(split, length):
  task = Task(Config(), 5)
  for index, example, text in items(task, split, length):
    cut, found, at = read(text)
    row = task.question(split, index, length)
    assert row in PARTS[split].questions
    assert text[at:] == (
      f"Question: {row['question']}\nAnswer: {row['answers'][0]}\n"
    )
    counts = Counter(number for number, _ in found)
    assert {counts[n] for n in row["evidence"]} == {1}
    starts = [start for n, start in found if n in row["evidence"]]
    assert set(counts) <= set(PARTS[split].pool)
    cut_from = [FULL[n] for n in PARTS[split].pool if n not in row["evidence"]]
    assert any(paragraph.endswith(cut) for paragraph in cut_from)
    # Each other paragraph as often as the others, the cut one aside.
    others = {n: counts[n] for n in PARTS[split].pool
              if n not in row["evidence"]}  # fmt: skip
    assert max(others.values()) - min(others.values()) <= 1

    answer_at = length + 1 - len(row["answers"][0]) - 1
    expected = np.where(np.arange(length + 1) >= answer_at, 0, -1)
    np.testing.assert_array_equal(example["answer"], expected[1:])
    distance = np.where(expected == 0, answer_at - min(starts), -1)
    np.testing.assert_array_equal(example["distance"], distance[1:])
    relevant = np.zeros(length + 1, bool)
    for n, start in found:
      if n in row["evidence"]:
        relevant[start : start + len(FULL[n])] = True
    np.testing.assert_array_equal(example["relevant"], relevant[1:])


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_no_evidence_in_the_gap(share):
  config, length = Config(gap_share=share), 1000
  task = Task(config, 5)
  for index in range(40):
    example = task.example("train", index, length)
    seq = whole(example)
    question = bytes(seq.tolist()).decode().rindex("Question: ")
    last = np.flatnonzero(example["relevant"])[-1] + 1
    assert last < question - round(share * length)
    evidence = np.flatnonzero(example["relevant"])
    answer_at = np.flatnonzero(example["answer"] == 0)[0]
    assert answer_at - evidence[-1] >= config.min_distance(length)
    text = bytes(seq.tolist()).decode()
    row = task.question("train", index, length)
    for n in row["evidence"]:
      assert text.count(FULL[n]) == 1


def test_evidence_is_anywhere():
  task = Task(Config(), 5)
  depth = [
    np.flatnonzero(task.example("train", i, 2000)["relevant"])[0]
    for i in range(400)
  ]
  # Of uniform places, in 1900 tokens: a standard error of 27 of the mean.
  assert np.mean(depth) == pytest.approx(950, abs=140)
  assert min(depth) < 200 and max(depth) > 1700


def test_questions_that_do_not_fit_are_left_out():
  task = Task(Config(), 5)
  need = {}
  for row in PARTS["train"].questions:
    tail = f"Question: {row['question']}\nAnswer: {row['answers'][0]}\n"
    need[row["id"]] = len(tail) + sum(len(FULL[n]) for n in row["evidence"])
  for length in (140, 150, 160, 170):
    fits = {key for key, size in need.items() if size <= length + 1}
    rows = [PARTS["train"].questions[i] for i in task.fitting("train", length)]
    assert {row["id"] for row in rows} == fits
    asked = {task.question("train", i, length)["id"] for i in range(300)}
    assert asked == fits
  assert 0 < len(task.fitting("train", 140)) < len(task.fitting("train", 160))
  shortest = min(need.values())
  example = task.example("train", 0, shortest - 1)  # nothing but the evidence
  text = bytes(whole(example).tolist()).decode()
  (row,) = (r for r in ASKED if need.get(r["id"]) == shortest and
            text.startswith(FULL[r["evidence"][0]] + "Question: " +
                            r["question"]))  # fmt: skip
  assert example["relevant"].sum() == len(FULL[row["evidence"][0]]) - 1
  with pytest.raises(
    ValueError, match=f"length={shortest - 2} is too short .* at least "
    f"{shortest - 1}"
  ):  # fmt: skip
    task.fitting("train", shortest - 2)


def test_each_held_out_question_is_asked_once():
  task = Task(Config(), 0)
  for split in ("tune", "test"):
    number = task.size(split, 1024)
    asked = [task.question(split, i, 1024)["id"] for i in range(number)]
    assert sorted(asked) == sorted(q["id"] for q in PARTS[split].questions)
    with pytest.raises(ValueError, match=f"index={number} is no question of"):
      task.example(split, number, 1024)


def test_what_the_set_gives_with_a_question_comes_first(tmp_path):
  """Hard distractors, as HotpotQA has them, unless another split has them."""
  write(tmp_path, 60, 30)
  source = f"directory:{tmp_path}"
  paragraphs, questions = qa_sets.load(source)
  pool = set(qa_sets.split(questions, 60, source)["train"].pool)
  task = Task(Config(source=source), 0)
  for index in range(20):
    row = task.question("train", index, 200)
    example = task.example("train", index, 200)
    text = bytes(whole(example).tolist()).decode(errors="replace")
    for n in set(row["paragraphs"]) & pool:
      assert paragraphs[n]["text"] in text
    for n in set(range(60)) - pool:
      assert paragraphs[n]["text"] not in text


def write(folder, paragraphs, questions):
  """A set in which questions share evidence and other paragraphs."""
  rng = np.random.default_rng(0)
  rows = [{"title": f"T{n}", "text": f"<{n}> is é {n * n}."}
          for n in range(paragraphs)]  # fmt: skip
  asked = []
  for k in range(questions):
    given = rng.choice(paragraphs, 5, replace=False).tolist()
    asked.append(
      {
        "id": f"id{k}",
        "question": f"{k}?",
        "answers": [f"é{k}", "b"],
        "paragraphs": given,
        "evidence": given[: 1 + k % 2],
      }
    )
  for name, lines in (("paragraphs", rows), ("questions", asked)):
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n"
                   for line in lines)  # fmt: skip
    (folder / f"{name}.jsonl").write_text(text)
  return rows, asked


def test_tokens_of_a_tokenizer(tmp_path):
  path = tmp_path / "tokenizer.json"
  path.write_bytes(tokenizer.train(FULL * 3, 400).content)
  task = Task(Config(tokenizer=str(path)), 0)
  assert task.vocab_size == 400
  for index in range(8):
    example = task.example("train", index, 300)
    row = task.question("train", index, 300)
    said = task.tokenizer.decode(example["targets"][example["answer"] == 0])
    assert said == f" {row['answers'][0]}\n"  # the space is of the first token
    there = task.tokenizer.decode(example["targets"][example["relevant"]])
    assert {FULL[n] in there for n in row["evidence"]} == {True}
    text = task.tokenizer.decode(whole(example))
    assert text.endswith(f"Question: {row['question']}\nAnswer:{said}")


def test_weights():
  config = Config(answer_weight=2.0, context_weight=0.25)
  example = Task(config, 0).example("test", 0, 512)
  weight = np.where(example["answer"] == 0, 2.0, 0.25)
  np.testing.assert_array_equal(example["outer_weight"], weight)
  assert (example["inner_weight"] == 1).all()


def test_seed_and_index_choose():
  first = Task(Config(), 1).example("train", 5, 512)
  task = Task(Config(), 1)
  task.example("test", 0, 2048)  # what was asked before does not matter
  for key, array in task.example("train", 5, 512).items():
    np.testing.assert_array_equal(array, first[key])
  texts = {Task(Config(), s).example("train", i, 512)["tokens"].tobytes()
           for s in range(3) for i in range(9)}  # fmt: skip
  assert len(texts) == 27


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(source="stdlib"), "'stdlib' is not known: use 'town' or 'directory:"),
    (dict(source="directory:/no/such"), "paragraphs.jsonl cannot be read .No su"
     ".*write it with `mattt prepare squad /no/such`"),
    (dict(gap_share=1.0), r"task.gap_share=1.0 must lie in \[0, 1\)"),
    (dict(answer_weight=-1.0), "task.answer_weight=-1.0 must be at least 0"),
    (dict(answer_weight=0.0, context_weight=0.0), "leave nothing to learn"),
    (dict(gap_share=0.7), "length=256 is too short for the questions .*"
     "task.gap_share=0.7: use a length of at least"),
    (dict(out_of_reach=True), "within 1 tokens .* reaches 125"),
    (dict(tokenizer="/no/such"), "task.tokenizer='/no/such' cannot be read"),
  ],
)  # fmt: skip
def test_settings_that_do_not_fit(changes, message):
  tree = config_lib.template("documents_qa")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


def test_too_few_paragraphs(tmp_path):
  write(tmp_path, 3, 0)
  asked = []
  for k in range(3):
    asked.append({"id": f"{k}", "question": "?", "answers": ["a"],
                  "paragraphs": [k], "evidence": [k]})  # fmt: skip
  text = "".join(json.dumps(row) + "\n" for row in asked)
  (tmp_path / "questions.jsonl").write_text(text)
  with pytest.raises(ValueError, match="the 1 paragraphs of .* the 1 that"):
    Task(Config(source=f"directory:{tmp_path}"), 0)
