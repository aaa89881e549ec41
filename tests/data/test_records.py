"""Documents read one by one: the same batches, and no more than is needed."""

import collections
import dataclasses
import json
import types

import numpy as np
import pytest

from mattt_jax.data import records, sources, text_builder, tokenizer
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks import _texts
from mattt_jax.tasks import batches as batches_lib
from mattt_jax.tasks.language_modeling import Config, Task
from mattt_jax.training import workdir

STEPS, BATCH, LENGTH = 6, 8, 64


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  """60 texts of very different sizes, each in its own words."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  root = tmp_path / "texts"
  root.mkdir()
  for n in range(60):
    text = "".join(f"{n:02d}:{i:04d}é " for i in range(20 + 7 * n))
    (root / f"{n:02d}.txt").write_text(text)
  return root


@pytest.fixture
def reads(monkeypatch):
  """The names of the records read from disk, in order."""
  found, read = [], text_builder.Rows.__getitem__

  def counted(self, index):
    name, text = read(self, index)
    found.append(name)
    return name, text

  monkeypatch.setattr(text_builder.Rows, "__getitem__", counted)
  return found


def settings(root, **changes):
  return Config(source=f"directory:{root}", in_memory=False, **changes)


def experiment():
  return types.SimpleNamespace(
    seed=7, length=LENGTH, batch_size=BATCH,
    train=types.SimpleNamespace(steps=STEPS, prefetch=4, random_lengths=()),
  )  # fmt: skip


def batches(task, **more):
  return list(batches_lib.train_batches(task, experiment(), **more))


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])
    assert a[key].dtype == b[key].dtype


def test_the_documents_are_those_of_load(corpus):
  found = records.load(f"directory:{corpus}", min_bytes=1)
  held = sources.load(f"directory:{corpus}", min_bytes=1)
  assert tuple(found) == SPLITS
  for split, documents in found.items():
    assert tuple(documents) == held[split]
    assert documents.size_N.tolist() == [len(d.text) for d in held[split]]


def test_same_batches_as_in_memory(corpus):
  config = settings(corpus, repeat_ngram=3)
  held = Task(dataclasses.replace(config, in_memory=True), 7)
  task = Task(config, 7)
  for a, b in zip(batches(task), batches(held), strict=True):
    same(a, b)
  for split in ("tune", "test"):
    assert task.size(split, LENGTH) == held.size(split, LENGTH) > 0
    for index in range(task.size(split, LENGTH)):
      same(
        task.example(split, index, LENGTH), held.example(split, index, LENGTH)
      )
    with pytest.raises(ValueError, match=f"no document of split='{split}'"):
      task.example(split, task.size(split, LENGTH), LENGTH)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_each_host_reads_its_own_documents(corpus, reads, hosts):
  held = Task(dataclasses.replace(settings(corpus), in_memory=True), 7)
  whole, share = batches(held), BATCH // hosts
  Task(settings(corpus), 7)  # makes the index
  for host in range(hosts):
    rows = range(host * share, (host + 1) * share)
    reads.clear()
    task = Task(settings(corpus), 7)
    assert not reads  # from the index alone
    for found, expected in zip(batches(task, rows=rows), whole, strict=True):
      same(found, {key: array[rows] for key, array in expected.items()})
    due = [
      held.document("train", held._train_window(step * BATCH + row, LENGTH)[0])
      for step in range(STEPS)
      for row in rows
    ]
    assert set(reads) == {name for name, _ in due}
    assert len(reads) <= len(due)  # those kept are not read again


def test_the_position_goes_on(corpus):
  whole = batches(Task(settings(corpus), 7))
  first = batches_lib.train_batches(Task(settings(corpus), 7), experiment())
  for _ in range(2):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  other = batches_lib.train_batches(Task(settings(corpus), 7), experiment())
  other.set_state(state)
  for a, b in zip(other, whole[2:], strict=True):
    same(a, b)


def test_few_documents_are_held(corpus, monkeypatch):
  """However many are read, to make the index and to make examples."""
  alive, most = [], []

  class Text(bytes):
    def __del__(self):
      alive.pop()

  read = text_builder.Rows.__getitem__

  def watched(self, index):
    name, text = read(self, index)
    text = Text(text)
    alive.append(None)
    most.append(len(alive))
    return name, text

  monkeypatch.setattr(text_builder.Rows, "__getitem__", watched)
  task = Task(settings(corpus), 7)
  assert len(most) == 60 and max(most) <= 2
  most.clear()
  for index in range(150):
    task.example("train", index, LENGTH)
  assert len(most) > 60 and max(most) <= 9  # 8 are kept, and one is read


def test_one_pass_makes_the_index(corpus, reads):
  Task(settings(corpus), 7)
  assert collections.Counter(reads) == {f"{n:02d}.txt": 1 for n in range(60)}
  reads.clear()
  Task(settings(corpus), 8)
  assert not reads
  # A changed text is another data set.
  (corpus / "03.txt").write_text("Other words. " * 30)
  Task(settings(corpus), 7)
  assert len(reads) == 60


def test_held_out_documents_are_not_drawn(corpus, reads):
  held = sources.load(f"directory:{corpus}", min_bytes=1)
  task = Task(settings(corpus), 7)
  reads.clear()
  for index in range(600):
    window = bytes(task.example("train", index, 32)["tokens"].tolist())
    assert not any(
      window in d.text for split in ("tune", "test") for d in held[split]
    )
  drawn = set(reads)
  assert drawn <= {d.name for d in held["train"]}
  assert len(drawn) > 0.9 * len(held["train"])
  for split in ("tune", "test"):
    reads.clear()
    for index in range(task.size(split, 32)):
      task.example(split, index, 32)
    assert sorted(reads) == [d.name for d in held[split]]


def test_with_a_tokenizer_documents_are_drawn_by_their_bytes(
  tmp_path, monkeypatch
):
  """And windows uniformly over the tokens of a document."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  root = tmp_path / "texts"
  root.mkdir()
  # Every token of "a" is one byte, most of "b" are eight.
  for n, text in enumerate(["a" * 100, "b" * 300, "a" * 400, "b" * 800] * 2):
    (root / f"{n}.txt").write_text(text)
  path = tmp_path / "tokenizer.json"
  path.write_bytes(tokenizer.train(["bbbbbbbb " * 99] * 2, 259).content)
  task = Task(settings(root, tokenizer=str(path)), 0)
  size_N = task._records["train"].size_N
  number, starts = 4000, collections.defaultdict(list)
  for index in range(number):
    document, start = task._train_window(index, 10)
    starts[document].append(start)
  for document, size in enumerate(size_N):
    share, found = size / size_N.sum(), starts[document]
    error = 4 * np.sqrt(share * (1 - share) / number)
    assert len(found) / number == pytest.approx(share, abs=error)
    _, tokens = task.document("train", document)
    last = len(tokens) - 11  # of the starts
    assert 0 <= min(found) and max(found) <= last
    error = 4 * last / np.sqrt(12 * len(found))
    assert np.mean(found) == pytest.approx(last / 2, abs=error)
  ratios = [
    size / len(task.document("train", n)[1]) for n, size in enumerate(size_N)
  ]
  assert min(ratios) == 1 and max(ratios) > 7  # bytes and tokens do differ


def test_a_run_goes_on_with_the_same_texts_only(corpus, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  workdir.keep_contents(run, Task(settings(corpus), 7))
  workdir.keep_contents(run, Task(settings(corpus), 7))
  train = sources.load(f"directory:{corpus}", min_bytes=1)["train"]
  path = corpus / train[5].name
  text = path.read_bytes()
  path.write_bytes(text.replace(b":0003", b":0004"))
  with pytest.raises(
    ValueError, match="not those .* began with .train changed"
  ):
    workdir.keep_contents(run, Task(settings(corpus), 7))
  path.unlink()
  with pytest.raises(ValueError, match="train changed"):
    workdir.keep_contents(run, Task(settings(corpus), 7))
  path.write_bytes(text)
  workdir.keep_contents(run, Task(settings(corpus), 7))


def damage(folder):
  """Other bytes among those of the texts to train on."""
  (path,) = folder.glob("*train.array_record*")
  content = bytearray(path.read_bytes())
  for at in range(2000, 3000):
    content[at] ^= 0xFF
  path.write_bytes(content)


def test_texts_that_are_gone_or_damaged_are_named(corpus):
  source = f"directory:{corpus}"
  folder = sources.array_records(source)
  task = Task(settings(corpus), 7)
  damage(folder)
  with pytest.raises(
    ValueError, match="cannot be read|is not the text that it"
  ):
    for document in range(len(task._documents["train"])):
      task.document("train", document)
  (path,) = folder.glob("*tune.array_record*")
  path.unlink()
  with pytest.raises(
    ValueError, match=f"{path} of the data set cannot be read"
  ):
    Task(settings(corpus), 7)


def test_another_text_under_the_same_index(corpus, monkeypatch):
  task = Task(settings(corpus), 7)
  read = text_builder.Rows.__getitem__
  monkeypatch.setattr(
    text_builder.Rows,
    "__getitem__",
    lambda self, index: (read(self, index)[0], b"other text"),
  )
  with pytest.raises(ValueError, match=r"\d\d.txt is not the text that it was"):
    task.document("train", 0)


def test_a_damaged_index(corpus, tmp_path):
  Task(settings(corpus), 7)
  (path,) = (tmp_path / "cache").glob("index-*.npz")
  path.write_bytes(b"PK")
  with pytest.raises(ValueError, match=rf"{path} is damaged .*: remove it"):
    Task(settings(corpus), 7)


def test_what_is_not_on_disk():
  with pytest.raises(
    ValueError, match="'dialogue' is not on disk: use task.in"
  ):
    Task(Config(source="dialogue", in_memory=False), 0)
  with pytest.raises(ValueError, match="task.source='nothing' is not known"):
    records.load("nothing", min_bytes=1)


def test_documents_that_are_kept():
  asked = []

  def encode(document):
    asked.append(document)
    return document, np.zeros(2)

  read = _texts.ReadWhenAsked("abc", encode, kept=2)
  assert len(read) == 3 and [read[i][0] for i in (0, 1, 0, 2, 0, 1)] == [
    *"abacab"
  ]
  assert asked == [*"abcb"]
