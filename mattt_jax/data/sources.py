"""Documents of real text, split by document.

A source is named by a string:

    stdlib           every large module of the Python standard library
    dialogue         made-up talk of people (data/dialogue.py)
    directory:PATH   every text file below PATH, a document each
    tfds:NAME        a prepared tfds data set with a text feature

Files are written once, as a tfds data set of array_record files, to the cache
(data/cache.py), under a hash of their names, sizes and times, and read from
there. `load` holds all texts in memory; data/records.py reads them one by one.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mattt_jax.config import require
from mattt_jax.data import cache, dialogue
from mattt_jax.data.splits import SPLITS

SUFFIXES = (".txt", ".text", ".md", ".rst", ".tex", ".org", ".html", ".py")
# Tests, and text that is mostly tables or generated.
_STDLIB_WITHOUT = frozenset({
  "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib",
  "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo",
})  # fmt: skip
PUBLISHED_SPLITS = {"train": "train", "tune": "validation", "test": "test"}
_HELD_OUT_SHARE = 0.1  # of the documents, for each of tune and test
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Document:
  """A named text, UTF-8."""

  name: str
  text: bytes


@dataclasses.dataclass(frozen=True)
class File:
  """A text file of a source."""

  name: str  # relative, with forward slashes
  path: Path
  size: int  # bytes
  time: int  # of modification, nanoseconds


def check(source: str, *, min_bytes: int, least: int) -> None:
  """Raises the `ValueError` that `load` would, as to names and sizes of files;
  it reads no text, and nothing of "tfds:"."""
  kind, _ = parse(source)
  if kind in ("stdlib", "directory"):
    _files(source, min_bytes=min_bytes, least=least)


def load(
  source: str, *, min_bytes: int, least: int = 1, text_key: str = "text"
) -> dict[str, tuple[Document, ...]]:
  """The documents of each split, sorted by name.

  Args:
    source: as in the head of this file.
    min_bytes: shorter documents of "stdlib" and "tfds:" are left out.
    least: a shorter file of a directory is an error, bytes.
    text_key: the text feature of a tfds data set.

  Raises:
    ValueError: no such directory, no text in it, an empty or too short file, a
      file that is not UTF-8, fewer than three documents.
  """
  kind, name = parse(source)
  if kind == "tfds":
    parts = _published(source, name, text_key, max(min_bytes, least))
  elif kind == "dialogue":
    texts = {n: text.encode() for n, text in dialogue.documents().items()}
    parts = _deal(texts, source)
  else:
    folder = array_records(source, min_bytes=min_bytes, least=least)
    from mattt_jax.data import text_builder

    parts = text_builder.read(text_builder.prepared(folder))
  return {
    split: tuple(Document(*row) for row in sorted(parts[split]))
    for split in SPLITS
  }


def array_records(source: str, *, min_bytes: int = 1, least: int = 1) -> Path:
  """The folder of a "stdlib" or "directory:" source as a tfds data set, for
  `tfds.builder_from_directory`; makes it, one text at a time, if it is not
  there. Arguments and errors are those of `load`.
  """
  files = _files(source, min_bytes=min_bytes, least=least)
  listing = [(f.name, str(f.path.resolve()), f.size, f.time) for f in files]
  digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
  target = cache.home() / f"text-{digest}"
  if not target.exists():
    _prepare(files, source, target)
  from mattt_jax.data import text_builder

  return text_builder.folder(target)


def text_files(root: str) -> list[File]:
  """The files that the source "directory:`root`" reads, sorted by name.

  Raises:
    ValueError: as `check`.
  """
  return _files(f"directory:{root}", min_bytes=1, least=1)


def split_by_name(
  names: Sequence[str], source: str, share: float = _HELD_OUT_SHARE
) -> dict[str, list[str]]:
  """Deals documents to the splits by a hash of their names.

  About `share` goes to tune, and as much to test. A document's split does not
  depend on the others, but the nearest hashes fill one that would stay empty.

  Raises:
    ValueError: fewer than three documents.
  """
  number = len(names)
  require(
    number >= len(SPLITS),
    f"task.source={source!r} has {number} document(s): the splits "
    f"{', '.join(SPLITS)} need one each, add more",
  )
  ranked = sorted((uniform(name), name) for name in names)
  below = [sum(u < edge for u, _ in ranked) for edge in (share, 2 * share)]
  tune = min(max(below[0], 1), number - 2)
  test = min(max(below[1], tune + 1), number - 1)
  names = [name for _, name in ranked]
  return {"train": names[test:], "tune": names[:tune], "test": names[tune:test]}


def uniform(name: str) -> float:
  """A number in [0, 1) that depends on `name` alone, in every process."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:6], "big") / 2**48


def parse(source: str) -> tuple[str, str]:
  """Kind and name of a source; `ValueError` if it is not known."""
  kind, _, name = source.partition(":")
  require(
    source in ("stdlib", "dialogue")
    or (kind in ("directory", "tfds") and bool(name)),
    f"task.source={source!r} is not known: use 'stdlib', 'dialogue', "
    "'directory:PATH' or 'tfds:NAME'",
  )
  return kind, name


def _files(source: str, *, min_bytes: int, least: int) -> list[File]:
  """The files of a "stdlib" or "directory:" source, checked, by name."""
  kind, name = parse(source)
  if kind == "stdlib":
    root = Path(sysconfig.get_path("stdlib"))
    files = [
      f
      for f in _walk(root, (".py",), source, _STDLIB_WITHOUT)
      if f.size >= max(min_bytes, least)
      and not f.name.startswith("_sysconfigdata")  # holds the machine's paths
    ]
    require(
      bool(files),
      f"task.source='stdlib': no module of {max(min_bytes, least)} bytes in "
      f"{root}: use a smaller task.min_document_bytes or 'directory:PATH'",
    )
  else:
    root = Path(name).expanduser()
    require(
      root.exists(),
      f"task.source={source!r}: there is no directory {root}: give an "
      "existing directory of text files",
    )
    require(
      root.is_dir(),
      f"task.source={source!r}: {root} is a file: give the directory it is in",
    )
    files = list(_walk(root, SUFFIXES, source))
    require(
      bool(files),
      f"task.source={source!r}: no text files (*{', *'.join(SUFFIXES)}) in "
      f"{root}: add some",
    )
    for file in files:
      require(
        file.size > 0,
        f"task.source={source!r}: {file.path} is empty: remove or fill it",
      )
      require(
        file.size >= least,
        f"task.source={source!r}: {file.path} has {file.size} bytes, shorter "
        f"than one chunk ({least}): remove it or use a smaller chunk",
      )
  split_by_name([f.name for f in files], source)  # are there enough?
  return sorted(files, key=lambda f: f.name)


def _walk(root: Path, suffixes, source, without=frozenset()) -> Iterator[File]:
  """Finds all files with these suffixes below `root`, but no hidden ones."""

  def fail(error: OSError):
    raise _unreadable(error.filename, source, error) from error

  for folder, folders, names in os.walk(root, onerror=fail):
    folders[:] = [
      f for f in folders if f not in without and not f.startswith(".")
    ]
    for name in names:
      path = Path(folder, name)
      if name.startswith(".") or path.suffix.lower() not in suffixes:
        continue
      try:
        stat = path.stat()
      except OSError as error:
        fail(error)
      relative = path.relative_to(root).as_posix()
      yield File(relative, path, stat.st_size, stat.st_mtime_ns)


def _unreadable(file: str | Path, source: str, error: OSError) -> ValueError:
  return ValueError(
    f"task.source={source!r}: cannot read {file}: {error.strerror}: make it "
    "readable or remove it"
  )


def _prepare(files: list[File], source: str, target: Path) -> None:
  """Writes the data set of `files`."""
  for file in files:
    try:
      require_utf8(file.path.read_bytes(), str(file.path), source)
    except OSError as error:
      raise _unreadable(file.path, source, error) from error
  splits = _deal({file.name: file.path for file in files}, source)
  from mattt_jax.data import text_builder

  with cache.filled_aside(target) as aside:
    text_builder.write(splits, aside)


def require_utf8(text: bytes, name: str, source: str) -> None:
  """Raises `ValueError` unless `text` is UTF-8."""
  try:
    text.decode()
  except UnicodeDecodeError as error:
    raise ValueError(
      f"task.source={source!r}: {name} is not UTF-8 text (byte {error.start}: "
      f"{error.reason}): convert it (`mattt prepare texts DIR --from=PATH "
      "--encoding=latin-1` does) or remove it"
    ) from None


def _deal(
  documents: Mapping[str, _T], source: str
) -> dict[str, list[tuple[str, _T]]]:
  """Names and documents of each split, by `split_by_name`."""
  return {
    split: [(name, documents[name]) for name in names]
    for split, names in split_by_name(list(documents), source).items()
  }


def _published(
  source: str, name: str, text_key: str, least: int
) -> dict[str, list[tuple[str, bytes]]]:
  """The texts of a tfds data set, in its own splits if it has all three."""
  from mattt_jax.data import text_builder

  parts = text_builder.read(text_builder.published(name, text_key))
  own = {
    part: [row for row in rows if len(row[1]) >= least]
    for part, rows in parts.items()
  }
  texts = dict(itertools.chain(*own.values()))
  for document, text in texts.items():
    require_utf8(text, document, source)
  if all(own.get(part) for part in PUBLISHED_SPLITS.values()):
    return {split: own[part] for split, part in PUBLISHED_SPLITS.items()}
  return _deal(texts, source)
