"""Bytes as tokens: nothing to train, nothing unknown, any UTF-8 text."""

import numpy as np

VOCAB_SIZE = 256


def encode(text: str | bytes) -> np.ndarray:
  """The UTF-8 bytes of `text`: [length] uint8."""
  data = text.encode() if isinstance(text, str) else text
  return np.frombuffer(data, np.uint8)


def decode(tokens) -> str:
  """The text of `tokens` [length]; bytes that are no UTF-8 become U+FFFD.

  Raises:
    ValueError: a token outside 0 .. 255.
  """
  array = np.asarray(tokens)
  if array.size and not (0 <= array.min() and array.max() < VOCAB_SIZE):
    raise ValueError(
      f"tokens in {array.min()} .. {array.max()} must lie in 0 .. 255 (bytes)"
    )
  return array.astype(np.uint8).tobytes().decode(errors="replace")
