"""Documents of a tfds data set (array_record), each read when it is asked for.

For a corpus that is larger than memory: only an index is held, 24 bytes a
document. One pass over the texts makes it; the cache keeps it until a file of
the data set has another size or time.
"""

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mattt_jax.config import require
from mattt_jax.data import cache, sources
from mattt_jax.data.splits import SPLITS

if TYPE_CHECKING:
  from mattt_jax.data.text_builder import Rows

_INDEX = 1  # its version
_COLUMNS = {"record": np.int64, "size": np.int64, "digest": np.uint64}


@dataclasses.dataclass(frozen=True, eq=False)
class Records(Sequence[sources.Document]):
  """The documents of a split, sorted by name; random access, of any thread."""

  rows: "Rows"
  record_N: np.ndarray  # [N] int64: which row each document is
  size_N: np.ndarray  # [N] int64, bytes
  digest_N: np.ndarray  # [N] uint64, of name and text

  def __len__(self) -> int:
    return len(self.record_N)

  def __getitem__(self, index):
    """Reads document `index`.

    Raises:
      ValueError: it cannot be read, or is not what it was in the index.
    """
    record = int(self.record_N[index])
    try:
      name, text = self.rows[record]
    except Exception as error:  # damage surfaces as almost any type
      raise ValueError(
        f"{self.rows.folder}: record {record} cannot be read "
        f"({type(error).__name__}: {error}): prepare the data set again"
      ) from error
    require(
      _digest(name, text) == self.digest_N[index],
      f"{self.rows.folder}: {name} is not the text that it was when this "
      "process began: prepare the data set again",
    )
    return sources.Document(name, text)

  def checksum(self) -> str:
    """A checksum of all documents, from the index alone."""
    return hashlib.sha256(self.digest_N.tobytes()).hexdigest()[:16]


def load(
  source: str, *, min_bytes: int, least: int = 1, text_key: str = "text"
) -> dict[str, Records]:
  """The documents of each split: arguments, documents and order are those of
  `sources.load`.

  Raises:
    ValueError: as `sources.load`; a missing file of the data set; "dialogue".
  """
  from mattt_jax.data import text_builder

  kind, name = sources.parse(source)
  require(
    kind != "dialogue",
    f"task.source={source!r} is not on disk: use task.in_memory=True",
  )
  if kind == "tfds":
    rows = text_builder.published(name, text_key)
    own, shortest = sources.PUBLISHED_SPLITS, max(min_bytes, least)
  else:
    folder = sources.array_records(source, min_bytes=min_bytes, least=least)
    rows = text_builder.prepared(folder)
    own, shortest = {split: split for split in SPLITS}, 1
  path = _index_path(rows, source, shortest)
  if not path.exists():
    _write(path, _index(rows, source, own, shortest))
  try:
    with np.load(path) as arrays:
      return {
        split: Records(rows, *(arrays[f"{split}_{key}"] for key in _COLUMNS))
        for split in SPLITS
      }
  except Exception as error:  # damage surfaces as almost any type
    raise ValueError(
      f"{path} is damaged ({type(error).__name__}: {error}): remove it"
    ) from error


def _index(
  rows: "Rows", source: str, own: Mapping[str, str], shortest: int
) -> dict[str, np.ndarray]:
  """Reads every record once: the arrays of each split, `SPLIT_NAME`."""
  index: dict[str, tuple[int, int, int]] = {}  # by name: record, size, digest
  numbers = tqdm(range(len(rows)), "index", unit=" documents", disable=None)
  for record in numbers:
    name, text = rows[record]
    if len(text) >= shortest:
      sources.require_utf8(text, name, source)
      index[name] = record, len(text), _digest(name, text)
  return {
    f"{split}_{key}": np.array([index[name][k] for name in sorted(names)], kind)
    for split, names in _deal(rows, source, own, index).items()
    for k, (key, kind) in enumerate(_COLUMNS.items())
  }


def _deal(rows, source, own, index) -> Mapping[str, Sequence[str]]:
  """The names of each split: its own, or by a hash of them."""
  dealt = {
    split: [name for name, row in index.items() if row[0] in rows.parts[part]]
    for split, part in own.items()
    if part in rows.parts
  }
  if all(dealt.get(split) for split in SPLITS):
    return dealt
  return sources.split_by_name(list(index), source)


def _index_path(rows: "Rows", source: str, shortest: int) -> Path:
  files = []
  for file in rows.files:
    try:
      stat = file.stat()
    except OSError as error:
      raise ValueError(
        f"task.source={source!r}: {file} of the data set cannot be read "
        f"({error.strerror}): put it back, or remove {rows.folder} and prepare "
        "it again"
      ) from error
    files.append((str(file), stat.length, stat.mtime))
  key = json.dumps([_INDEX, files, rows.text_key, shortest])
  digest = hashlib.sha256(key.encode()).hexdigest()[:16]
  return cache.home() / f"index-{digest}.npz"


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes aside, then renames: the index is whole or not there."""
  aside = path.with_name(f".index-{uuid.uuid4().hex}.npz")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(aside, **arrays)  # type: ignore[arg-type]
    os.replace(aside, path)
  except OSError as error:
    raise cache.not_writable(path.parent, error) from error
  finally:
    aside.unlink(missing_ok=True)


def _digest(name: str, text: bytes) -> int:
  content = hashlib.sha256(name.encode() + b"\0" + text).digest()
  return int.from_bytes(content[:8], "big")
