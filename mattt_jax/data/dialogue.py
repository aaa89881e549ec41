"""Made-up talk of people of a town, as prose: the source "dialogue".

It serves tasks about direct speech when no book is at hand: no download, the
same text on every machine.
"""

import random

_NUMBER, _PARAGRAPHS = 40, 150
_NAMES = (
  "Anna Bruno Clara David Edith Felix Greta Henry Irene Jacob Karla Louis "
  "Maria Nolan Olive Peter Quinn Rosa Simon Tilda Ulric Vera Walter Yvonne"
).split()
_TITLED = "Mr. Ames|Mrs. Brandt|Miss Finch|Captain Lyle|Dr. Quist|Mrs. Voss"
_THINGS = (
  "bakery boat bridge candle carriage chapel clock ferry garden horse kettle "
  "ladder lamp letter library market mill mirror orchard parcel piano river "
  "school ship station theatre tower train window wheel"
).split()
_KINDS = (
  "broken brown crooked empty famous golden green heavy little lonely narrow "
  "noisy old painted quiet red rusty second silver yellow"
).split()
_DOES = (
  "belongs to nobody|came from the north|cannot be mended|costs too much|"
  "has been sold|is never on time|is not far away|looks smaller today|"
  "needs a new roof|stands by the water|was never finished|will be missed"
).split("|")
_VERBS = "said replied answered cried asked whispered observed".split()
_FRAMES = (
  '"{said}," {verb} {name}.',
  '"{said}," {verb} {name}, and looked up.',
  '"{said}," {name} {verb}.',
  '{name} {verb}, "{said}."',
  '"{said}!" {verb} {name}. "I have seen it."',
  "{name} walked past the {kind} {thing}, and the rain began again.",
  "It was cold by the {thing}. Nobody spoke, not even {name}.",
)


def documents() -> dict[str, str]:
  """The texts by their names."""
  return {f"dialogue-{k:02d}.txt": _document(k) for k in range(_NUMBER)}


def _document(number: int) -> str:
  rng = random.Random(number)
  names = rng.sample(_NAMES + _TITLED.split("|"), 8)
  paragraphs = []
  for _ in range(_PARAGRAPHS):
    thing, kind = rng.choice(_THINGS), rng.choice(_KINDS)
    said = f"The {kind} {thing} {rng.choice(_DOES)}"
    frame, verb, name = map(rng.choice, (_FRAMES, _VERBS, names))
    paragraphs.append(
      frame.format(said=said, verb=verb, name=name, kind=kind, thing=thing)
    )
  return "\n\n".join(paragraphs) + "\n"
