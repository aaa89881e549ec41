"""What a longer past is worth on real text, to a compressor.

    python benchmarks/headroom.py --out=results/headroom.json

Nats a byte of the first BYTES of each held-out document, when a repeat may be
found so many bytes back (zlib to 32768, lzma to 65536). A compressor predicts
nothing but repeats, which is what a memory of far pairs is for: its gain from
one reach to the next says how much of the text repeats from there. It is no
bound, since a model also learns what does not repeat verbatim.
"""

import argparse
import json
import lzma
import math
import pathlib
import zlib
from collections.abc import Sequence

from mattt_jax.data import sources
from mattt_jax.sweeps import rows as rows_lib

BYTES = 65536
CORPORA = {
  "standard library": ("stdlib", 32_768),
  "Pride and Prejudice": ("directory:data/books", 2),
}
ZLIB = (9, 10, 11, 12, 13, 14, 15)  # log2 of the reach
LZMA = (12, 15, 16)


def by_zlib(text: bytes, log2: int) -> int:
  """Bytes of `text`, compressed; a match is at most 2^log2 bytes back."""
  press = zlib.compressobj(9, zlib.DEFLATED, -log2, 9)
  return len(press.compress(text) + press.flush())


def by_lzma(text: bytes, log2: int) -> int:
  """The same, by LZMA2."""
  how = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << log2}
  return len(lzma.compress(text, lzma.FORMAT_RAW, filters=[how]))


def nats(texts: Sequence[bytes]) -> dict[str, dict[str, float]]:
  """Compressor -> reach in bytes -> nats a byte."""
  total = sum(map(len, texts))
  return {
    name: {
      str(1 << log2): 8 * math.log(2) * sum(f(t, log2) for t in texts) / total
      for log2 in reaches
    }
    for name, f, reaches in (("zlib", by_zlib, ZLIB), ("lzma", by_lzma, LZMA))
  }


def main() -> None:
  """Reads, compresses, writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  out = parser.parse_args().out
  rows = {}
  for name, (source, least) in CORPORA.items():
    documents = sources.load(source, min_bytes=least)["test"]
    texts = [document.text[:BYTES] for document in documents]
    rows[name] = {"bytes": sum(map(len, texts)), **nats(texts)}
    print(name, rows[name])
  found = {"commit": rows_lib.commit(), "corpora": rows}
  out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
