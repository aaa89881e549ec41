"""Sources against real files on disk."""

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mattt_jax.data import records, sources
from mattt_jax.data.splits import SPLITS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def library(tmp_path):
  """A directory of five texts, and of files that are no texts."""
  root = tmp_path / "library"
  (root / "sub" / ".hidden").mkdir(parents=True)
  for name in ("a.txt", "b.md", "sub/c.TXT", "sub/d.py", "e.txt"):
    (root / name).write_text(f"Text {name}: naïve. " * 20)
  (root / "image.png").write_bytes(b"\xff\xfe")
  (root / "sub" / ".hidden" / "x.txt").write_text("hidden")
  (root / ".y.txt").write_text("hidden")
  return root


def load(root, least=1):
  return sources.load(f"directory:{root}", min_bytes=10**9, least=least)


def test_directory_gives_every_text_once(library):
  splits = load(library)
  assert tuple(splits) == SPLITS and all(splits.values())
  found = {d.name: d.text for docs in splits.values() for d in docs}
  assert sum(map(len, splits.values())) == 5
  assert found == {
    name: (library / name).read_bytes()
    for name in ("a.txt", "b.md", "sub/c.TXT", "sub/d.py", "e.txt")
  }
  for docs in splits.values():
    assert [d.name for d in docs] == sorted(d.name for d in docs)


def test_prepared_once(library, cache, monkeypatch):
  first = load(library)
  (prepared,) = cache.iterdir()  # and nothing unfinished beside it
  assert list(prepared.rglob("*.array_record*"))
  monkeypatch.setattr(sources, "_prepare", None)  # not called again
  assert load(library) == first


def test_a_changed_file_is_prepared_anew(library):
  load(library)
  changed = "Other text. " * 30
  (library / "a.txt").write_text(changed)
  texts = {d.name: d.text for docs in load(library).values() for d in docs}
  assert texts["a.txt"] == changed.encode()


def test_same_size_and_new_time_is_prepared_anew(library):
  load(library)
  path = library / "a.txt"
  path.write_bytes(path.read_bytes().replace(b"Text", b"Word"))
  os.utime(path, ns=(0, 12345))
  texts = {d.name: d.text for docs in load(library).values() for d in docs}
  assert texts["a.txt"].startswith(b"Word")


def test_same_time_and_new_size_is_prepared_anew(library):
  path = library / "a.txt"
  os.utime(path, ns=(0, 12345))
  load(library)
  path.write_text("Word")
  os.utime(path, ns=(0, 12345))
  texts = {d.name: d.text for docs in load(library).values() for d in docs}
  assert texts["a.txt"] == b"Word"


def test_two_processes_prepare_at_once(library, cache):
  code = (
    "import sys; from mattt_jax.data import sources; d = sources.load("
    "sys.argv[1], min_bytes=1); "
    "print(sorted((s, x.name, len(x.text)) for s in d for x in d[s]))"
  )
  command = [sys.executable, "-c", code, f"directory:{library}"]
  runs = [
    subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(2)
  ]
  outputs = [run.communicate()[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0]
  expected = str(
    sorted(
      (s, d.name, len(d.text))
      for s, docs in load(library).items()
      for d in docs
    )
  )
  assert [out.strip() for out in outputs] == [expected] * 2
  assert len(list(cache.iterdir())) == 1


def test_another_process_was_first(library, cache, monkeypatch):
  """The copy that is there stays; the other is thrown away."""
  first = load(library)
  (target,) = cache.iterdir()
  before = target.stat().st_ino
  files = sources._files(f"directory:{library}", min_bytes=1, least=1)
  sources._prepare(files, f"directory:{library}", target)
  assert [p.name for p in cache.iterdir()] == [target.name]
  assert target.stat().st_ino == before
  assert load(library) == first


def test_a_failed_preparation_leaves_nothing(library, cache, monkeypatch):
  from mattt_jax.data import text_builder

  def fail(documents, data_dir):
    (data_dir / "half").write_text("half")
    raise RuntimeError("disk full")

  monkeypatch.setattr(text_builder, "write", fail)
  with pytest.raises(RuntimeError, match="disk full"):
    load(library)
  assert list(cache.iterdir()) == []


def test_stdlib_modules():
  splits = sources.load("stdlib", min_bytes=65_536)
  root = Path(sysconfig.get_path("stdlib"))
  documents = [d for docs in splits.values() for d in docs]
  names = {d.name for d in documents}
  assert len(names) == len(documents) > 20
  assert {"argparse.py", "asyncio/base_events.py"} <= names
  assert not any("test" in Path(n).parts for n in names)
  for d in documents:
    assert d.text == (root / d.name).read_bytes()
    assert len(d.text) >= 65_536
  assert all(splits[split] for split in SPLITS)


def test_split_shares_and_stability():
  names = [f"book-{i}.txt" for i in range(2000)]
  small = sources.split_by_name(names[:1000], "s")
  large = sources.split_by_name(names, "s")
  for split in SPLITS:
    assert set(small[split]) <= set(large[split])
  assert sum(map(len, large.values())) == 2000
  assert len(large["train"]) / 2000 == pytest.approx(0.8, abs=0.03)
  assert len(large["tune"]) / 2000 == pytest.approx(0.1, abs=0.02)
  # What `printf argparse.py | sha256sum | cut -c1-12` says, over 2^48.
  assert sources.uniform("argparse.py") == int("c93fa5724c1b", 16) / 2**48


@pytest.mark.parametrize("number", range(3, 12))
def test_few_documents_still_fill_every_split(number):
  for start in range(20):
    names = [f"{start + i}.txt" for i in range(number)]
    splits = sources.split_by_name(names, "s")
    assert all(splits[split] for split in SPLITS)
    assert sorted(n for docs in splits.values() for n in docs) == sorted(names)
    assert splits == sources.split_by_name(names[::-1], "s")


@pytest.mark.parametrize("low, high", [(0, 0.1), (0.1, 0.2), (0.9, 1)])
def test_documents_of_one_sort_still_fill_every_split(low, high):
  every = (f"{i}.txt" for i in range(10_000))
  names = [n for n in every if low <= sources.uniform(n) < high][:9]
  splits = sources.split_by_name(names, "s")
  assert all(splits[split] for split in SPLITS)
  assert sorted(n for docs in splits.values() for n in docs) == sorted(names)


def fails(root, *messages, least=1):
  """Both `check` and `load` name what is wrong."""
  source = f"directory:{root}"
  for call in (sources.check, sources.load):
    with pytest.raises(ValueError) as error:
      call(source, min_bytes=1, least=least)
    for message in (f"task.source={source!r}", *messages):
      assert message in str(error.value)


def test_missing_directory(tmp_path):
  fails(tmp_path / "none", "there is no directory")


def test_a_file_for_a_directory(library):
  fails(library / "a.txt", "is a file: give the directory it is in")


def test_no_text_files(tmp_path):
  (tmp_path / "image.png").write_bytes(b"1")
  fails(tmp_path, "no text files (*.txt, ")


def test_empty_file(library):
  (library / "b.md").write_text("")
  fails(library, f"{library}/b.md is empty: remove or fill it")


def test_short_file(library):
  (library / "b.md").write_text("short")
  fails(library, f"{library}/b.md has 5 bytes, shorter than", least=6)
  load(library, least=5)


def test_too_few_files(tmp_path):
  for name in ("a.txt", "b.txt"):
    (tmp_path / name).write_text("text")
  fails(tmp_path, "has 2 document(s)", "train, tune, test need one each")


def test_broken_link(library):
  (library / "link.txt").symlink_to(library / "gone")
  fails(library, f"cannot read {library}/link.txt: No such file")


def test_unreadable_directory(library, monkeypatch):
  scan = os.scandir

  def scandir(path):  # root may read anything, so the refusal is made up
    if str(path).endswith("sub"):
      raise PermissionError(13, "Permission denied", str(path))
    return scan(path)

  monkeypatch.setattr(os, "scandir", scandir)
  fails(library, f"cannot read {library}/sub: Permission denied")


def test_not_utf8(library, cache):
  (library / "b.md").write_bytes(b"caf\xe9 " * 30)
  with pytest.raises(
    ValueError, match=r"b\.md is not UTF-8 text \(byte 3.*--encoding=latin-1"
  ):
    load(library)
  assert not cache.exists()


def test_cache_that_cannot_be_written(library, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "file" / "cache"))
  with pytest.raises(ValueError, match="set MATTT_CACHE to a directory"):
    load(library)


@pytest.mark.parametrize(
  "source", ["", "books", "directory:", "tfds:", "stdlib:x", "/tmp"]
)
def test_unknown_source(source):
  with pytest.raises(ValueError, match="is not known: use 'stdlib', 'dia"):
    sources.check(source, min_bytes=1, least=1)


def test_huge_minimum_leaves_no_module():
  with pytest.raises(ValueError, match="use a smaller task.min_document_bytes"):
    sources.check("stdlib", min_bytes=10**9, least=1)


@pytest.fixture
def books(tmp_path, monkeypatch):
  """Prepares a tfds data set as a user would, and gives its source."""
  import tensorflow_datasets as tfds

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "mattt_books"
    VERSION = tfds.core.Version("1.0.0")
    sizes: dict[str, list[int]]

    def _info(self):
      text = tfds.features.Text
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({"title": text(), "book": text()}),
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split):
      for i, size in enumerate(self.sizes[split]):
        yield i, {"title": f"{split} {i}", "book": f"{split} book {i} " * size}

  def prepare(sizes):
    Builder.sizes = sizes
    builder = Builder(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    return "tfds:mattt_books"

  find = tfds.builder  # as if tmp_path were TFDS_DATA_DIR
  monkeypatch.setattr(
    tfds, "builder", lambda name, **kw: find(name, data_dir=tmp_path, **kw)
  )
  return prepare


def test_tfds_keeps_published_splits(books):
  source = books({"train": [9, 9, 1, 9], "validation": [9], "test": [9, 9]})
  splits = sources.load(source, min_bytes=50, text_key="book")
  counts = {split: len(docs) for split, docs in splits.items()}
  assert counts == {"train": 3, "tune": 1, "test": 2}
  assert splits["tune"][0].text == b"validation book 0 " * 9
  with pytest.raises(ValueError, match="use one of book, title"):
    sources.load(source, min_bytes=9, text_key="body")


def test_tfds_without_all_splits_is_dealt_by_document(books):
  splits = sources.load(books({"train": [9] * 6}), min_bytes=9, text_key="book")
  assert sum(map(len, splits.values())) == 6 and all(splits.values())


@pytest.mark.parametrize(
  "sizes",
  [{"train": [9, 9, 1, 9], "validation": [9], "test": [9, 9]},
   {"train": [9, 9, 1, 9], "validation": [1], "test": [9, 9]},
   {"train": [9] * 6}],
)  # fmt: skip
def test_tfds_record_by_record(books, sizes):
  """The same documents in the same splits, its own and dealt ones."""
  source = books(sizes)
  held = sources.load(source, min_bytes=50, text_key="book")
  found = records.load(source, min_bytes=50, text_key="book")
  for split, documents in found.items():
    assert tuple(documents) == held[split]
  with pytest.raises(ValueError, match="use one of book, title"):
    records.load(source, min_bytes=9, text_key="body")
  with pytest.raises(ValueError, match="has 0 document.s.: the splits"):
    records.load(source, min_bytes=10**6, text_key="book")
  # Another text feature is another index.
  assert records.load(source, min_bytes=1, text_key="book")
  titles = records.load(source, min_bytes=1, text_key="title")
  assert titles["train"][0].text in {f"train {n}".encode() for n in range(6)}


def test_tfds_that_is_not_utf8(monkeypatch):
  from mattt_jax.data import text_builder

  texts = [b"text" * 9, b"caf\xe9" * 9, b"more" * 9]
  rows = {"train": [(f"train/{i:08d}", text) for i, text in enumerate(texts)]}
  monkeypatch.setattr(text_builder, "published", lambda *args: None)
  monkeypatch.setattr(text_builder, "read", lambda _: rows)
  with pytest.raises(
    ValueError, match=r"train/00000001 is not UTF-8 text .byte 3"
  ):
    sources.load("tfds:books", min_bytes=9)


def test_records_that_are_not_utf8(library, monkeypatch):
  monkeypatch.setattr(sources, "require_utf8", lambda *_: None)
  (library / "b.md").write_bytes(b"caf\xe9 " * 30)
  sources.array_records(f"directory:{library}")  # as another program's
  monkeypatch.undo()
  monkeypatch.setenv("MATTT_CACHE", str(library.parent / "cache"))
  with pytest.raises(ValueError, match=r"b\.md is not UTF-8 text .byte 3"):
    records.load(f"directory:{library}", min_bytes=1)


def test_tfds_bad_names(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(ValueError, match="is no tfds data set"):
    sources.load("tfds:no_such_books", min_bytes=9)
  with pytest.raises(ValueError, match="download_and_prepare"):
    sources.load("tfds:tiny_shakespeare", min_bytes=9)


def test_dialogue_needs_no_files():
  sources.check("dialogue", min_bytes=1, least=1)
  found = sources.load("dialogue", min_bytes=10**9)
  assert tuple(found) == SPLITS and all(len(found[s]) > 1 for s in SPLITS)
  documents = sorted(
    (d for s in SPLITS for d in found[s]), key=lambda d: d.name
  )
  digest = hashlib.sha256(b"".join(d.text for d in documents)).hexdigest()
  assert digest.startswith("02e9adbf1244264d")  # the same on every machine
  with pytest.raises(ValueError, match="'dialogue:x' is not known: use"):
    sources.check("dialogue:x", min_bytes=1, least=1)
