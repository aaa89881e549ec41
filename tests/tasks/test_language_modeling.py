"""Language modelling on files that the test writes."""

import dataclasses
import hashlib
import time
import types

import numpy as np
import pytest

from mattt_jax.data import tokenizer
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks.language_modeling import Config, Task, repeats

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


def last_end(seq, at, ngram):
  """Where the n-gram that ends at `at` ended before, by looking everywhere."""
  wanted = seq[at - ngram + 1 : at + 1]
  for end in range(at - 1, ngram - 2, -1):
    if at >= ngram - 1 and seq[end - ngram + 1 : end + 1] == wanted:
      return end
  return None


def repeat_arrays(seq, ngram, beyond):
  """(answer, distance, relevant) of the targets of `seq`, by brute force."""
  answer, distance = [-1] * len(seq), [-1] * len(seq)
  relevant = [False] * len(seq)
  for at in range(1, len(seq)):
    end = last_end(seq, at, ngram)
    if end is not None and at - end > beyond:
      answer[at] = max(answer) + 1
      distance[at] = at - end
      relevant[end] = True
  return answer[1:], distance[1:], relevant[1:]


@pytest.mark.parametrize("ngram", [1, 2, 3, 5, 8, 300])
@pytest.mark.parametrize("letters", [1, 2, 40, 60_000])
def test_repeats_by_brute_force(ngram, letters):
  rng = np.random.default_rng(ngram)
  for size in (1, 2, 7, 150):
    seq = rng.integers(letters, size=size).astype(np.uint16)
    found = repeats(seq, ngram)
    for at in range(size):
      end = last_end(seq.tolist(), at, ngram)
      assert found[at] == (0 if end is None else at - end)


@pytest.mark.parametrize("ngram, beyond", [(1, 0), (2, 5), (4, 64), (5, 63)])
@pytest.mark.parametrize("split", SPLITS)
def test_distant_repeats_are_answers(texts, split, ngram, beyond):
  """Of what was read, from where reading starts; not of the padding."""
  config = dataclasses.replace(
    texts[1], repeat_ngram=ngram, repeat_beyond=beyond
  )
  plain, task = Task(texts[1], 0), Task(config, 0)
  for index, length in ((0, 200), (0, 3000)):
    example = task.example(split, index, length)
    real = int(example["inner_weight"].sum())
    seq = [example["tokens"][0], *example["targets"][:real]]
    rest = [[-1] * (length - real)] * 2 + [[False] * (length - real)]
    for key, values, filling in zip(
      ("answer", "distance", "relevant"),
      repeat_arrays(list(map(int, seq)), ngram, beyond), rest,
      strict=True,
    ):  # fmt: skip
      np.testing.assert_array_equal(example[key], values + filling)
    if beyond == 5:
      assert example["answer"].max() > 10
    before = plain.example(split, index, length)
    for key in ("tokens", "targets", "inner_weight", "outer_weight"):
      np.testing.assert_array_equal(example[key], before[key])


def test_a_megabyte_of_repeats_in_seconds():
  seq = np.random.default_rng(0).integers(4, size=10**6).astype(np.uint8)
  started = time.process_time()
  found = repeats(seq, 12)
  assert time.process_time() - started < 3
  # 4^12 = 16.8 million n-grams: of a million, some 2.9 % come again.
  assert 0.025 < (found > 0).mean() < 0.035


def test_repeats_that_are_not_asked_for_or_do_not_fit(texts):
  with pytest.raises(ValueError, match="task.repeat_beyond=9 is about repeats"):
    Config(repeat_beyond=9)
  for field in ("repeat_ngram", "repeat_beyond"):
    with pytest.raises(ValueError, match=f"task.{field}=-1 must be at least 0"):
      Config(**{"repeat_ngram": 1, field: -1})
  sizes = types.SimpleNamespace(chunk=8, lengths=[("length", 64)])
  config = dataclasses.replace(texts[1], repeat_ngram=4, repeat_beyond=60)
  config.check(sizes)
  with pytest.raises(ValueError, match="at least 65, but the longest is 64"):
    dataclasses.replace(config, repeat_beyond=61).check(sizes)
