"""Name cloze on books that the test writes, whose names it knows."""

import concurrent.futures
import dataclasses
import gc
import re
import time
from collections import Counter

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.data import tokenizer
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks import _cloze, _names
from mattt_jax.tasks.name_cloze import Config, Task

NAMES = ("Anna", "Émile", "Ruth", "Zoë", "Annabel", "Kai", "Twice")
SENTENCES = (
  "Then the old man asked {} about it.",
  "Nobody saw {},\nand so it was.",
  'They say "{}" often, {} and they.',
  "{} was late; {}'s rose grew.",  # no sign of a name at its start
  "Rose and rose alike, May or may.",  # both, so neither is a name
  "Is Mr. {} here? No, by Twice, or Twice.",
)
CODE = """import os.path, sys as system
from re import *
try:
  from json import loads
except ImportError:
  loads = None
def outer():
  import inner
  return system.path, os, inner, "outer system"
class Thing:
  def method(self): return outer(), Thing, loads
"""
MODULE = {"os", "system", "loads", "outer", "Thing"}


def book(rng, sentences):
  made = []
  for _ in range(sentences):
    frame = SENTENCES[rng.integers(len(SENTENCES))]
    names = rng.choice(NAMES, frame.count("{}"))
    made.append(frame.format(*names))
  return " ".join(made)


@pytest.fixture(scope="module")
def books(tmp_path_factory):
  """{name: text}, and settings that read them."""
  root = tmp_path_factory.mktemp("books")
  rng = np.random.default_rng(0)
  texts = {f"{name}.txt": book(rng, 150) for name in "abcdef"}
  for name, text in texts.items():
    (root / name).write_text(text)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield texts, Config(source=f"directory:{root}", beyond=100)


@pytest.fixture(scope="module")
def bpe(books, tmp_path_factory):
  path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
  made = tokenizer.train(books[0].values(), 330)
  path.write_bytes(made.content)
  return dataclasses.replace(books[1], tokenizer=str(path), beyond=30)


def solve(texts, read, beyond):
  """What example and choices must say of the bytes `read`, from the spelling
  of the names alone: answers (name, first byte, after its last, distance), and
  the names before each. A name that an edge cuts is not read."""
  (text,) = (t.encode() for t in texts.values() if read in t.encode())
  start = text.index(read)
  names = "|".join(sorted(NAMES, key=len, reverse=True)).encode()
  last, before, answers = {}, [], []
  for match in re.finditer(names, text):
    first, stop = match.start() - start, match.end() - start
    if 0 <= first and stop <= len(read):
      name = match.group().decode()
      if name in last and first - last[name] > beyond:
        answers.append((name, first, stop, first - last[name], list(before)))
      last[name] = stop - 1
      before.append(name)
  return answers


def whole(example):
  size = int(example["inner_weight"].sum())
  return [int(example["tokens"][0]), *example["targets"][:size].tolist()]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("length, beyond", [(400, 100), (400, 30), (9999, 300)])
def test_a_reader_of_the_text_alone_finds_the_answers(
  books, split, length, beyond
):
  task = Task(dataclasses.replace(books[1], beyond=beyond), 0)
  total = 0
  for index in range(task.size(split, length) or 10):
    example = task.example(split, index, length)
    text = bytes(whole(example))
    answers = solve(books[0], text, beyond)
    total += len(answers)
    expected = {k: np.full(length, -1) for k in ("answer", "distance")}
    relevant = np.zeros(length + 1, bool)
    for number, (_, first, stop, distance, _) in enumerate(answers):
      expected["answer"][first - 1 : stop - 1] = number
      expected["distance"][first - 1 : stop - 1] = distance
      name = text[first:stop]
      evidence = first - distance + 1 - len(name)
      relevant[evidence : evidence + len(name)] = True
    for key, array in expected.items():
      np.testing.assert_array_equal(example[key], array)
    np.testing.assert_array_equal(example["relevant"], relevant[1:])
    choices = task.choices(split, index, length)
    for choice, (name, first, _, _, before) in zip(
      choices, answers, strict=True
    ):
      assert choice.names[choice.right] == name and choice.at == first - 1
      assert choice.names == tuple(dict.fromkeys(before))
      assert [choice.names[i] for i in choice.mentions] == before
      assert choice.before == ""
  assert total > 10


def test_names_that_an_edge_cuts_are_not_read(books):
  task = Task(dataclasses.replace(books[1], beyond=20), 0)
  for length in range(200, 260):
    for index in (0, 1):
      example = task.example("test", index, length)
      answers = solve(books[0], bytes(whole(example)), 20)
      at = [first - 1 for _, first, *_ in answers]
      new = np.diff(example["answer"], prepend=-1) > 0
      np.testing.assert_array_equal(
        np.flatnonzero(new & (example["answer"] >= 0)), at
      )


def test_held_out_windows_cover_each_document_once(books):
  task = Task(books[1], 0)
  for split in ("tune", "test"):
    read, length = [], 130
    for index in range(task.size(split, length)):
      example = task.example(split, index, length)
      real = int(example["inner_weight"].sum())
      read.append(bytes(example["targets"][:real].tolist()))
      assert (example["inner_weight"][:real] == 1).all()
      assert (example["outer_weight"][real:] == 0).all()
    (name, tokens), *others = [
      task.document(split, i) for i in range(len(task._documents[split]))
    ]
    assert not others and b"".join(read) == books[0][name].encode()[1:]
    with pytest.raises(ValueError, match=f"{index + 1} of length=130"):
      task.example(split, index + 1, length)


def test_the_beginnings_of_all_documents_come_first(books, tmp_path):
  for name, text in books[0].items():
    for copy in range(9):
      (tmp_path / f"{copy}{name}").write_text(f"{copy}{name} {text}")
  task = Task(Config(source=f"directory:{tmp_path}"), 0)
  number = len(task._documents["test"])
  assert number > 2
  first = [bytes(task.example("test", i, 256)["tokens"][:7].tolist()).decode()
           for i in range(number)]  # fmt: skip
  assert first == [task.document("test", i)[0] + " " for i in range(number)]


def test_tokens_of_a_tokenizer(books, bpe):
  task, total = Task(bpe, 0), 0
  for split in SPLITS:
    for index in range(task.size(split, 200) or 10):
      example = task.example(split, index, 200)
      for number, cloze in enumerate(task.choices(split, index, 200)):
        at = np.flatnonzero(example["answer"] == number)
        assert at[0] == cloze.at and (np.diff(at) == 1).all()
        said = task.tokenizer.decode(example["targets"][at])
        name = cloze.names[cloze.right]
        assert said == cloze.before + name and cloze.before in ("", " ")
        np.testing.assert_array_equal(
          task.tokenizer.encode(cloze.before + name), example["targets"][at]
        )
        (distance,) = set(example["distance"][at].tolist())
        last = cloze.at - distance  # the last token of the last mention
        seq = np.append(example["tokens"], example["targets"][-1])
        text = task.tokenizer.decode(seq[: last + 2])
        assert distance > 30 and text.endswith(name)
        between = task.tokenizer.decode(example["targets"][last + 1 : cloze.at])
        assert name not in re.findall(r"\w+", between)
        assert last < 0 or example["relevant"][last]
        total += 1
  assert total > 20


def test_names_are_found_by_rules():
  text = " ".join(SENTENCES).format(*NAMES)
  # "saw X", "often, X", "late; X" and "Mr. X" are amid a sentence, after a
  # quote or a full stop is not.
  names = {*NAMES} - {"Ruth", "Annabel"}
  assert _names.proper_names(text, 1) == names
  assert _names.proper_names(text, 3) == {"Twice"}
  assert _names.proper_names(text, 4) == set()
  once = _names.proper_names("it is Rome, Mr. Ox, OXEN, Rome2 and I.", 1)
  assert once == {"Rome", "Ox"}
  assert _names.proper_names("a Rome, the rome", 1) == set()


def test_names_of_a_module():
  assert _names.module_names(CODE) == MODULE
  assert _names.module_names("def f(:") == _names.module_names("\0") == set()


def test_modules_are_parsed_by_threads():
  """Also where collecting garbage lets another thread go on meanwhile."""
  callbacks, threshold = gc.callbacks[:], gc.get_threshold()
  gc.callbacks.append(lambda *_: time.sleep(1e-5))
  gc.set_threshold(50)
  try:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      found = list(pool.map(_names.module_names, [CODE * 5] * 8))
  finally:
    gc.callbacks[:] = callbacks
    gc.set_threshold(*threshold)
  assert found == [MODULE] * 8
  words = [n for n, _, _ in _names.mentions("a/b.py", CODE, 99)]
  counts = Counter(w for w in re.findall(r"\w+", CODE) if w in MODULE)
  assert Counter(words) == counts and counts["system"] == 3
  assert [m for m in _names.mentions("a.txt", CODE, 1) if m[0] == "os"] == []


def test_guesses():
  mentions = np.array([0, 1, 1, 2, 0, 2])
  assert _cloze.majority(mentions) == 0  # of three names met twice
  assert _cloze.majority(mentions[1:]) == 1
  assert _cloze.nearest_mention(mentions[:4]) == 2


def test_guessing_without_reading(books):
  task, length = Task(books[1], 0), 400
  answers = []
  for index in range(4):
    text = bytes(whole(task.example("test", index, length)))
    answers += solve(books[0], text, books[1].beyond)
  majority = [Counter(b).most_common(1)[0][0] == n for n, *_, b in answers]
  nearest = [b[-1] == n for n, *_, b in answers]
  chance = [1 / len(set(b)) for *_, b in answers]
  found = task.guessing("test", length, 4)
  assert found == {
    "chance": pytest.approx(np.mean(chance)),
    "majority": pytest.approx(np.mean(majority)),
    "nearest_mention": pytest.approx(np.mean(nearest)),
  }
  none = task.guessing("test", 64, 9)
  assert none == {"chance": None, "majority": None, "nearest_mention": None}
  every = task.guessing("test", length, 10**6)
  assert every == task.guessing("test", length, task.size("test", length))
  assert every != found


def test_the_standard_library_has_answers_by_default(books):
  task = Task(Config(), 0)
  answers = [
    task.example("test", i, 4096)["answer"].max() + 1 for i in range(10)
  ]
  assert sum(answers) > 50
  assert 0 < task.guessing("test", 4096, 10)["majority"] < 0.8


def test_weights(books):
  config = dataclasses.replace(books[1], answer_weight=3.0, context_weight=0.5)
  example = Task(config, 0).example("test", 0, 400)
  weight = np.where(example["answer"] >= 0, 3.0, 0.5)
  np.testing.assert_array_equal(example["outer_weight"], weight)
  assert (example["inner_weight"] == 1).all()


def test_another_task_makes_the_same_example(books):
  first = Task(books[1], 4).example("train", 3, 300)
  task = Task(books[1], 4)
  task.choices("test", 0, 512)  # what was asked before does not matter
  for key, array in task.example("train", 3, 300).items():
    np.testing.assert_array_equal(array, first[key])


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(beyond=-1), "task.beyond=-1 must be at least 0"),
    (dict(num_mentions=0), "task.num_mentions=0 must be at least 1"),
    (dict(context_weight=0.0), "task.context_weight=0 leaves nothing to learn"),
    (dict(beyond=256), "task.beyond=256 must be smaller than .*length, 256"),
    (dict(beyond=124), "within the 125 tokens .* use task.beyond=125 or more"),
    (dict(source="directory:/no/such"), "there is no directory"),
    (dict(min_document_bytes=1), "task.min_document_bytes=1 must be at least"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  tree = config_lib.template("name_cloze")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


def test_what_the_errors_advise():
  for changes in (dict(beyond=125), dict(beyond=1, out_of_reach=False)):
    tree = config_lib.template("name_cloze")
    tree.task.update(changes)
    config_lib.from_config_dict(tree)
