"""Long documents of real text: what tasks that read them share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mattt_jax.config import Experiment, require, require_at_least
from mattt_jax.data import sources, splits, tokenizer
from mattt_jax.tasks import base


@dataclasses.dataclass(frozen=True)
class Tokenized:
  """Settings of what a token is; data/tokenizer.py has the tokenizers."""

  tokenizer: str = "bytes"  # or a path: tokenizer.json, SentencePiece model
  # Checksum of that file, filled in: a run and its checkpoints are bound to it.
  tokenizer_sha256: str = ""

  def __post_init__(self):
    actual = tokenizer.sha256(self.tokenizer)
    require(
      self.tokenizer_sha256 in ("", actual),
      f"task.tokenizer={self.tokenizer!r} has sha256 {actual or '(none)'}, not "
      f"task.tokenizer_sha256={self.tokenizer_sha256}: put the file back that "
      "it had; a run keeps a copy in its work directory, tokenizer",
    )
    object.__setattr__(self, "tokenizer_sha256", actual)


@dataclasses.dataclass(frozen=True)
class Config(Tokenized):
  """Settings, in addition to the tokenizer; data/sources.py has `source`."""

  source: str = "stdlib"  # or "dialogue", "directory:PATH", "tfds:NAME"
  min_document_bytes: int = 32_768  # shorter ones of stdlib, tfds are left out
  text_key: str = "text"  # the text feature of a tfds data set

  def __post_init__(self):
    require_at_least("task.min_document_bytes", self.min_document_bytes, 2)
    super().__post_init__()

  def check(self, experiment: Experiment) -> None:
    """Raises `ValueError` if files are missing, or shorter than one chunk."""
    sources.check(
      self.source, min_bytes=self.min_document_bytes, least=experiment.chunk
    )


Read = tuple[sources.Document, np.ndarray]  # a document and its tokens


class TextTask(base.BaseTask):
  """A task whose tokens are those of a text.

  Raises:
    ValueError: what data/tokenizer.py raises of a tokenizer.
  """

  def __init__(self, config: Any, seed: int):
    super().__init__(config, seed)
    self.tokenizer = tokenizer.load(config.tokenizer)
    self.vocab_size = self.tokenizer.vocab_size

  def _after_space(self, text: str) -> tuple[np.ndarray, int, str]:
    """Tokens of a space and `text`; which of them has the first character of
    `text`; and what that one says before it (a space, or nothing)."""
    said = f" {text}"
    starts = self.tokenizer.starts(said)
    first = int(tokenizer.token_at(starts, 1))
    return self.tokenizer.encode(said), first, said[starts[first] : 1]


class Task(TextTask):
  """Documents, read once and held in memory as texts and as tokens.

  Raises:
    ValueError: as `TextTask`; what data/sources.py raises of a source; a
      document without two tokens.
  """

  def __init__(self, config: Config, seed: int):
    super().__init__(config, seed)
    self._documents, sizes = self._open()
    self._ends = np.cumsum(sizes)  # of the training documents

  def _open(self) -> tuple[Mapping[str, Sequence[Read]], Sequence[int]]:
    """Documents of each split, and sizes of those of training, which are drawn
    in proportion to them."""
    c = self.config
    documents = sources.load(
      c.source, min_bytes=c.min_document_bytes, text_key=c.text_key
    )
    read = {
      split: [self._encode(document) for document in documents[split]]
      for split in splits.SPLITS
    }
    return read, [len(tokens) for _, tokens in read["train"]]

  def _encode(self, document: sources.Document) -> Read:
    tokens = self.tokenizer.encode(document.text)
    require(
      len(tokens) >= 2,
      f"task.source={self.config.source!r}: {document.name} has {len(tokens)} "
      f"token(s) in {len(document.text)} bytes, and nothing to predict: remove "
      "it or make it longer",
    )
    return document, tokens

  def contents(self) -> dict[str, str]:
    """A checksum of each document, by its name."""
    return {
      document.name: base.checksum(document.text)
      for documents in self._documents.values()
      for document, _ in documents
    }

  def document(self, split: str, index: int) -> tuple[str, np.ndarray]:
    """The name and the tokens, [size] unsigned, of a whole document.

    Raises:
      ValueError: unknown split, or no such document.
    """
    document, tokens = self._document(split, index)
    return document.name, tokens

  def _document(self, split: str, index: int) -> Read:
    splits.require_split(split)
    documents = self._documents[split]
    return base.at_index(documents, index, f"document of split={split!r}")

  def _train_window(self, index: int, length: int) -> tuple[int, int]:
    """The document and the start of training example `index`."""
    rng = base.example_rng(self.seed, "train", index)
    return self._draw_window(rng, length)

  def _draw_window(
    self, rng: np.random.Generator, length: int
  ) -> tuple[int, int]:
    """The document and the start of a random window of training."""
    place = rng.integers(self._ends[-1])  # long documents are drawn more
    document = int(np.searchsorted(self._ends, place, side="right"))
    _, tokens = self.document("train", document)
    return document, int(rng.integers(max(1, len(tokens) - length)))

  def _windows(self, split: str, length: int) -> list[tuple[int, int]]:
    """(start, document) of each held-out window."""
    return sorted(
      (start, document)
      for document, (_, tokens) in enumerate(self._documents[split])
      for start in range(0, len(tokens) - 1, length)
    )


class ReadWhenAsked(Sequence[Read]):
  """Documents read and encoded when due; the last `kept` stay in memory."""

  def __init__(
    self,
    documents: Sequence[sources.Document],
    encode: Callable[[sources.Document], Read],
    kept: int = 8,
  ):
    self._number = len(documents)
    self._read = functools.lru_cache(kept)(lambda i: encode(documents[i]))

  def __len__(self) -> int:
    return self._number

  def __getitem__(self, index):
    return self._read(index)
