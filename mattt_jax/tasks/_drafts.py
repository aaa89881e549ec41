"""An example in the making: its tokens, and what is known of each of them."""

import numpy as np

from mattt_jax.tasks import base


class Draft:
  """`length` + 1 tokens: those of a sequence, and the target of the last one.

  Its arrays, [length + 1], say of a token what `base.Example` says of a target.
  """

  def __init__(self, tokens: np.ndarray, length: int):
    """Fills up at most `length` + 1 `tokens` with token 0, of weight 0."""
    self.tokens = np.zeros(length + 1, np.int32)
    self.tokens[: len(tokens)] = tokens
    self.size = len(tokens)
    self.answer = np.full(length + 1, -1, np.int32)
    self.distance = np.full(length + 1, -1, np.int32)
    self.relevant = np.zeros(length + 1, bool)
    self.scored = np.zeros(length + 1, bool)  # has the weight of answers

  def ask(self, at, number, distance, evidence) -> None:
    """Makes the tokens `at` an answer.

    `number` says which answer they are, `distance` how many tokens back its
    evidence is (each a number or an array). `at` and `evidence`, the tokens
    that decide it, are indices or slices.
    """
    self.answer[at], self.distance[at] = number, distance
    self.scored[at] = self.relevant[evidence] = True

  def example(
    self, answer_weight: float = 1.0, context_weight: float = 1.0
  ) -> base.Example:
    """The example, [length]; the weights are outer ones."""
    real = np.arange(1, len(self.tokens)) < self.size
    weight = np.where(self.scored[1:], answer_weight, context_weight)
    return {
      "tokens": self.tokens[:-1],
      "targets": self.tokens[1:],
      "inner_weight": real.astype(np.float32),
      "outer_weight": (weight * real).astype(np.float32),
      "answer": self.answer[1:],
      "distance": self.distance[1:],
      "relevant": self.relevant[1:],
    }
