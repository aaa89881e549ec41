"""Language modelling on files that the test writes."""

import dataclasses
import hashlib
import types

import numpy as np
import pytest

from mattt_jax.data import tokenizer
from mattt_jax.tasks.base import SPLITS
from mattt_jax.tasks.language_modeling import Config, Task

# Every text counts in its own words, so a window tells where it is from.
SIZES = {"a": 300, "b": 600, "c": 100, "d": 900, "e": 300, "f": 450}


@pytest.fixture
def texts(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  root = tmp_path / "texts"
  root.mkdir()
  texts = {}
  for name, size in SIZES.items():
    text = "".join(f"{name}{i:03d}é" for i in range(size))
    (root / f"{name}.txt").write_text(text)
    texts[f"{name}.txt"] = text.encode()
  return texts, Config(source=f"directory:{root}")


def documents(task, split):
  found, index = {}, 0
  while True:
    try:
      name, tokens = task.document(split, index)
    except ValueError:
      return found
    found[name] = tokens.tobytes()
    index += 1


def test_every_document_is_in_one_split(texts):
  task = Task(texts[1], 0)
  splits = [documents(task, split) for split in SPLITS]
  assert {k: v for split in splits for k, v in split.items()} == texts[0]
  assert sum(map(len, splits)) == len(SIZES)


@pytest.mark.parametrize("split", ["tune", "test"])
def test_held_out_documents_are_read_from_their_beginning(texts, split):
  task = Task(texts[1], 0)
  held_out = documents(task, split)
  assert task.size(split, 64) == len(held_out) > 0
  for index, text in enumerate(held_out.values()):
    example = task.example(split, index, 64)
    assert bytes(example["tokens"].tolist()) == text[:64]
    assert bytes(example["targets"].tolist()) == text[1:65]
    assert (example["inner_weight"] == 1).all()
    assert (example["outer_weight"] == 1).all()
    assert (example["answer"] == -1).all()
    assert (example["distance"] == -1).all()
  for index in (len(held_out), -1):
    with pytest.raises(ValueError, match=f"no document of split='{split}'"):
      task.example(split, index, 64)


def test_training_windows_are_uniform_over_the_training_text(texts):
  task = Task(texts[1], 0)
  assert task.size("train", 64) is None
  train = documents(task, "train")
  length, number = 200, 3000
  starts = {name: [] for name in train}
  for index in range(number):
    example = task.example("train", index, length)
    window = bytes([*example["tokens"].tolist(), example["targets"][-1]])
    (name,) = (n for n, text in train.items() if window in text)
    starts[name].append(train[name].index(window))
  total = sum(map(len, train.values()))
  for name, text in train.items():
    share = len(text) / total
    error = 4 * np.sqrt(share * (1 - share) / number)
    assert len(starts[name]) / number == pytest.approx(share, abs=error)
    last = len(text) - length - 1  # every start that leaves a whole window
    assert 0 <= min(starts[name]) < last * 0.1
    assert last * 0.9 < max(starts[name]) <= last
    middle = np.mean(starts[name])
    error = 4 * last / np.sqrt(12 * len(starts[name]))
    assert middle == pytest.approx(last / 2, abs=error)


def test_small_documents_are_drawn_by_their_length(tmp_path, monkeypatch):
  """Off by one byte would show: windows nearly as long as the documents."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  for name, letter, size in (("0", "a", 3), ("1", "b", 4), ("2", "c", 5),
                             ("3", "d", 3), ("4", "e", 6)):  # fmt: skip
    (tmp_path / f"{name}.txt").write_text(letter * size)
  task = Task(Config(source=f"directory:{tmp_path}"), 0)
  train = documents(task, "train")
  assert len(train) == 3
  number, counts = 4000, dict.fromkeys((t[0] for t in train.values()), 0)
  for index in range(number):
    example = task.example("train", index, 2)
    assert example["inner_weight"].all()
    counts[example["tokens"][0]] += 1
  total = sum(map(len, train.values()))
  for text in train.values():
    share = counts[text[0]] / number
    assert share == pytest.approx(len(text) / total, abs=0.035)


def test_a_window_as_long_as_the_document_is_the_document(texts):
  task = Task(texts[1], 0)
  name, tokens = task.document("tune", 0)
  example = task.example("tune", 0, len(tokens) - 1)
  assert bytes(example["targets"].tolist()) == texts[0][name][1:]
  assert example["inner_weight"].all()


@pytest.mark.parametrize("split", ["train", "tune"])
def test_beyond_the_end_nothing_counts(texts, split):
  task = Task(texts[1], 0)
  length = 10_000
  example = task.example(split, 0, length)
  # Bytes other than 0 are the document: none of its own is 0.
  size = int((example["tokens"] != 0).sum())
  text = bytes(example["tokens"][:size].tolist())
  assert text in documents(task, split).values()
  for key in ("inner_weight", "outer_weight"):
    # the last byte has no target
    np.testing.assert_array_equal(
      example[key], (np.arange(length) < size - 1).astype(np.float32)
    )
  assert (example["targets"][size - 1 :] == 0).all()


def test_seed_and_index_choose_the_window(texts):
  def window(seed, index):
    return Task(texts[1], seed).example("train", index, 64)["tokens"].tolist()

  assert window(1, 5) == window(1, 5)
  different = {tuple(window(s, i)) for s in range(3) for i in range(10)}
  assert len(different) > 25


def test_stdlib_by_default(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path))
  task = Task(Config(), 0)
  names = [name for s in SPLITS for name in documents(task, s)]
  assert "argparse.py" in names and task.vocab_size == 256
  assert task.size("tune", 256) >= 3 and task.size("test", 256) >= 3


def test_check_names_a_document_shorter_than_one_chunk(texts):
  texts, config = texts
  shortest = min(map(len, texts.values()))
  config.check(types.SimpleNamespace(chunk=shortest))
  with pytest.raises(ValueError, match=r"c\.txt has 600 bytes, shorter than"):
    config.check(types.SimpleNamespace(chunk=shortest + 1))


def test_bad_settings():
  with pytest.raises(ValueError, match="task.min_document_bytes=0"):
    Config(min_document_bytes=0)
  with pytest.raises(ValueError, match="there is no directory"):
    Task(Config(source="directory:/no/such/texts"), 0)


@pytest.fixture
def bpe(texts, tmp_path):
  """The texts with a tokenizer of their own, as settings."""
  path = tmp_path / "tokenizer.json"
  made = tokenizer.train([text.decode() for text in texts[0].values()], 300)
  path.write_bytes(made.content)
  return made, path, dataclasses.replace(texts[1], tokenizer=str(path))


def test_tokens_of_a_tokenizer(texts, bpe):
  made, _, config = bpe
  task = Task(config, 0)
  assert task.vocab_size == 300 and task.tokenizer.content == made.content
  for split in SPLITS:
    for index in range(task.size(split, 64) or 4):
      name, tokens = task.document(split, index)
      assert tokens.dtype == np.uint16
      assert made.decode(tokens) == texts[0][name].decode()
  example = task.example("test", 0, 64)
  name, tokens = task.document("test", 0)
  assert len(tokens) < len(texts[0][name])
  np.testing.assert_array_equal(example["tokens"], tokens[:64])
  np.testing.assert_array_equal(example["targets"], tokens[1:65])
  train = [task.example("train", i, 64)["tokens"] for i in range(20)]
  assert {array.dtype for array in train} == {np.dtype(np.int32)}
  everything = "".join(text.decode() for text in texts[0].values())
  assert all(made.decode(tokens[1:-1]).strip("\ufffd") in everything
             for tokens in train)  # fmt: skip


def test_settings_know_the_content_of_the_tokenizer(bpe):
  made, path, config = bpe
  digest = hashlib.sha256(made.content).hexdigest()
  assert config.tokenizer_sha256 == digest
  assert dataclasses.replace(config).tokenizer_sha256 == digest
  assert Config().tokenizer_sha256 == ""
  path.write_bytes(made.content + b"\n")
  with pytest.raises(ValueError) as error:
    dataclasses.replace(config)  # as when the settings of a run are read back
  for part in (f"task.tokenizer='{path}' has sha256", "put the file back that",
               f"not task.tokenizer_sha256={digest}"):  # fmt: skip
    assert part in str(error.value)
  with pytest.raises(ValueError, match=r"'bytes' has sha256 \(none\), not"):
    Config(tokenizer_sha256=digest)
  path.unlink()
  with pytest.raises(ValueError, match="json' cannot be read .No such file"):
    dataclasses.replace(config)


def test_a_document_of_one_token(tmp_path, monkeypatch):
  """One byte, or one token of many bytes, has nothing to predict."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  for name in "abcd":
    (tmp_path / f"{name}.txt").write_text("whole" * 4)
  (tmp_path / "e.txt").write_text("whole")
  source = f"directory:{tmp_path}"
  Task(Config(source=source), 0)
  path = tmp_path / "tokenizer.json"
  path.write_bytes(tokenizer.train(["whole whole"], 260).content)
  with pytest.raises(
    ValueError, match=r"e\.txt has 1 token\(s\) in 5 bytes, and nothing to pre"
  ):
    Task(Config(source=source, tokenizer=str(path)), 0)
  (tmp_path / "e.txt").write_text("w")
  with pytest.raises(ValueError, match=r"e\.txt has 1 token\(s\) in 1 bytes"):
    Task(Config(source=source), 0)
