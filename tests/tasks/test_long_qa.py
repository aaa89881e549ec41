"""Long-form questions: what is asked, cut and counted."""

import collections
import json
import re

import numpy as np
import pytest
from test_babi import Simulator

from mattt_jax import config as config_lib
from mattt_jax.data import public_sets, ruler_text, splits, tokenizer
from mattt_jax.evaluation import own_rules
from mattt_jax.tasks import long_qa
from mattt_jax.tasks.long_qa import Config, Task

SEED = 3


def text(tokens):
  return bytes(np.asarray(tokens, np.uint8)).decode()


def whole(example):
  """All tokens: those read, and the last target."""
  return np.append(example["tokens"], example["targets"][-1])


def used(example):
  """Tokens that are no padding."""
  return 1 + int((example["inner_weight"] > 0).sum())


def answers(example):
  """The answers' texts by their numbers, and where they start."""
  found = {}
  for number in range(example["answer"].max() + 1):
    places = np.flatnonzero(example["answer"] == number)
    assert (np.diff(places) == 1).all()
    found[text(example["targets"][places])] = int(places[0]) + 1
  return found


@pytest.fixture
def babilong(tmp_path):
  """A set with contexts of 1,000 bytes and more, as published."""
  rows = [
    {
      "input": f"Café {n}. " + "".join(f"Word{i} " for i in range(150 + n))
      + f"Mary went to the place{n}.",
      "question": "Where is Mary?",
      "target": f"place{n}",
    }
    for n in range(30)
  ]  # fmt: skip
  (tmp_path / "4k.json").write_text(json.dumps(rows))
  return f"babilong:{tmp_path}"


def test_context_question_answer():
  task = Task(Config(), SEED)
  for split in splits.SPLITS:
    for index in range(3):
      example = task.example(split, index, 1024)
      record = task.record(split, index, 1024)
      size = used(example)
      prompt = f"{record.context}\n\nQuestion: {record.question}\nAnswer:"
      assert text(whole(example)[:size]) == f"{prompt} {record.answers[0]}"
      assert answers(example) == {f" {record.answers[0]}": len(prompt)}
      assert not whole(example)[size:].any()
      for key in ("inner_weight", "outer_weight"):
        np.testing.assert_array_equal(
          example[key], np.arange(1, 1025) < size, key
        )


def test_weights():
  task = Task(Config(answer_weight=3.0, context_weight=0.5), SEED)
  example = task.example("test", 0, 1024)
  size = used(example)
  expected = np.where(example["answer"] >= 0, 3.0, 0.5)
  expected[size - 1 :] = 0
  np.testing.assert_array_equal(example["outer_weight"], expected)
  assert set(example["inner_weight"]) == {0, 1}


@pytest.mark.parametrize("length", [128, 301, 512, 1024, 4096])
def test_a_long_context_loses_its_middle(babilong, length):
  task = Task(Config(source=babilong), SEED)
  for index in range(task.size("test", length)):
    record = task.record("test", index, length)
    example = task.example("test", index, length)
    seq = whole(example)[: used(example)]
    rest = f"{record.ask} {record.answers[0]}".encode()
    context = record.context.encode()
    room = length + 1 - len(rest)
    if len(context) > room:
      tail = room // 2
      context = context[: room - tail] + context[len(context) - tail :]
      assert len(seq) == length + 1  # it is filled
    assert bytes(seq.astype(np.uint8)) == context + rest
    assert used(example) == min(length + 1, len(record.context.encode() + rest))


@pytest.mark.parametrize("length", [128, 512, 4096])
def test_the_distance_is_that_of_the_answer_in_the_context(babilong, length):
  task = Task(Config(source=babilong), SEED)
  for index in range(3):
    example = task.example("train", index, length)
    seq = whole(example)
    ((answer, at),) = answers(example).items()
    start = bytes(seq.astype(np.uint8)).index(answer.strip().encode())
    distance = example["distance"][example["answer"] >= 0]
    assert set(distance) == {at - start}
    relevant = example["targets"][example["relevant"]]
    assert text(relevant) == answer.strip()


def test_an_answer_that_stands_nowhere_is_as_far_as_the_beginning(tmp_path):
  rows = [
    {"input": "x" * 300, "question": "What?", "target": f"é{n}"}
    for n in range(3)
  ]
  (tmp_path / "4k.json").write_text(json.dumps(rows))
  example = Task(Config(source=f"babilong:{tmp_path}"), SEED).example(
    "test", 0, 256
  )
  places = np.flatnonzero(example["answer"] >= 0)
  assert set(example["distance"][places]) == {places[0] + 1}
  assert not example["relevant"].any()


def test_without_cutting(babilong):
  task = Task(Config(source=babilong, cut=False), SEED)
  task.example("test", 0, 4096)
  expected = r"a context of \d+ tokens, and there is room for \d+: use a length"
  with pytest.raises(ValueError, match=expected):
    task.example("test", 0, 512)


def test_a_length_that_cannot_hold_the_question(babilong):
  for source in (babilong, "stories"):
    task = Task(Config(source=source), SEED)
    with pytest.raises(ValueError, match=r"length=16 is too short for the \d+"):
      task.example("test", 0, 16)


def test_training_goes_through_all_records_in_another_order(babilong):
  task = Task(Config(source=babilong), SEED)
  size = len(public_sets.load(babilong)["train"])
  epochs = [
    [task.record("train", epoch * size + i, 64).id for i in range(size)]
    for epoch in range(3)
  ]
  assert task.size("train", 64) is None
  for ids in epochs:
    assert len(set(ids)) == size
  assert len({tuple(ids) for ids in epochs}) == 3
  other = Task(Config(source=babilong), SEED + 1)
  assert [other.record("train", i, 64).id for i in range(size)] != epochs[0]


def test_held_out_records_come_once(babilong):
  task = Task(Config(source=babilong), SEED)
  seen = collections.Counter()
  for split in ("tune", "test"):
    size = task.size(split, 64)
    seen.update(task.record(split, i, 64).id for i in range(size))
    with pytest.raises(ValueError, match=f"index={size} is no record of split"):
      task.example(split, size, 64)
  seen.update({task.record("train", i, 64).id: 1 for i in range(100)}.keys())
  assert max(seen.values()) == 1 and len(seen) == 30


@pytest.mark.parametrize("length", [192, 1024])
def test_choices(length):
  task = Task(Config(), SEED)
  for index in range(task.size("tune", length)):
    record = task.record("tune", index, length)
    example = task.example("tune", index, length)
    (asked,) = task.questions("tune", index, length, 8)
    ((answer, at),) = answers(example).items()
    assert asked.at == at - 1 and text(asked.choices[0]) == answer
    said = [text(choice) for choice in asked.choices]
    assert sorted(said) == sorted(f" {choice}" for choice in record.choices)
    # The longest would fit into the length as well.
    assert at + max(map(len, said)) <= length + 1
    assert asked.references == record.answers and asked.room == len(answer)
    (fewer,) = task.questions("tune", index, length, 2)
    assert [text(choice) for choice in fewer.choices] == said[:2]


def test_no_choices(babilong):
  (asked,) = Task(Config(source=babilong), SEED).questions("test", 0, 1024, 8)
  assert asked.choices == () and asked.room == len(f" {asked.references[0]}")
  # What BABILong's own rule needs.
  assert (asked.metric, asked.asked) == ("babilong", "Where is Mary?")
  assert set(asked.labels) == {f"place{n}" for n in range(30)}


def test_longbench(tmp_path):
  """The question has the form of the examples, and what its rule needs."""
  names = ["City", "Date", "Person"]
  rows = [
    {
      "input": f"Question: Who {n}?\nType:", "answers": [names[n % 3]],
      "context": "Question: Where?\nType: City", "length": 9, "language": "en",
      "dataset": "trec", "all_classes": names, "_id": f"id{n}",
    }
    for n in range(30)
  ]  # fmt: skip
  (tmp_path / "trec.jsonl").write_text("\n".join(map(json.dumps, rows)))
  task = Task(Config(source=f"longbench:{tmp_path}"), SEED)
  example = task.example("test", 0, 256)
  (asked,) = task.questions("test", 0, 256, 8)
  (right,) = asked.references
  assert text(whole(example)[: used(example)]) == (
    f"Question: Where?\nType: City\n{asked.asked} {right}"
  )
  assert (asked.metric, asked.labels) == ("longbench:trec", tuple(names))
  score = own_rules.own_rule(
    asked.metric, f"{right}\nDate", [right], asked.asked, asked.labels
  )
  assert score == {"longbench_trec": 1.0}


def test_questions_of_several_answers():
  task = Task(Config(source="ruler:niah_multivalue"), SEED)
  record = task.record("test", 0, 4096)
  example = task.example("test", 0, 4096)
  asked = task.questions("test", 0, 4096, 8)
  assert [q.references for q in asked] == [(a,) for a in record.answers]
  assert [q.at + 1 for q in asked] == list(answers(example).values())


@pytest.mark.parametrize("kind", ruler_text.KINDS)
@pytest.mark.parametrize("length", [4096, 30_000])
def test_ruler(kind, length):
  task = Task(Config(source=f"ruler:{kind}"), SEED)
  assert task.size("test", length) is None
  texts = set()
  for split in splits.SPLITS:
    for index in range(3):
      record = task.record(split, index, length)
      example = task.example(split, index, length)
      size = used(example)
      assert 0.9 < size / (length + 1) <= 1
      if length > 4096:
        assert size / (length + 1) > 0.96
      sequence = text(whole(example)[:size])
      assert sequence.startswith(record.context + record.ask)
      found = answers(example)
      assert [a.strip() for a in found] == list(record.answers)
      # The same answers are in the context, where the distance says.
      for answer, at in found.items():
        distance = example["distance"][at - 1]
        assert sequence[at - distance :].startswith(answer.strip())
        assert at - distance < len(record.context)
      texts.add(sequence)
  assert len(texts) == 9


def test_ruler_answers_in_their_forms():
  def end(kind):
    task = Task(Config(source=f"ruler:{kind}"), SEED)
    example = task.example("test", 0, 4096)
    record = task.record("test", 0, 4096)
    sequence = text(whole(example)[: used(example)])
    return sequence[len(record.context) + len(record.ask) :], record.answers

  written, values = end("niah_multivalue")
  assert written == f" {', '.join(values)}"
  written, values = end("vt")
  assert written == f" {' '.join(values)}"
  written, values = end("cwe")
  assert written == " ".join(f"{i}. {w}" for i, w in enumerate(values, 1))


def test_ruler_hides_in_the_text_of_a_directory(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  books = tmp_path / "books"
  books.mkdir()
  for name in "abcd":
    sentence = f"Sentence of book {name}, which is long enough. "
    (books / f"{name}.txt").write_text(sentence * 100)
  task = Task(
    Config(source="ruler:niah_single_2", haystack=f"directory:{books}"), SEED
  )
  found = {}
  for split in splits.SPLITS:
    context = task.record(split, 0, 4096).context
    found[split] = {n for n in "abcd" if f"Sentence of book {n}," in context}
    assert found[split]
  assert not found["train"] & (found["tune"] | found["test"])


@pytest.fixture
def library(tmp_path, monkeypatch):
  """Books whose sentences say which book they are of, and where in it."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  (tmp_path / "books").mkdir()
  for name in "abcd":
    book = " ".join(f"Line {i} of book {name}, quoted." for i in range(2000))
    (tmp_path / "books" / f"{name}.txt").write_text(book)
  return f"directory:{tmp_path / 'books'}"


@pytest.mark.parametrize("kind", ["qa1", "qa2", "qa3", "qa4", "qa5"])
@pytest.mark.parametrize("length", [1024, 20_000])
def test_babi_in_a_book(library, kind, length):
  """Read by a simulator that sees the text alone."""
  task = Task(Config(source=f"babi:{kind}", haystack=library), SEED)
  assert task.size("test", length) is None
  seen, books = set(), {}
  for split in splits.SPLITS:
    for index in range(4):
      record = task.record(split, index, length)
      example = task.example(split, index, length)
      sequence = text(whole(example)[: used(example)])
      assert 0.85 < len(sequence) / (length + 1) <= 1
      assert length == 1024 or 0.96 < len(sequence) / (length + 1)
      assert sequence.startswith(record.context + record.ask)
      sentences = re.findall(r"[^.]+\.", sequence[: len(record.context)])
      lines = [s.strip() for s in sentences if s.strip().startswith("Line ")]
      at = [int(line.split()[1]) for line in lines]
      assert all((b - a) % 2000 == 1 for a, b in zip(at, at[1:], strict=False))
      books.setdefault(split, set()).update(line.split()[4] for line in lines)
      facts = [s.strip(" .") for s in sentences if "Line " not in s]
      assert len(facts) == 7
      told = [
        (fact[:1].lower() + fact[1:] if kind == "qa4" else fact).split()
        for fact in facts
      ]
      assert record.metric == "babilong" and record.question.endswith("?")
      asked = record.question[:1].lower() + record.question[1:-1]
      solved = Simulator(told).answer(asked.split())
      ((answer, start),) = answers(example).items()
      assert answer == f" {solved}" and record.answers == (solved,)
      assert solved in record.choices and len(record.choices) in (4, 8)
      assert record.labels == record.choices
      # The evidence is whole facts, of which the farthest sets the distance;
      # nothing else has to be known.
      farthest = start - example["distance"][start - 1]
      relevant = [farthest == 0, *example["relevant"]]
      pairs = zip(sequence, relevant, strict=False)
      marked = "".join(c if known else "|" for c, known in pairs)
      evidence = [s.strip(" .") for s in re.split(r"\|+", marked)[:-1] if s]
      assert set(evidence) <= set(facts)
      assert sequence[farthest:].startswith(evidence[0])
      told = [told[facts.index(fact)] for fact in evidence]
      assert Simulator(told).answer(asked.split()) == solved
      seen.add(sequence)
  assert len(seen) == 12
  assert not books["train"] & (books["tune"] | books["test"])


def test_a_length_too_short_for_babi(library):
  task = Task(Config(source="babi:qa2", haystack=library), SEED)
  with pytest.raises(ValueError, match="length=128 is too short .*'babi:qa2'"):
    task.example("test", 0, 128)


def test_a_length_too_short_for_ruler():
  task = Task(Config(source="ruler:vt"), SEED)
  expected = r"length=512 is too short for .*'ruler:vt': this one needs \d+ tok"
  with pytest.raises(ValueError, match=expected):
    task.example("test", 0, 512)


def test_another_tokenizer(tmp_path, babilong):
  path = tmp_path / "tokenizer.json"
  texts = [r.context + r.ask for r in public_sets.load(babilong)["train"]]
  path.write_bytes(tokenizer.train(texts, 300).content)
  task = Task(Config(source=babilong, tokenizer=str(path)), SEED)
  for length in (128, 4096):
    example = task.example("test", 0, length)
    record = task.record("test", 0, length)
    seq = whole(example)[: used(example)]
    decoded = task.tokenizer.decode(seq)
    assert decoded.endswith(f"{record.ask} {record.answers[0]}")
    is_answer = example["answer"] >= 0
    answer = task.tokenizer.decode(example["targets"][is_answer])
    assert answer == f" {record.answers[0]}"
    # Where it stands in the context, to a token of its first letters.
    at = np.flatnonzero(is_answer)[0] + 1
    start = at - example["distance"][at - 1]
    assert record.answers[0] in task.tokenizer.decode(seq[start - 1 : at])
  changed = Config(source=babilong, tokenizer=str(path))
  path.write_bytes(tokenizer.train(texts, 301).content)
  with pytest.raises(ValueError, match="task.tokenizer_sha256="):
    Config(
      source=babilong, tokenizer=str(path),
      tokenizer_sha256=changed.tokenizer_sha256,
    )  # fmt: skip


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({"source": "ruler:niah"}, "task.source='ruler:niah' is not known: the"),
    ({"source": "ruler:"}, "is not known: the kinds of ruler are niah_single"),
    ({"source": "babi:qa6"}, "'babi:qa6' is not known: .* qa1, qa2, qa3, qa4"),
    ({"source": "squad:x"}, "task.source='squad:x' is not known: use"),
    ({"source": "babilong:/no"}, "hf download RMT-team/babilong"),
    ({"haystack": "stdlib"}, "task.haystack='stdlib' would not be used"),
    ({"haystack": "stdlib", "source": "ruler:cwe"}, "would not be used"),
    ({"haystack": "directory:/no", "source": "ruler:niah_single_2"},
     "task.haystack='directory:/no': there is no directory /no"),
    ({"answer_weight": 0.0, "context_weight": 0.0}, "nothing to learn"),
    ({"answer_weight": -1.0}, "task.answer_weight=-1.0 must be at least 0"),
    ({"tokenizer": "/no/file"}, "task.tokenizer='/no/file' cannot be read"),
  ],
)  # fmt: skip
def test_bad_settings(changes, expected):
  tree = config_lib.template("long_qa")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=expected):
    config_lib.from_config_dict(tree)


def test_a_text_without_sentences(tmp_path, monkeypatch):
  """Has one, which comes again and again."""
  monkeypatch.setattr(
    long_qa.Task, "_text", lambda self, split: ["no full stop"]
  )
  task = Task(Config(source="ruler:niah_multikey_1"), SEED)
  context = task.record("test", 0, 2048).context
  assert context.count("no full stop") > 50
