"""Text to token ids and back: bytes, or a tokenizer's file.

    bytes   every UTF-8 byte a token: nothing to train, nothing unknown
    a path  a `tokenizers` file (tokenizer.json) or a SentencePiece model

A file's own templates, special tokens, padding and truncation are left out.
SentencePiece models often change spaces and line ends; bytes keep all text.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.data import sources

BYTES = "bytes"
_MIN_DOCUMENT_BYTES = 32_768  # of "stdlib" and "tfds:", to train on


class Tokenizer(Protocol):
  """A text as token ids, and back."""

  vocab_size: int
  content: bytes  # of the file; b"" if there is none

  def encode(self, text: str | bytes) -> np.ndarray:
    """The tokens of `text`: [length], the smallest unsigned type that fits.

    Raises:
      ValueError: bytes that are not UTF-8 (only "bytes" takes any).
    """

  def decode(self, tokens: Any) -> str:
    """The text of `tokens` [length]; bytes that are no UTF-8 become U+FFFD.

    Raises:
      ValueError: a token outside 0 .. vocab_size - 1.
    """

  def starts(self, text: str) -> np.ndarray:
    """The character at which each token of `text` starts: [length] int64,
    ascending; equal for tokens that are bytes of one character."""


class Bytes:
  """The bytes of the text, whatever they are."""

  vocab_size = 256
  content = b""

  def encode(self, text: str | bytes) -> np.ndarray:
    data = text.encode() if isinstance(text, str) else text
    return np.frombuffer(data, np.uint8)

  def decode(self, tokens: Any) -> str:
    array = _checked(tokens, self.vocab_size)
    return array.astype(np.uint8).tobytes().decode(errors="replace")

  def starts(self, text: str) -> np.ndarray:
    continues = self.encode(text) >> 6 == 0b10  # in UTF-8
    return np.cumsum(~continues) - 1


class HuggingFace:
  """A tokenizer.json, read by the library `tokenizers`."""

  def __init__(self, content: bytes):
    import tokenizers

    self.content = content
    self._model = tokenizers.Tokenizer.from_str(content.decode())
    self._model.no_truncation()
    self._model.no_padding()
    # Not the number of entries: some files leave ids out.
    self.vocab_size = 1 + max(self._model.get_vocab().values())

  def encode(self, text: str | bytes) -> np.ndarray:
    encoding = self._model.encode(_text(text), add_special_tokens=False)
    return np.array(encoding.ids, np.min_scalar_type(self.vocab_size - 1))

  def decode(self, tokens: Any) -> str:
    ids = _checked(tokens, self.vocab_size).tolist()
    return self._model.decode(ids, skip_special_tokens=False)

  def starts(self, text: str) -> np.ndarray:
    encoding = self._model.encode(text, add_special_tokens=False)
    return np.array([start for start, _ in encoding.offsets], np.int64)


class SentencePiece:
  """A SentencePiece model, read by the library `sentencepiece`."""

  def __init__(self, content: bytes):
    import sentencepiece

    self.content = content
    self._model = sentencepiece.SentencePieceProcessor()
    self._model.LoadFromSerializedProto(content)
    self.vocab_size = self._model.GetPieceSize()

  def encode(self, text: str | bytes) -> np.ndarray:
    ids = self._model.EncodeAsIds(_text(text))
    return np.array(ids, np.min_scalar_type(self.vocab_size - 1))

  def decode(self, tokens: Any) -> str:
    return self._model.DecodeIds(_checked(tokens, self.vocab_size).tolist())

  def starts(self, text: str) -> np.ndarray:
    offsets = self._model.EncodeAsOffsetMapping(text)["offsets"]
    return np.array([start for start, _ in offsets], np.int64)


def load(name: str) -> Tokenizer:
  """The tokenizer that `task.tokenizer` names.

  Raises:
    ValueError: no such file, not a tokenizer, or its library is missing.
  """
  if name == BYTES:
    return Bytes()
  content = _read(name)
  json = content.lstrip()[:1] == b"{"
  try:
    return HuggingFace(content) if json else SentencePiece(content)
  except ImportError as error:
    raise ValueError(
      f"task.tokenizer={name!r} needs the package {error.name}: "
      "pip install 'mattt-jax[tokenizers]'"
    ) from error
  except Exception as error:  # the libraries raise plain ones
    raise ValueError(
      f"task.tokenizer={name!r} is no tokenizer.json or SentencePiece model "
      f"({' '.join(str(error).split())}): name one of these, or 'bytes'"
    ) from error


def token_at(starts: np.ndarray, character: np.ndarray | int) -> np.ndarray:
  """The first token that holds each character (any shape) of a text; `starts`
  [length]: `Tokenizer.starts`. A word's token often starts at the space before.
  """
  token = np.searchsorted(starts, character)
  return token - (starts[np.minimum(token, len(starts) - 1)] != character)


def sha256(name: str) -> str:
  """The checksum of a tokenizer's file; "" of "bytes".

  Raises:
    ValueError: no such file.
  """
  return "" if name == BYTES else hashlib.sha256(_read(name)).hexdigest()


def train(texts: Iterable[str], vocab_size: int) -> HuggingFace:
  """A byte-level BPE of `texts`: no text is unknown to it, or changed by it.

  Raises:
    ValueError: too few texts for so many tokens, or `tokenizers` is missing.
  """
  require_at_least("vocab", vocab_size, 256)
  try:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
  except ImportError as error:
    raise ValueError(
      "training a tokenizer needs the package tokenizers: "
      "pip install 'mattt-jax[tokenizers]'"
    ) from error
  model = Tokenizer(models.BPE())
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  model.train_from_iterator(texts, trainer)
  tokenizer = HuggingFace(model.to_str(pretty=True).encode())
  require(
    tokenizer.vocab_size == vocab_size,
    f"vocab={vocab_size}: the texts give only {tokenizer.vocab_size} tokens: "
    "use that many, or more text",
  )
  return tokenizer


def train_file(source: str, vocab_size: int, out: Path) -> HuggingFace:
  """Trains on the training documents of `source`; writes a tokenizer.json.

  It does not read held-out documents, whose words are thus new to a model.

  Raises:
    ValueError: `out` is there already, or as `train` and `sources.load`.
  """
  require(
    not out.exists(),
    f"{out} is there already, and runs may use it: name another file",
  )
  documents = sources.load(source, min_bytes=_MIN_DOCUMENT_BYTES)["train"]
  tokenizer = train((d.text.decode() for d in documents), vocab_size)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_bytes(tokenizer.content)
  return tokenizer


def _read(name: str) -> bytes:
  try:
    return Path(name).expanduser().read_bytes()
  except OSError as error:
    raise ValueError(
      f"task.tokenizer={name!r} cannot be read ({error.strerror}): use 'bytes' "
      "or the path of a tokenizer's file (a run keeps a copy of its own in its "
      "work directory, to put back)"
    ) from error


def _text(text: str | bytes) -> str:
  return text if isinstance(text, str) else text.decode()


def _checked(tokens: Any, vocab_size: int) -> np.ndarray:
  array = np.asarray(tokens)
  if array.size and not (0 <= array.min() and array.max() < vocab_size):
    raise ValueError(
      f"tokens in {array.min()} .. {array.max()} must lie in 0 .. "
      f"{vocab_size - 1}"
    )
  return array
