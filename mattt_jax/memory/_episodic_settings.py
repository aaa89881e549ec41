"""Settings of the episodic memory, and which of them exclude each other.

Shapes: M slots, C chunk, W pairs written of a chunk, J = top_k candidates.
"""

import dataclasses
import math
from typing import ClassVar

from mattt_jax.config import (
  require,
  require_at_least,
  require_choice,
  require_positive,
)
from mattt_jax.memory import _search, _selection
from mattt_jax.memory.base import BaseConfig

_CHOICES = {
  "policy": _selection.POLICIES,
  "score": _selection.SCORES,
  "search": ("exact", "approx", "landmarks"),
  "score_dtype": ("float32", "bfloat16"),
  "pointer_gate": _search.GATES,
}
# Settings without effect where all slots are read.
_PLAIN = {"search": "exact", "block": 0, "score_dtype": "float32", "shards": 1}


@dataclasses.dataclass(frozen=True)
class Settings(BaseConfig):
  """The Config without `make`, which needs the memory itself."""

  read: str = "pointer"
  # What is kept.
  capacity: int = 0  # slots; 0: enough for the whole context
  policy: str = "ring"  # forgets the oldest, or "score": the lowest-scored
  write_top: int = 0  # of a chunk, so many of the best-scored; 0: every token
  # What a pair is worth: "recency", "surprise", "gradient", "random", "oracle"
  # or "learned", which also adds log sigmoid(score) to the score of a read.
  score: str = "recency"
  # How it is found.
  top_k: int = 32  # slots that a read attends to; 0: all
  # "exact", "approx" (faster on TPUs, the same elsewhere), or "landmarks": only
  # slots that an index of the keys holds near, at the square root of the cost.
  search: str = "exact"
  recall_target: float = 0.95  # approx: share of the best that it should find
  probes: int = 16  # landmarks: cells of the index that a token looks in
  cell: int = 32  # landmarks: places of a cell
  block: int = 0  # slots that are scored at once, a block after another; 0: all
  # Type of the products in a search, summed in float32; the best slots are
  # scored again in float32.
  score_dtype: str = "float32"
  shards: int = 1  # blocks searched apart, for slots split over devices
  num_heads: int = 4
  head_dim: int = 16
  temperature: float = 3.0  # of a head's unit keys and queries, at init
  null_bias: float = 5.0  # score of "none of them", at init
  # "null": one softmax over null and slots; "sigmoid": the slots' own softmax
  # times sigmoid(-null score), which sees the query alone.
  pointer_gate: str = "null"
  # The newest of pairs that match about as well takes most of the share
  # (pointer read): the last binding of a key counts.
  latest_wins: bool = False
  # Stores what keys are made of; the reader's weights make the keys, as is
  # right where fast weights change them.
  rekey: bool = False
  # Stored items pass no gradient to the network of the past (2203.08913); the
  # memory's own projections still learn.
  stop_gradient_keys: bool = False
  # The suffix blocks see the recalled tokens' mean embedding (pointer read).
  feed: bool = False

  reads: ClassVar[tuple[str, ...]] = ("pointer", "residual")
  SPLIT: ClassVar = {"num_heads": "tensor"}

  @property
  def wants_gradient(self) -> bool:
    return self.score == "gradient"

  def scores_per_token(self, context_length: int, chunk: int) -> int:
    """Slots that a token is compared with at once, times the heads that search
    apart."""
    slots = self.slots(context_length, chunk)
    if self.search == "landmarks":
      slots = min(slots, self.probes * self.cell)
    heads = self.num_heads if self.read == "residual" else 1
    return heads * min(slots, self.block or slots)

  def slots(self, context_length: int, chunk: int) -> int:
    """Number of slots; `ValueError` if `shards` does not divide it."""
    chunks = math.ceil(context_length / chunk)
    slots = self.capacity or chunks * (self.write_top or chunk)
    require(
      slots % self.shards == 0,
      f"memory.shards={self.shards} must divide the number of slots, which is "
      f"{slots} at {context_length} tokens",
    )
    return slots

  def check(self, experiment) -> None:
    super().check(experiment)
    for field in ("capacity", "top_k", "write_top", "block"):
      require_at_least(f"memory.{field}", getattr(self, field), 0)
    for field in ("num_heads", "head_dim", "shards", "probes", "cell"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require_positive("memory.temperature", self.temperature)
    for field, choices in _CHOICES.items():
      require_choice(f"memory.{field}", getattr(self, field), choices)
    require(
      0 < self.recall_target <= 1,
      f"memory.recall_target={self.recall_target} must lie in (0, 1]",
    )
    self._check_sizes(experiment)
    self._check_search()
    self._check_use()

  def _check_sizes(self, experiment) -> None:
    chunk = experiment.chunk
    require(
      self.write_top <= chunk,
      f"memory.write_top={self.write_top} must be <= chunk={chunk}, or 0 for "
      "every token",
    )
    unit = "write_top" if self.write_top else "chunk"
    width = self.write_top or chunk
    require(
      self.capacity % width == 0,
      f"memory.capacity={self.capacity} must be a multiple of {unit}={width} "
      "(so many are written at once), or 0 for all pairs",
    )
    require(
      not self.capacity or self.top_k <= self.capacity,
      f"memory.top_k={self.top_k} must be <= memory.capacity={self.capacity}, "
      "or 0 for all slots",
    )
    for _, length in experiment.lengths:
      self.slots(length, chunk)

  def _check_search(self) -> None:
    if self.search == "landmarks":
      for field, plain, why in (
        ("shards", 1, "an index is searched whole"),
        ("block", 0, "only what the index names is scored"),
        ("rekey", False, "an index is made of keys as they were written"),
      ):
        value = getattr(self, field)
        require(
          value == plain,
          f"memory.{field}={value} does not go with memory.search='landmarks': "
          f"{why}; use {plain}",
        )
      seen = self.probes * self.cell
      require(
        self.top_k <= seen,
        f"memory.top_k={self.top_k} must be <= memory.probes={self.probes} x "
        f"memory.cell={self.cell} = {seen}, the slots that a token looks at",
      )
      require(
        self.head_dim % 2 == 0,
        f"memory.head_dim={self.head_dim} must be even for memory.search="
        "'landmarks', which has landmarks of halves of a key",
      )
    require(
      self.shards == 1 or (self.block == 0 and self.score_dtype == "float32"),
      f"memory.shards={self.shards} are searched whole, in float32: use "
      f"memory.block=0 (is {self.block}) and memory.score_dtype='float32' (is "
      f"{self.score_dtype!r})",
    )

  def _check_use(self) -> None:
    require(
      self.policy == "ring" or self.capacity > 0,
      f"memory.policy={self.policy!r} chooses what to forget, but memory."
      "capacity=0 forgets nothing: set a capacity",
    )
    require(
      self.score in ("recency", "learned")
      or self.policy == "score"
      or self.write_top > 0,
      f"memory.score={self.score!r} decides nothing: set memory.policy='score'"
      " or memory.write_top",
    )
    changed = [
      f"memory.{field}={getattr(self, field)!r}"
      for field, default in _PLAIN.items()
      if getattr(self, field) != default
    ]
    require(
      self.top_k > 0 or not changed,
      f"memory.top_k=0 reads all slots, so that {', '.join(changed)} would "
      "do nothing: set memory.top_k",
    )
    for field in ("feed", "latest_wins", "pointer_gate"):
      value = getattr(self, field)
      require(
        self.read == "pointer" or value == getattr(Settings, field),
        f"memory.{field}={value!r} needs memory.read='pointer'",
      )
