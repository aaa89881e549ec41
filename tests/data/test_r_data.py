"""R's lazy-load data, on files that the test writes as R does."""

import gzip
import struct
import zlib

import pytest

from mattt_jax.data import r_data

ASCII, UTF8, LATIN1 = 1 << 18, 1 << 15, 1 << 14
HEADER = b"X\n" + struct.pack(">3i", 3, 0x040201, 0x030500)
HEADER += struct.pack(">i", 5) + b"UTF-8"


def i(*numbers):
  return struct.pack(f">{len(numbers)}i", *numbers)


def chars(text, flag=ASCII):
  raw = text.encode("latin-1" if flag == LATIN1 else "utf-8")
  return i(9 | flag, len(raw)) + raw


def strings(*texts, flag=ASCII):
  return i(16, len(texts)) + b"".join(chars(t, flag) for t in texts)


NIL = i(254)
MISSING = i(9, -1)


def named(values, names, symbol):
  """A list with names; `symbol` says "names", or refers to it."""
  return (
    i(19 | 512, len(values)) + b"".join(values)
    + i(2 | 1024) + symbol + strings(*names) + NIL
  )  # fmt: skip


SYMBOL = i(1) + chars("names")
REFERENCE = i(255 | 1 << 8)  # to the first symbol


def files(objects, compressed=1, version=3):
  """The .rdx and .rdb of {name: serialised object}."""
  data, places = b"", []
  for content in objects.values():
    content = HEADER + content
    packed = i(len(content)) + zlib.compress(content)
    places.append(i(13, 2, len(data), len(packed)))
    data += packed
  header = HEADER if version == 3 else HEADER[:2] + i(2, 0x040201, 0x020300)
  index = header + named(
    [named(places, objects, SYMBOL), named([], [], REFERENCE),
     i(10, 1, compressed)],
    ["variables", "references", "compressed"], REFERENCE,
  )  # fmt: skip
  return gzip.compress(index), data


@pytest.mark.parametrize("version", [2, 3])
def test_vectors_of_strings(version):
  index, data = files(
    {
      "emma": strings("EMMA", "", "By Jane Austen"),
      "latin": strings("café £", flag=LATIN1),
      "utf8": strings("naïve 日本", flag=UTF8),
      "missing": i(16, 2) + chars("a") + MISSING,
      "none": i(16, 0),
    },
    version=version,
  )
  assert r_data.read_lazy_load(index, data) == {
    "emma": ["EMMA", "", "By Jane Austen"],
    "latin": ["café £"],
    "utf8": ["naïve 日本"],
    "missing": ["a", None],
    "none": [],
  }


def test_what_is_not_such_data_is_refused():
  index, data = files({"emma": strings("EMMA", "By")})
  cases = {
    "not gzip": (b"index", data),
    "an index cut short": (index[:-20], data),
    "not R": (gzip.compress(b"RDX3 and so on"), data),
    "no variables": (gzip.compress(HEADER + named([], [], SYMBOL)), data),
    "data cut short": (index, data[:-3]),
    "changed data": (index, data[:10] + b"\0\0\0" + data[13:]),
    "another size": (index, i(7) + data[4:]),
    "bzip2": files({"emma": strings("EMMA")}, compressed=2),
    "a function": files({"emma": i(3, 0)}),
    "a string cut short": files({"emma": i(16, 1, 9, 99) + b"EMMA"}),
  }
  for name, (index, data) in cases.items():
    with pytest.raises(ValueError):
      r_data.read_lazy_load(index, data)
      pytest.fail(name)
