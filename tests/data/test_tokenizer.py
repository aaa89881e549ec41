"""Tokenizers: bytes, and small ones that the tests train with the libraries."""

import io
import sys

import numpy as np
import pytest

from mattt_jax.data import sources, tokenizer

TEXTS = [
  "the cat sat on the mat, the cat; naïve \U0001f9e0\n\n\ttabs  too\n"
] * 9
ODD = ["", "plain", "naïve \U0001f9e0\n\0", "日本", "  two  spaces \r\n"]


@pytest.fixture(scope="module")
def bpe():
  return tokenizer.train(TEXTS, 280)


@pytest.fixture(scope="module")
def piece():
  """The content of a SentencePiece model with byte fallback."""
  import sentencepiece

  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 9), model_writer=out, vocab_size=290,
    model_type="bpe", byte_fallback=True, minloglevel=2,
    normalization_rule_name="identity", remove_extra_whitespaces=False,
    user_defined_symbols=["\n", "\t"],
  )  # fmt: skip
  return out.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_bytes_round_trip(text):
  made = tokenizer.load("bytes")
  tokens = made.encode(text)
  assert tokens.dtype == np.uint8
  assert tokens.tolist() == list(text.encode())
  np.testing.assert_array_equal(tokens, made.encode(text.encode()))
  assert made.decode(tokens) == text
  assert made.decode(tokens.astype(np.int32)) == text
  assert made.decode(tokens.tolist()) == text
  assert (made.vocab_size, made.content) == (256, b"")


def test_bytes_that_are_no_text():
  """Tokens like any others; in text they are U+FFFD, as is a cut character."""
  made = tokenizer.Bytes()
  assert made.encode(b"a\xff\xfe").tolist() == [97, 255, 254]
  assert made.decode([97, 255, 254]) == "a\ufffd\ufffd"
  assert made.decode(made.encode("aé")[:2]) == "a\ufffd"


@pytest.mark.parametrize("text", [*ODD, TEXTS[0]])
def test_bpe_round_trip(bpe, text):
  tokens = bpe.encode(text)
  assert tokens.dtype == np.uint16
  assert len(tokens) <= len(text.encode())
  np.testing.assert_array_equal(tokens, bpe.encode(text.encode()))
  assert bpe.decode(tokens) == text
  assert bpe.decode(tokens.tolist()) == text


def test_bpe_of_texts(bpe):
  assert bpe.vocab_size == 280
  assert len(bpe.encode(TEXTS[0])) < 0.8 * len(TEXTS[0].encode())
  assert tokenizer.train(TEXTS, 280).content == bpe.content
  assert bpe.decode(bpe.encode("é")[:1]) == "\ufffd"  # half of a character


def test_bytes_that_are_no_text_have_no_other_tokens(bpe, piece):
  for made in (bpe, tokenizer.SentencePiece(piece)):
    with pytest.raises(
      ValueError, match="can't decode byte 0xff in position 1"
    ):
      made.encode(b"a\xff")


def test_sentencepiece(tmp_path, piece):
  path = tmp_path / "model"
  path.write_bytes(piece)
  made = tokenizer.load(str(path))
  assert isinstance(made, tokenizer.SentencePiece)
  assert (made.vocab_size, made.content) == (290, piece)
  for text in (TEXTS[0], "日本 cat", "mat  mat"):
    tokens = made.encode(text)
    assert tokens.dtype == np.uint16 and tokens.ndim == 1
    assert made.decode(tokens) == made.decode(tokens.tolist()) == text


@pytest.mark.parametrize("text", [*ODD, *TEXTS[:1], "é\n met Él; \U0001f9e0é"])
def test_where_tokens_start(bpe, piece, text):
  """What lies from one start to the next is in the token, spaces apart."""
  models = tokenizer.Bytes(), bpe, tokenizer.SentencePiece(piece)
  for made in models:
    tokens, starts = made.encode(text), made.starts(text)
    assert starts.shape == tokens.shape and starts.dtype == np.int64
    stops = [*starts, len(text)][1:]
    assert (np.diff([0, *starts, len(text)]) >= 0).all()
    for token, start, stop in zip(tokens, starts, stops, strict=True):
      said, there = made.decode([token]).strip(" "), text[start:stop].strip(" ")
      # A part of a character says nothing alone.
      assert "\ufffd" in said or said == there, (token, start)


def test_the_token_of_a_character():
  starts = np.array([0, 0, 1, 4, 4, 9])  # of ten characters
  found = tokenizer.token_at(starts, np.arange(10)).tolist()
  assert found == [0, 2, 2, 2, 3, 4, 4, 4, 4, 5]
  assert tokenizer.token_at(starts, 12) == 5


def test_a_huggingface_file(tmp_path, bpe):
  path = tmp_path / "any.name"
  path.write_bytes(bpe.content)
  made = tokenizer.load(str(path))
  assert isinstance(made, tokenizer.HuggingFace)
  assert made.content == bpe.content and made.vocab_size == 280
  np.testing.assert_array_equal(made.encode(TEXTS[0]), bpe.encode(TEXTS[0]))


def test_what_a_file_adds_or_cuts_is_left_out(bpe):
  """A document is the tokens of its text."""
  import tokenizers

  model = tokenizers.Tokenizer.from_str(bpe.content.decode())
  model.add_special_tokens(["<s>"])
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 280)]
  )
  model.enable_truncation(4)
  model.enable_padding(length=500)
  made = tokenizer.HuggingFace(model.to_str().encode())
  np.testing.assert_array_equal(made.encode(TEXTS[0]), bpe.encode(TEXTS[0]))
  assert made.vocab_size == 281
  assert made.decode([280]) == "<s>"


def test_ids_may_have_gaps():
  import tokenizers

  model = tokenizers.models.WordLevel({"a": 0, "[UNK]": 7}, unk_token="[UNK]")
  model = tokenizers.Tokenizer(model)
  made = tokenizer.HuggingFace(model.to_str().encode())
  assert made.vocab_size == 8
  assert made.encode("b").tolist() == [7]


@pytest.mark.parametrize("token", [-1, 256, 280, 290])
def test_no_token(token, bpe, piece):
  for made in (tokenizer.Bytes(), bpe, tokenizer.SentencePiece(piece)):
    if not 0 <= token < made.vocab_size:
      last = made.vocab_size - 1
      with pytest.raises(
        ValueError, match=rf"{token} must lie in 0 \.\. {last}"
      ):
        made.decode([token])


@pytest.mark.parametrize("content", [b"", b"text", b"{}", b"\0" * 99, b"{" * 9])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
  path = tmp_path / "file"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="file' is no tokenizer.json or Sent"):
    tokenizer.load(str(path))


def test_a_missing_file(tmp_path):
  for call in (tokenizer.load, tokenizer.sha256):
    with pytest.raises(ValueError, match=r"absent' cannot be read \(No such"):
      call(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="cannot be read .Is a directory"):
      call(str(tmp_path))


@pytest.mark.parametrize("library", ["tokenizers", "sentencepiece"])
def test_a_missing_library(tmp_path, monkeypatch, bpe, piece, library):
  path = tmp_path / "file"
  path.write_bytes(bpe.content if library == "tokenizers" else piece)
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(ValueError, match=rf"{library}: pip install 'mattt-jax\["):
    tokenizer.load(str(path))
  if library == "tokenizers":
    with pytest.raises(ValueError, match=r"pip install 'mattt-jax\[tokenizers"):
      tokenizer.train(TEXTS, 280)


def test_sizes_of_a_vocabulary():
  with pytest.raises(ValueError, match="vocab=255 must be at least 256"):
    tokenizer.train(TEXTS, 255)
  with pytest.raises(ValueError, match=r"vocab=9999: the texts give only \d+ "):
    tokenizer.train(TEXTS, 9999)


def test_a_file_is_trained_on_the_training_documents(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  root = tmp_path / "texts"
  root.mkdir()
  for name in "abcdefgh":
    (root / f"{name}.txt").write_text(f"{name * 9} of {name * 9}\n" * 99)
  out = tmp_path / "new" / "tokenizer.json"
  made = tokenizer.train_file(f"directory:{root}", 270, out)
  assert tokenizer.load(str(out)).content == made.content == out.read_bytes()
  splits = sources.load(f"directory:{root}", min_bytes=1)
  for split, documents in splits.items():
    for document in documents:
      known = len(made.encode(document.text[:9])) < 9
      assert known == (split == "train"), document.name
  with pytest.raises(ValueError, match="is there already, and runs may use it"):
    tokenizer.train_file(f"directory:{root}", 270, out)
