"""Runs the generators of nvidia-long-context-eval, without what they import.

The package wants a tokenizer, wonderwords and nltk, of which the templates
depend on none: stand-ins take their places, so that the wheel alone is enough
(`pip install --no-deps nvidia-long-context-eval`, or unpacked on PYTHONPATH).

    python tests/data/ruler_package.py tests/golden/ruler.jsonl

writes the golden sample: every task with the noise for a haystack (the essays
are copyrighted), and the scores of a few predictions.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import random
import re
import runpy
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np

from mattt_jax.data import _ruler_items

NAME = "long_context_eval"
SCRIPTS = {
  "niah": "niah", "variable_tracking": "vt", "common_words_extraction": "cwe",
  "freq_words_extraction": "fwe",
}  # fmt: skip
# As in its synthetic.yaml: haystack, keys, values, queries, kinds of these.
NEEDLES = {
  "niah_single_1": ("repeat", 1, 1, 1, "words", "numbers"),
  "niah_single_2": ("essay", 1, 1, 1, "words", "numbers"),
  "niah_single_3": ("essay", 1, 1, 1, "words", "uuids"),
  "niah_multikey_1": ("essay", 4, 1, 1, "words", "numbers"),
  "niah_multikey_2": ("needle", 1, 1, 1, "words", "numbers"),
  "niah_multikey_3": ("needle", 1, 1, 1, "uuids", "uuids"),
  "niah_multivalue": ("essay", 1, 4, 1, "words", "numbers"),
  "niah_multiquery": ("essay", 1, 1, 4, "words", "numbers"),
}
OPTIONS = ("type_haystack", "num_needle_k", "num_needle_v", "num_needle_q",
           "type_needle_k", "type_needle_v")  # fmt: skip


def importable():
  return importlib.util.find_spec(NAME) is not None


def generate(kind, length, haystack=None, samples=2, seed=42):
  """Rows of the package's jsonl of a task; `length` in words and signs."""
  script = "niah" if kind in NEEDLES else next(
    s for s, k in SCRIPTS.items() if k == kind
  )  # fmt: skip
  folder = Path(importlib.import_module(f"{NAME}.data").__file__).parent
  task = importlib.import_module(f"{NAME}.data.synthetic.constants").TASKS[
    script
  ]
  with tempfile.TemporaryDirectory() as out:
    arguments = {
      "save_dir": out, "save_name": kind, "tokenizer_path": "x",
      "max_seq_length": length, "num_samples": samples, "random_seed": seed,
      "tokens_to_generate": 32, "template": task["template"]
      + task["answer_prefix"],
    }  # fmt: skip
    if kind in NEEDLES:
      arguments |= dict(zip(OPTIONS, NEEDLES[kind], strict=True))
      arguments["type_haystack"] = haystack or arguments["type_haystack"]
    path = folder / "synthetic" / f"{script}.py"
    argv = [str(path), *(f"--{k}={v}" for k, v in arguments.items())]
    state, np_state = random.getstate(), np.random.get_state()
    with (
      mock.patch.object(sys, "argv", argv),
      mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
      _stand_ins(),
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      sys.modules.pop("constants", None)
      runpy.run_path(str(path), run_name="__main__")
    random.setstate(state)
    np.random.set_state(np_state)
    return (Path(out) / kind / "validation.jsonl").read_text()


def score(metric, predictions, references):
  """What its "string_match_all" or "string_match_part" gives, percent."""
  module = importlib.import_module(f"{NAME}.eval.synthetic.constants")
  return getattr(module, metric)(predictions, references)


def sent_tokenize(text):
  return re.split(r"(?<=[.?!]) ", text)


@contextlib.contextmanager
def _stand_ins():
  """Not mock.patch.dict: numpy cannot be imported a second time."""
  modules = _modules()
  before = {name: sys.modules.get(name) for name in modules}
  sys.modules.update(modules)
  try:
    yield
  finally:
    for name, module in before.items():
      del sys.modules[name]
      if module is not None:
        sys.modules[name] = module


def _modules():
  tokenizer = types.ModuleType("tokenizer")
  tokenizer.select_tokenizer = lambda *_: types.SimpleNamespace(
    text_to_tokens=lambda text: re.findall(r"\w+|[^\w\s]", text)
  )
  words = {
    "nounlist.txt": _ruler_items.NOUNS,
    "adjectivelist.txt": _ruler_items.ADJECTIVES,
    "verblist.txt": [f"to-{noun}" for noun in _ruler_items.NOUNS],
  }
  wonderwords = types.ModuleType("wonderwords")
  wonderwords.random_word = types.SimpleNamespace(
    _get_words_from_text_file=words.__getitem__
  )
  nltk = types.ModuleType("nltk")
  nltk.tokenize = types.ModuleType("nltk.tokenize")
  nltk.tokenize.sent_tokenize = sent_tokenize
  return {
    "tokenizer": tokenizer, f"{NAME}.data.tokenizer": tokenizer,
    "wonderwords": wonderwords, "nltk": nltk, "nltk.tokenize": nltk.tokenize,
  }  # fmt: skip


SHORT = dict.fromkeys(NEEDLES, 400) | {"vt": 1200, "cwe": 1000, "fwe": 300}
PREDICTIONS = [
  # prediction, references
  ("12, 34 and 56.", ["12", "34", "56", "78"]),
  ("The answer is ANN lee", ["Ann", "Bob"]),
  ("", ["x"]),
  ("x y", ["x", "y"]),
]


def main(out):
  lines = []
  for kind in (*NEEDLES, "vt", "cwe", "fwe"):
    haystack = None
    if kind in NEEDLES and NEEDLES[kind][0] == "essay":
      haystack = "repeat"
    rows = generate(kind, SHORT[kind], haystack, samples=1).splitlines()
    lines += [json.dumps({"kind": kind, **json.loads(row)}) for row in rows]
  predictions, references = zip(*PREDICTIONS, strict=True)
  for metric in ("string_match_all", "string_match_part"):
    row = {"metric": metric, "predictions": predictions}
    row |= {"references": references}
    row |= {"score": score(metric, list(predictions), list(references))}
    lines.append(json.dumps(row))
  Path(out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
  main(sys.argv[1])
