"""Common and frequent words of RULER: counting, over the whole haystack."""

import numpy as np

from mattt_jax.config import require

KINDS = ("common_words", "frequent_words")


def counts(config, haystack: int) -> np.ndarray:
  """Counts of each word among `haystack` tokens, the highest first; the first
  `config.items` words are asked for.

  Raises:
    ValueError: too few words, or those asked for are not the most frequent.
  """
  c = config
  if c.kind == "common_words":
    rest = max(0, haystack - c.items * c.repeats)
    others = int(c.interference * rest / c.rare_repeats)
    require(
      c.items + others <= c.num_keys,
      f"task.num_keys={c.num_keys} must be at least {c.items + others} for "
      f"{c.items} common words and, with task.interference={c.interference}, "
      f"{others} words of task.rare_repeats={c.rare_repeats} in a haystack of "
      f"{haystack} tokens",
    )
    return np.repeat([c.repeats, c.rare_repeats], [c.items, others])
  # As published, the most frequent "word" is the filler.
  weight = np.arange(2.0, c.num_keys + 2) ** -c.power
  number = c.interference * max(0, haystack) * weight / weight.sum()
  number = number.astype(np.int64)
  last, following = [*number, 0][c.items - 1 : c.items + 1]
  require(
    last > following,
    f"task.kind={c.kind!r}: word {c.items} appears {last} times in a haystack "
    f"of {haystack} tokens, and the next one {following} times: use a smaller "
    f"task.num_items, a larger task.interference={c.interference}, or a longer "
    "sequence",
  )
  return number


def hide(config, rng, seq: np.ndarray, end: int, words: np.ndarray):
  """Puts words into the haystack `seq`, those asked for before `end`; returns
  the places of each of these, in order of first appearance."""
  number = counts(config, len(seq))
  tokens = np.repeat(words[: len(number)], number)
  wanted = int(number[: config.items].sum())
  at = rng.choice(end, wanted, replace=False)
  free = np.delete(np.arange(len(seq)), at)
  others = rng.choice(free, len(tokens) - wanted, replace=False)
  seq[np.concatenate([at, others])] = tokens
  places = [np.flatnonzero(seq == word) for word in words[: config.items]]
  return sorted(places, key=lambda of_word: of_word[0])
