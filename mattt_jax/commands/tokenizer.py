"""Trains a tokenizer (byte-level BPE) on texts."""

import pathlib

from absl import flags

from mattt_jax.commands import launch
from mattt_jax.data import tokenizer


def _define(values: flags.FlagValues) -> None:
  launch.strings(
    values,
    source="texts, as task.source: its training documents are read",
    out="the new file",
  )
  vocab = "number of tokens, 256 for the bytes among them"
  launch.integers(values, 1024, vocab=vocab)


def _run(values: flags.FlagValues, action: str) -> None:
  if action != "train":
    raise launch.UsageError(f"unknown action {action!r}: use train")
  source = launch.required(values, "source", "directory:texts")
  out = pathlib.Path(launch.required(values, "out", "tokenizer.json"))
  trained = tokenizer.train_file(source, values.vocab, out)
  print(f"{trained.vocab_size} tokens, written to {out}")
  print(f"Use it with --config.task.tokenizer={out}")


COMMAND = launch.Command(
  example="train --source=directory:data/books --vocab=1024 "
  "--out=data/books.json",
  run=_run,
  define=_define,
  words=("ACTION",),
)
