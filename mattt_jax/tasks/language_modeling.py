"""Language modelling: the next byte of long documents of real text.

Training reads windows at random places of the training documents; tune and
test read each held-out document from its beginning. Tokens are UTF-8 bytes.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.data import sources, tokenizer
from mattt_jax.tasks import base

if TYPE_CHECKING:
  from mattt_jax.config import Experiment


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; data/sources.py says what a `source` is."""

  source: str = "stdlib"  # or "directory:PATH", "tfds:NAME"
  min_document_bytes: int = 32_768  # shorter ones of stdlib, tfds are left out
  text_key: str = "text"  # the text feature of a tfds data set

  def __post_init__(self):
    require_at_least("task.min_document_bytes", self.min_document_bytes, 2)

  def check(self, experiment: "Experiment") -> None:
    """Raises `ValueError` if files are missing, or shorter than one chunk."""
    sources.check(
      self.source, min_bytes=self.min_document_bytes, least=experiment.chunk
    )


class Task:
  """Windows of documents, which are read once and then held in memory.

  Raises:
    ValueError: what data/sources.py raises of a missing or bad source.
  """

  vocab_size = tokenizer.VOCAB_SIZE

  def __init__(self, config: Config, seed: int):
    self.config = config
    self.seed = seed
    documents = sources.load(
      config.source,
      min_bytes=config.min_document_bytes,
      text_key=config.text_key,
    )
    self._documents = {
      split: [(d.name, tokenizer.encode(d.text)) for d in documents[split]]
      for split in base.SPLITS
    }
    sizes = [len(tokens) for _, tokens in self._documents["train"]]
    self._ends = np.cumsum(sizes)  # of the training documents, in bytes

  def size(self, split: str, length: int) -> int | None:
    """Number of held-out documents; None (endless) for train."""
    base.require_split(split)
    return None if split == "train" else len(self._documents[split])

  def train_length(self, length: int, step: int) -> int:
    """Tokens of a training sequence: always `length`."""
    return length

  def document(self, split: str, index: int) -> tuple[str, np.ndarray]:
    """Name and tokens [size] uint8 of a whole document.

    Raises:
      ValueError: unknown split, or no such document.
    """
    base.require_split(split)
    documents = self._documents[split]
    require(
      0 <= index < len(documents),
      f"index={index} is no document of split={split!r}: it has "
      f"{len(documents)}, counted from 0",
    )
    return documents[index]

  def example(
    self, split: str, index: int, length: int, step: int | None = None
  ) -> base.Example:
    """Example `index` of `split`, `length` tokens.

    What lies beyond the end of a document is token 0 with weight 0.

    Raises:
      ValueError: unknown split, or no such held-out document.
    """
    start = 0
    if split == "train":
      rng = base.example_rng(self.seed, split, index)
      byte = rng.integers(self._ends[-1])  # long documents are drawn more often
      document = int(np.searchsorted(self._ends, byte, side="right"))
      _, tokens = self.document(split, document)
      start = int(rng.integers(max(1, len(tokens) - length)))
    else:
      _, tokens = self.document(split, index)
    piece = tokens[start : start + length + 1]
    seq = np.zeros(length + 1, np.int32)
    seq[: len(piece)] = piece
    weight = (np.arange(1, length + 1) < len(piece)).astype(np.float32)
    return {
      "tokens": seq[:-1],
      "targets": seq[1:],
      "inner_weight": weight,
      "outer_weight": weight.copy(),
      "answer": np.full(length, -1, np.int32),
      "distance": np.full(length, -1, np.int32),
      "relevant": np.zeros(length, bool),
    }
