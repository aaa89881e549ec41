import numpy as np
import pytest

from mattt_jax.data import tokenizer


@pytest.mark.parametrize("text", ["", "plain", "naïve \U0001f9e0\n\0", "日本"])
def test_round_trip(text):
  tokens = tokenizer.encode(text)
  assert tokens.dtype == np.uint8
  assert tokens.tolist() == list(text.encode())
  np.testing.assert_array_equal(tokens, tokenizer.encode(text.encode()))
  assert tokenizer.decode(tokens) == text
  assert tokenizer.decode(tokens.astype(np.int32)) == text
  assert tokenizer.decode(tokens.tolist()) == text


def test_a_cut_character_is_replaced():
  assert tokenizer.decode(tokenizer.encode("aé")[:2]) == "a\ufffd"


@pytest.mark.parametrize("token", [-1, 256])
def test_no_byte(token):
  with pytest.raises(ValueError, match=f"{token} must lie in 0 .. 255"):
    tokenizer.decode([token])
