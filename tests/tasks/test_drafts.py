"""An example in the making."""

import numpy as np

from mattt_jax.tasks._drafts import Draft


def test_answers_and_their_evidence():
  draft = Draft(np.arange(1, 8), 6)
  draft.ask(slice(5, 7), 0, 4, [1, 2])
  example = draft.example(answer_weight=3.0, context_weight=0.5)
  expected = {
    "tokens": [1, 2, 3, 4, 5, 6],
    "targets": [2, 3, 4, 5, 6, 7],
    "inner_weight": [1, 1, 1, 1, 1, 1],
    "outer_weight": [0.5, 0.5, 0.5, 0.5, 3, 3],
    "answer": [-1, -1, -1, -1, 0, 0],
    "distance": [-1, -1, -1, -1, 4, 4],
    "relevant": [1, 1, 0, 0, 0, 0],
  }
  assert example.keys() == expected.keys()
  for key, values in expected.items():
    np.testing.assert_array_equal(example[key], values, key)


def test_what_is_filled_up_has_no_weight():
  for size in range(8):
    example = Draft(np.ones(size), 6).example()
    real = max(0, size - 1)  # targets that exist
    for key in ("inner_weight", "outer_weight"):
      np.testing.assert_array_equal(example[key], [1] * real + [0] * (6 - real))
    assert example["tokens"].sum() == min(size, 6)
