"""Objects of R packages that are kept as lazy-load data: X.rdx and X.rdb.

The index (.rdx) is a gzipped R list; its `variables` give the (offset, length)
in bytes of each object in the data (.rdb): the unpacked size (4 bytes) and a
zlib stream. R writes objects as XDR ("R Internals", Serialization Formats).
"""

import gzip
import struct
import zlib
from typing import Any

_SYMBOL, _PAIRS, _CHARS, _LOGICAL, _INTEGER = 1, 2, 9, 10, 13
_STRINGS, _LIST, _NIL, _REFERENCE = 16, 19, 254, 255
_HAS_ATTRIBUTES, _HAS_TAG = 1 << 9, 1 << 10
_LATIN1 = 1 << (12 + 2)  # a bit of a string's flags; else UTF-8 or ASCII


def read_lazy_load(index: bytes, data: bytes) -> dict[str, Any]:
  """The objects of an .rdx file and its .rdb file, by name.

  Vectors become lists (with names: dicts), missing strings None.

  Raises:
    ValueError: not such files, or an object that holds more than strings,
      whole numbers and lists of them.
  """
  try:
    entries = _read(gzip.decompress(index))
    if entries["compressed"] != [1]:
      raise ValueError("the objects are not compressed by zlib")
    objects = {}
    for name, (offset, length) in entries["variables"].items():
      packed = data[offset : offset + length]
      content = zlib.decompress(packed[4:])
      if len(packed) != length or len(content) != _integer(packed, 0):
        raise ValueError(f"{name} is cut short")
      objects[name] = _read(content)
  except (OSError, EOFError, zlib.error, struct.error, LookupError,
          TypeError, AttributeError) as error:  # fmt: skip
    raise ValueError(
      f"no lazy-load data of R: {type(error).__name__}: {error}"
    ) from error
  return objects


def _integer(data: bytes, at: int) -> int:
  return struct.unpack_from(">i", data, at)[0]


def _read(data: bytes) -> Any:
  """The object of one serialised stream."""
  if data[:2] != b"X\n":
    raise ValueError("the objects are not serialised as XDR")
  # Three versions follow; from format 3 on also the name of the encoding.
  name = 4 + _integer(data, 14) if _integer(data, 2) >= 3 else 0
  return _Reader(data, 14 + name).item()


class _Reader:
  def __init__(self, data: bytes, at: int):
    self._data, self._at = data, at
    self._symbols: list[str] = []  # met so far; a reference counts from 1

  def _next(self) -> int:
    value = _integer(self._data, self._at)
    self._at += 4
    return value

  def item(self) -> Any:
    flags = self._next()
    kind = flags & 0xFF
    if kind == _NIL:
      return None
    if kind == _REFERENCE:
      return self._symbols[(flags >> 8) - 1]
    if kind == _SYMBOL:
      self._symbols.append(self.item())
      return self._symbols[-1]
    if kind == _CHARS:
      return self._chars(flags)
    if kind == _PAIRS:  # a linked list of values with tags: attributes
      if flags & _HAS_ATTRIBUTES:
        self.item()
      tag = self.item() if flags & _HAS_TAG else None
      value = self.item()
      return {tag: value, **(self.item() or {})}
    if kind in (_STRINGS, _LIST):
      values = [self.item() for _ in range(self._next())]
    elif kind in (_INTEGER, _LOGICAL):
      values = [self._next() for _ in range(self._next())]
    else:
      raise ValueError(f"objects of R's type {kind} are not read")
    attributes = self.item() if flags & _HAS_ATTRIBUTES else None
    names = (attributes or {}).get("names")
    return values if names is None else dict(zip(names, values, strict=True))

  def _chars(self, flags: int) -> str | None:
    length = self._next()
    if length == -1:
      return None
    text = self._data[self._at : self._at + length]
    self._at += length
    if len(text) != length:
      raise ValueError("a string is cut short")
    return text.decode("latin-1" if flags & _LATIN1 else "utf-8")
