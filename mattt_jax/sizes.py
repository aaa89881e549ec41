"""Sizes of models by name: `config.model.update(sizes.SIZES["small"])`.

125m to 3b are TTT-E2E's (arXiv 2512.23675): the last quarter of the blocks has
a fast MLP, and MLPs are narrower, so that they have as many parameters as plain
models. 100k to 3m are named after their number of parameters.
"""

from typing import Any

Size = dict[str, Any]

# Wide initial embeddings: with post-norms small ones drown, and fast weights
# then bind tokens late or never.
_FROM_NOTHING = dict(init_std=0.1, embedding_std=1.0, tie_embeddings=False)


def _small(dim: int, num_suffix: int) -> Size:
  """Four blocks of four heads, MLPs twice as wide as the model."""
  return dict(
    dim=dim, num_layers=4, num_suffix=num_suffix, num_heads=4,
    mlp_dim=2 * dim, fast_mlp_dim=2 * dim, **_FROM_NOTHING,
  )  # fmt: skip


def _published(dim: int, num_layers: int, num_heads: int, mlp_dim: int) -> Size:
  return dict(
    dim=dim, num_layers=num_layers, num_suffix=num_layers // 4,
    num_heads=num_heads, mlp_dim=mlp_dim, fast_mlp_dim=mlp_dim, window=8192,
    rope_theta=500_000.0, dtype="bfloat16",
  )  # fmt: skip


# A few steps of it show that an experiment runs; it learns nothing.
TINY: Size = dict(dim=16, num_heads=2, mlp_dim=32, fast_mlp_dim=32)
# For a CPU, in numbers of parameters.
SCALED: dict[str, Size] = {
  "100k": _small(40, 1),
  "400k": _small(88, 1),
  "1m": _small(144, 1),
  "3m": _small(248, 1),
}
PUBLISHED: dict[str, Size] = {
  "125m": _published(768, 12, 12, 1664),
  "350m": _published(1024, 24, 16, 2304),
  "760m": _published(1536, 24, 16, 3328),
  "1b": _published(2048, 24, 32, 4352),
  "3b": _published(2560, 32, 32, 5632),
}
SIZES: dict[str, Size] = {
  "tiny": TINY,
  "small": _small(64, 2),  # of recall, and what is like it
  "medium": _small(128, 2),  # of texts
  **SCALED,
  **PUBLISHED,
}
