"""Words, numbers and names for RULER's needles, chains and lists."""

import string
import uuid

import numpy as np

ADJECTIVES = (
  "able amber ancient arid ashen azure bitter blank bold brave brief bright "
  "brisk broad bronze burly calm candid careful cheap chilly civil clean clear "
  "clever clumsy coarse cold coral crisp crooked curious daily damp daring "
  "dark deaf dear deep dense dim distant dizzy double dull dusty eager early "
  "earnest empty even exact faint fair famous fancy fast fearless fierce final "
  "fine firm flat fluffy foggy fond frail frank free fresh frosty frozen full "
  "gentle giant glad gloomy golden grand grave green grim grumpy handy happy "
  "hardy harsh hasty heavy hidden high hollow honest huge humble icy idle "
  "ivory jolly keen kind large lazy lean light little lively local lofty lone "
  "long loud low loyal lucky mellow merry mighty mild misty modest narrow "
  "neat noble"
).split()
NOUNS = (
  "acorn alley anchor anvil apron arrow attic badge bagel banjo barn barrel "
  "basin beacon bead beetle bell bench berry bishop blanket boat bonnet boot "
  "bottle boulder bridge broom bucket butter button cabin cactus camel canal "
  "candle canoe canyon carpet castle cellar chain chalk cherry chimney circus "
  "clay cliff clock cloud coach cobbler compass copper cottage cradle crane "
  "crow crystal curtain dagger dairy desert diary dolphin donkey door dragon "
  "drum eagle echo elbow ember engine fabric falcon feather ferry fiddle field "
  "finch flute forest fossil fountain fox garlic gate ginger glacier glove "
  "goose granite guitar hammer harbor harp hazel hedge helmet heron hill "
  "honey hood horn island jacket jar jewel kettle kite ladder lagoon lamp "
  "lantern lemon lens letter lily lizard magnet"
).split()
WORDS = tuple(f"{a}-{n}" for a in ADJECTIVES for n in NOUNS)


def items(rng: np.random.Generator, kind: str, number: int) -> list[str]:
  """`number` different "words", "numbers" (7 digits) or "uuids"."""
  made: dict[str, None] = {}
  while len(made) < number:
    if kind == "words":
      item = WORDS[rng.integers(len(WORDS))]
    elif kind == "numbers":
      item = str(rng.integers(10**6, 10**7))
    else:
      item = str(uuid.UUID(bytes=rng.bytes(16), version=4))
    made[item] = None
  return list(made)


def letters(
  rng: np.random.Generator, number: int, length: int, upper: bool
) -> list[str]:
  """`number` different strings of `length` letters."""
  alphabet = string.ascii_uppercase if upper else string.ascii_lowercase
  made: dict[str, None] = {}
  while len(made) < number:
    drawn = rng.integers(26, size=(number - len(made), length)).tolist()
    made |= {"".join(alphabet[i] for i in word): None for word in drawn}
  return list(made)
