"""RULER's needles, variables and words as text, in its own words.

RULER (arXiv 2404.06654) has 11 tasks beside its two of question answering; the
templates are those of its code (NVIDIA, Apache-2.0), so that scores compare:

    niah_single_1   one needle in a noise of five sentences, repeated
    niah_single_2   one needle in real text;  niah_single_3: its value a uuid
    niah_multikey_1 four needles of different keys in real text
    niah_multikey_2 one among needles only;   niah_multikey_3: of uuids
    niah_multivalue four values of a key;     niah_multiquery: of four keys
    vt              a chain of four variables that refer to the one before
    cwe, fwe        the common words of a numbered list, of a coded text

`generate` draws the items, the other functions put them into text. Words are
those of data/_ruler_items.py, any real text stands for RULER's copyrighted
essays, and a key that is asked for has no second needle, which RULER may draw.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from mattt_jax.config import require, require_at_least
from mattt_jax.data import _ruler_items

NOISE = (
  "The grass is green. The sky is blue. The sun is yellow. Here we go. "
  "There and back again."
)
_NEEDLE = "One of the special magic {kind} for {key} is: {value}."
_NEEDLES = (
  "{some} special magic {kind} {are} hidden within the following text. Make "
  "sure to memorize it. I will quiz you about the {kind} afterwards.\n"
  "{context}\n"
  "What {are_all} the special magic {kind} for {query} mentioned in the "
  "provided text? The special magic {kind} for {query} mentioned in the "
  "provided text {are}"
)
_VARIABLES = (  # with its typing error
  "Memorize and track the chain(s) of variable assignment hidden in the "
  "following text.\n\n{context}\nQuestion: Find all variables that are "
  "assigned the value {value} in the text above. Answer: According to the "
  "chain(s) of variable assignment in the text above, {number} variables are "
  "assgined the value {value}, they are: "
)
_COMMON = (
  "Below is a numbered list of words. In these words, some appear more often "
  "than others. Memorize the ones that appear most often.\n{context}\n"
  "Question: What are the 10 most common words in the above list? Answer: The "
  "top 10 words that appear most often in the list are:"
)
_FREQUENT = (
  "Read the following coded text and track the frequency of each coded word. "
  "Find the three most frequently appeared coded words. {context}\nQuestion: "
  "Do not provide any explanation. Please ignore the dots '....'. What are the "
  "three most frequently appeared words in the above coded text? Answer: "
  "According to the coded text above, the three most frequently appeared words "
  "are:"
)
_QUESTIONS = "Answer the question based on the given documents."
_HOPS, _COMMON_WORDS = 4, 10
_EXAMPLE_NOISES = 10  # of the solved example before a chain
SHORT = 4096  # tokens: in shorter sequences, words of a list repeat less
# (words, times of a common one, times of another) of the solved example
_EXAMPLE_WORDS = {True: (20, 3, 1), False: (40, 10, 3)}
_REPEATS = {True: (6, 1), False: (30, 3)}


@dataclasses.dataclass(frozen=True)
class Needles:
  """The needles of a task, and their haystack."""

  haystack: str  # "noise", "text" or "needles"
  keys: int = 1
  values: int = 1  # of each key
  queries: int = 1
  key_kind: str = "words"  # or "uuids"
  value_kind: str = "numbers"  # or "uuids"


NEEDLES = {
  "niah_single_1": Needles("noise"),
  "niah_single_2": Needles("text"),
  "niah_single_3": Needles("text", value_kind="uuids"),
  "niah_multikey_1": Needles("text", keys=4),
  "niah_multikey_2": Needles("needles"),
  "niah_multikey_3": Needles("needles", key_kind="uuids", value_kind="uuids"),
  "niah_multivalue": Needles("text", values=4),
  "niah_multiquery": Needles("text", keys=4, queries=4),
}
KINDS = (*NEEDLES, "vt", "cwe", "fwe")


def sizes(kind: str) -> tuple[int, int | None]:
  """The least and the most (None: any) that `size` of `generate` can be."""
  if kind == "cwe":
    return 2 * _COMMON_WORDS, len(_ruler_items.WORDS)
  if kind == "fwe":  # so that the third word is more frequent than the fourth
    return 60, None
  return (6, None) if kind == "vt" else (4, None)


def generate(
  kind: str,
  rng: np.random.Generator,
  size: int,
  length: int,
  sentences: Sequence[str] = (),
  *,
  short: bool = False,
) -> tuple[str, list[str]]:
  """One sample: the prompt, up to where the answers begin, and the answers.

  Args:
    kind: one of KINDS.
    rng: where items and places come from.
    size: of the haystack: sentences, needles, or different words ("fwe": words
      in all).
    length: of the sequence in tokens: a coded text has a word for 50 of them.
    sentences: real text, repeated as needed, for the kinds that hide in it.
    short: "cwe" in the form with fewer repeats, as RULER's below SHORT tokens.

  Raises:
    ValueError: a kind that is not known, a size out of range, no sentences.
  """
  require(kind in KINDS, f"kind={kind!r} must be one of {', '.join(KINDS)}")
  least, most = sizes(kind)
  require_at_least("size", size, least)
  require(
    most is None or size <= most,
    f"size={size} must be at most {most}: there are no more words",
  )
  if kind == "vt":
    return _generate_chain(rng, size)
  if kind == "cwe":
    return _generate_list(rng, size, short)
  if kind == "fwe":
    words = _ruler_items.letters(rng, max(5, length // 50), 6, upper=False)
    words[0] = "..."  # the most frequent one is noise
    text = [w for w, n in zip(words, frequencies(size, len(words)), strict=True)
            for _ in range(n)]  # fmt: skip
    order = rng.permutation(len(text))
    return frequent_words([text[i] for i in order]), words[1:4]
  return _generate_needles(rng, NEEDLES[kind], size, sentences)


def frequencies(number: int, words: int) -> list[int]:
  """Counts ~ k^-2 of each of `words` words among about `number` words."""
  return [int(6 * number / (math.pi * k) ** 2) for k in range(1, words + 1)]


def needle(kind: str, key: str, value: str) -> str:
  """The sentence that is hidden; `kind` is "numbers" or "uuids"."""
  return _NEEDLE.format(kind=kind, key=key, value=value)


def hide(
  sentences: Sequence[str], needles: Sequence[str], places: Sequence[int]
) -> str:
  """Lines; needle i stands before sentence places[i], which must descend."""
  lines = list(sentences)
  for place, text in zip(places, needles, strict=True):
    lines.insert(place, text)
  return "\n".join(lines)


def hide_in_text(
  sentences: Sequence[str], needles: Sequence[str], places: Sequence[int]
) -> str:
  """One line; needle i stands before sentence places[i], which must ascend."""
  parts = []
  for start, end, text in zip([0, *places], places, needles, strict=False):
    parts += [" ".join(sentences[start:end]), text]
  return " ".join([*parts, " ".join(sentences[places[-1] :])])


def needles(task: Needles, context: str, queries: Sequence[str]) -> str:
  """The prompt about the values of the keys `queries`."""
  *first, last = queries
  several = task.queries * task.values > 1
  return _NEEDLES.format(
    some="Some" if several else "A",
    are="are" if several else "is",
    are_all="are all" if several else "is",
    kind=task.value_kind if several else task.value_kind[:-1],
    query=f"{', '.join(first)}, and {last}" if first else last,
    context=context,
  )


def chain(
  variables: Sequence[str], value: str, places: Sequence[int], noises: int
) -> str:
  """The prompt about `variables`, each assigned the one before, the first of
  them `value`; statement i stands before noise places[i] of `noises`."""
  before = [value, *(f"VAR {name} " for name in variables)]
  lines = [f"{NOISE}\n"] * noises
  for i, (name, place) in enumerate(zip(variables, places, strict=True)):
    lines.insert(place + i, f"VAR {name} = {before[i]}")
  return _VARIABLES.format(
    context=" ".join(lines), value=value, number=len(variables)
  )


def solved_chain(prompt: str, variables: Sequence[str]) -> str:
  """A solved example, as it stands before the chain that is asked about."""
  return f" {prompt} {' '.join(variables)}\n\n\n\n"


def common_words(words: Sequence[str]) -> str:
  """The prompt about a numbered list of words."""
  return _COMMON.format(context=numbered(words))


def solved_words(prompt: str, answers: Sequence[str]) -> str:
  """A solved example, as it stands before the list that is asked about."""
  return f"{prompt}{numbered(answers)}\n"


def numbered(words: Sequence[str]) -> str:
  """Words in a list: "1. one 2. two"."""
  return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def frequent_words(words: Sequence[str]) -> str:
  """The prompt about a coded text."""
  return _FREQUENT.format(context=" ".join(words))


def leads(prompt: str, number: int) -> tuple[str, ...]:
  """The text before each of the `number` answers that complete a prompt, in
  the form of its solved example if it has one; () if any one answer will do."""
  if prompt.startswith(_QUESTIONS):
    return ()
  if prompt.startswith(_COMMON[:50]):
    return tuple(f"{' ' * (i > 1)}{i}. " for i in range(1, number + 1))
  between = " " if prompt.lstrip().startswith(_VARIABLES[:50]) else ", "
  return (" ", *[between] * (number - 1))


def _generate_needles(rng, task: Needles, size, sentences):
  keys = _ruler_items.items(rng, task.key_kind, task.keys)
  kind = task.value_kind
  values = {key: _ruler_items.items(rng, kind, task.values) for key in keys}
  wanted = [needle(kind, key, value) for key in keys for value in values[key]]
  wanted = [wanted[i] for i in rng.permutation(len(wanted))]
  if task.haystack == "text":
    require(bool(sentences), "sentences=(): give the sentences of a text")
    text = list(itertools.islice(itertools.cycle(sentences), size))
    depths = rng.choice(40, len(wanted), replace=False)
    depths = np.linspace(0, 100, 40).round()[np.sort(depths)]
    places = (size * depths / 100).astype(int).tolist()
    context = hide_in_text(text, wanted, places)
  else:
    text = [NOISE] * size
    if task.haystack == "needles":
      text = [needle(kind, *_other(rng, task, keys)) for _ in range(size)]
    places = rng.choice(size, len(wanted), replace=False)
    context = hide(text, wanted, np.sort(places)[::-1].tolist())
  queries = [keys[i] for i in rng.permutation(task.keys)[: task.queries]]
  answers = [value for key in queries for value in values[key]]
  return needles(task, context, queries), answers


def _other(rng, task: Needles, keys) -> tuple[str, str]:
  key = keys[0]
  while key in keys:
    (key,) = _ruler_items.items(rng, task.key_kind, 1)
  (value,) = _ruler_items.items(rng, task.value_kind, 1)
  return key, value


def _generate_chain(rng, size):
  def one(length, noises):
    names = _ruler_items.letters(rng, _HOPS + 1, length, upper=True)
    places = np.sort(rng.choice(noises, len(names), replace=False)).tolist()
    value = str(rng.integers(10_000, 99_999))
    return chain(names, value, places, noises), names

  example = solved_chain(*one(3, _EXAMPLE_NOISES))
  prompt, names = one(5, size)
  return example + prompt, names


def _generate_list(rng, size, short):
  def one(number, common_times, times):
    drawn = rng.choice(_ruler_items.WORDS, number, replace=False).tolist()
    common, others = drawn[:_COMMON_WORDS], drawn[_COMMON_WORDS:]
    words = common * common_times + others * times
    order = rng.permutation(len(words))
    return common_words([words[i] for i in order]), common

  example = solved_words(*one(*_EXAMPLE_WORDS[short]))
  prompt, common = one(size, *_REPEATS[short])
  return example + prompt, common
