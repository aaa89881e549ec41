"""Direct speech in prose whose speaker the text names, found by rules.

    "Not at all," said Mr. Bennet           a verb of saying, then a name
    "Not at all," Elizabeth replied.        the speech ends with a comma
    "Not at all?" Elizabeth replied.        the sentence ends there
    ... away. Elizabeth replied, "Not       a sentence of its own, before it

What is not certain is left out: pronouns, titles without a name, "said Jane's
aunt", "said Jane and Mary", a paragraph whose quotation marks do not pair.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from mattt_jax.tasks import _names

_VERBS = (
  "added answered asked began cried continued declared demanded enquired "
  "exclaimed inquired interposed interrupted muttered murmured observed "
  "rejoined remarked repeated replied responded resumed returned roared said "
  "shouted whispered"
)
_VERB = rf"(?:{'|'.join(_VERBS.split())})"
_TITLE = rf"(?:{'|'.join(sorted(_names.TITLES))})\b\.?"
_WORD = r"[^\W\d_a-z][^\W\d_]+"
# Atomic: no part of a name is a name.
_NAME = rf"(?P<name>(?>(?:{_TITLE}\s+)*{_WORD}(?:[ \n]{_WORD})*))(?!['’\w-])"
_ALONE = r"(?!,?\s+(?:and|or)\s+[^\W\d_a-z])"
_VERB_NAME = re.compile(rf"\s+{_VERB}\s+{_NAME}{_ALONE}")
_NAME_VERB = re.compile(rf"\s+{_NAME}\s+{_VERB}(?=(?P<end>[,.;:]))")
# After a full stop that is not that of "Mr.".
_STOP = "".join(f"(?<!{t})" for t in sorted(_names.TITLES)) + r"[.!?]\s+"
_BEFORE = re.compile(rf"(?:^\s*|{_STOP}){_NAME}\s+{_VERB}[,:]\s+$")
_PARAGRAPH = re.compile(r"(?:[^\n]|\n(?!\s*\n))+")
_MARK = re.compile(r'["“”]')


class Speech(NamedTuple):
  """A passage in quotation marks and who says it; edges are characters."""

  text: tuple[int, int]  # without the marks
  name: tuple[int, int]  # of the speaker, where the text names them


def speeches(text: str) -> Iterator[Speech]:
  """Finds all speech whose speaker the text names beside it, in order."""
  names = _names.proper_names(text, 1)
  for paragraph in _PARAGRAPH.finditer(text):
    end = paragraph.start()  # of the last passage
    for first, stop in (passages := _passages(text, *paragraph.span())):
      after = next((a - 1 for a, _ in passages if a > stop), paragraph.end())
      before = _BEFORE.search(text[end : first - 1])
      tags = [(_tag_after(text, first, stop, after), 0), (before, end)]
      speakers = {
        tag["name"]: (tag.start("name") + offset, tag.end("name") + offset)
        for tag, offset in tags
        if tag
      }
      end = stop + 1
      if len(speakers) == 1:
        (name, span) = speakers.popitem()
        if re.split(r"\s", name)[-1] in names:
          yield Speech((first, stop), span)


def _passages(text: str, start: int, end: int) -> list[tuple[int, int]]:
  """Passages in quotation marks in a paragraph; none if these do not pair.

  The last one may be open: its speaker goes on in the next paragraph.
  """
  marks = [m.start() for m in _MARK.finditer(text, start, end)]
  for k, at in enumerate(marks):
    inside, outside = (at - 1, at + 1) if k % 2 else (at + 1, at - 1)
    if text[at] in ("“", "”"):
      fits = (text[at] == "”") == bool(k % 2)
    else:
      fits = not text[inside : inside + 1].isspace()
    if not fits or text[outside : outside + 1].isalnum():
      return []
  return [(a + 1, b) for a, b in zip(marks[::2], marks[1::2], strict=False)]


def _tag_after(text: str, first: int, stop: int, end: int):
  """The name after a passage, if it says who spoke."""
  last = text[stop - 1]
  if first == stop or last not in ",.?!;:-—":
    return None
  if tag := _VERB_NAME.match(text, stop + 1, end):
    return tag
  tag = _NAME_VERB.match(text, stop + 1, end)
  if tag and (last == "," or (last in "?!" and tag["end"] == ".")):
    return tag
  return None
