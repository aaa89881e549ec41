"""The best-scored slots, searched whole or in blocks, and their shares.

Shapes: C tokens, H heads, K head dim, M slots, J candidates. A search sums the
scores of all heads, or (`each_head`) is for each head; then H comes first.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

GATES = ("null", "sigmoid")
EMPTY = -1e30  # score of an empty slot; finite, so that gradients are


@struct.dataclass
class Slots:
  """Slots to compare with queries."""

  key_HxMxK: Array
  bias_M: Any  # its log sigmoid is added to a slot's score; None: nothing is
  valid_M: Any  # None: the slots in question are


def score(
  query_HxCxK: Array,
  slots: Slots,
  temperature: Array,
  *,
  each_head: bool,
  dtype: Any = None,
) -> Array:
  """Scores [C, M], or [H, C, M]; `EMPTY` where a slot is.

  `dtype` is that of the products; they are summed in float32 or wider.
  """
  product = _product(
    "hck,hmk->hcm" if each_head else "hck,hmk->cm",
    query_HxCxK, slots.key_HxMxK, dtype,
  )  # fmt: skip
  return _finished(product, temperature, slots.bias_M, slots.valid_M)


def score_at(
  query_HxCxK: Array,
  slots: Slots,
  temperature: Array,
  slot: Array,
  *,
  each_head: bool,
  dtype: Any = None,
) -> Array:
  """`score` for the slots [C, J] (or [H, C, J]) alone."""
  if each_head:
    key_HxCxJxK = jax.vmap(lambda key_MxK, at: key_MxK[at])(
      slots.key_HxMxK, slot
    )
  else:
    key_HxCxJxK = slots.key_HxMxK[:, slot]
  product = _product(
    "hck,hcjk->hcj" if each_head else "hck,hcjk->cj",
    query_HxCxK, key_HxCxJxK, dtype,
  )  # fmt: skip
  bias, valid = jax.tree.map(lambda x: x[slot], (slots.bias_M, slots.valid_M))
  return _finished(product, temperature, bias, valid)


def _product(equation: str, query: Array, key: Array, dtype: Any) -> Array:
  if dtype is None:
    return jnp.einsum(equation, query, key)
  return jnp.einsum(
    equation,
    query.astype(dtype),
    key.astype(dtype),
    preferred_element_type=jnp.float32,
  )


def _finished(product: Array, temperature: Array, bias, valid) -> Array:
  score = temperature * product
  if bias is not None:
    score = score + jax.nn.log_sigmoid(bias)
  return score if valid is None else jnp.where(valid, score, EMPTY)


def best_in_blocks(
  query_HxCxK: Array,
  slots: Slots,
  temperature: Array,
  top_k: int,
  block: int,
  *,
  each_head: bool,
  dtype: Any = None,
  **how: Any,
) -> Array:
  """Slots of the `top_k` best (of more), best first, without a gradient.

  Only the scores of `block` slots and the best so far exist at a time. Slots
  with equal scores come in order, as in `best`.

  Args:
    query_HxCxK: unit vectors, like the keys.
    slots: all M.
    temperature: multiplies scores.
    top_k: how many.
    block: slots that are scored at once.
    each_head: as in `score`, like `dtype`.
    dtype: of the products.
    **how: `approx` and `recall` of `best`, within a block.
  """
  query_HxCxK, slots, temperature = jax.lax.stop_gradient(
    (query_HxCxK, slots, temperature)
  )
  number = len(slots.valid_M)
  block = min(block, number)
  starts = jnp.arange(0, number, block)

  def step(so_far, start):
    # The last block may begin earlier: what it shares does not count again.
    at = jnp.minimum(start, number - block)
    key_HxMxK = jax.lax.dynamic_slice_in_dim(slots.key_HxMxK, at, block, axis=1)
    bias_M, valid_M = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, at, block),
      (slots.bias_M, slots.valid_M),
    )
    part = Slots(key_HxMxK, bias_M, valid_M)
    scores = score(
      query_HxCxK, part, temperature, each_head=each_head, dtype=dtype
    )
    scores = jnp.where(at + jnp.arange(block) >= start, scores, -jnp.inf)
    scores, slot = best(scores, top_k, **how)
    scores = jnp.concatenate([so_far[0], scores], axis=-1)
    slot = jnp.concatenate([so_far[1], at + slot], axis=-1)
    scores, at = jax.lax.top_k(scores, top_k)
    return (scores, jnp.take_along_axis(slot, at, axis=-1)), None

  shape = query_HxCxK.shape[not each_head : 2] + (top_k,)
  wide = jnp.promote_types(query_HxCxK.dtype, jnp.float32)
  nothing = jnp.full(shape, -jnp.inf, wide), jnp.zeros(shape, starts.dtype)
  (_, slot), _ = jax.lax.scan(step, nothing, starts)
  return slot


def best(
  score: Array,
  top_k: int,
  *,
  shards: int = 1,
  approx: bool = False,
  recall: float = 0.95,
) -> tuple[Array, Array]:
  """The `top_k` largest scores of the last axis and their slots, best first.

  With `shards` S, each of S blocks of slots names its best k, and the best of
  these are the best of all: only candidates travel between S devices.

  Args:
    score: [..., M].
    top_k: how many; 0, or M and more: all slots, in order.
    shards: number of blocks; divides M.
    approx: `jax.lax.approx_max_k` (2206.14286), exact except on TPUs.
    recall: share of the best that it should find.

  Returns:
    (scores, int32 slots), both [..., min(top_k, M)].
  """
  slots = score.shape[-1]
  if not 0 < top_k < slots:
    return score, jnp.broadcast_to(jnp.arange(slots), score.shape)
  if shards == 1:
    if approx:
      return jax.lax.approx_max_k(score, top_k, recall_target=recall)
    return jax.lax.top_k(score, top_k)
  size = slots // shards
  count = min(top_k, size)
  score = score.reshape(*score.shape[:-1], shards, size)
  if approx:
    kept, slot = jax.lax.approx_max_k(score, count, recall_target=recall)
  else:
    # Not top_k: XLA does not split it over devices, not even between rows.
    slot = jnp.broadcast_to(jnp.arange(size), score.shape)
    kept, slot = jax.lax.sort_key_val(-score, slot)
    kept, slot = -kept[..., :count], slot[..., :count]
  slot = slot + size * jnp.arange(shards, dtype=slot.dtype)[:, None]
  # Equal scores keep the order of their slots, as without blocks.
  flat = (*score.shape[:-2], shards * count)
  kept, at = jax.lax.top_k(kept.reshape(flat), top_k)
  return kept, jnp.take_along_axis(slot.reshape(flat), at, axis=-1)


def shares(null_C: Array, score_CxJ: Array, gate: str) -> tuple[Array, Array]:
  """(log share of "none of them" [C], log shares of the candidates [C, J]).

  Shares sum to 1; null has all where every candidate is empty. `gate` "null":
  one softmax over null and candidates; "sigmoid": null has sigmoid(null_C),
  whatever the candidates' scores, and these divide the rest by a softmax.
  """
  if gate == "null":
    log_share = jax.nn.log_softmax(
      jnp.concatenate([null_C[:, None], score_CxJ], axis=-1)
    )
    return log_share[:, 0], log_share[:, 1:]
  some_CxJ = score_CxJ > EMPTY / 2
  log_null_C = jnp.where(
    jnp.any(some_CxJ, axis=-1), jax.nn.log_sigmoid(null_C), 0.0
  )
  log_open_Cx1 = jax.nn.log_sigmoid(-null_C)[:, None]
  log_share_CxJ = log_open_Cx1 + jax.nn.log_softmax(score_CxJ)
  return log_null_C, jnp.where(some_CxJ, log_share_CxJ, EMPTY)


def latest(
  score_CxJ: Array,
  log_share_CxJ: Array,
  age_CxJ: Array,
  sharpness: Array | float,
  margin: Array | float,
) -> Array:
  """Log shares with the same sum, of which the newest match takes most.

  A candidate matches by m = sigmoid(margin - sharpness (max score - score)),
  and its share is multiplied by 1 - m of all newer ones (stick-breaking
  attention, 2410.17980): the last binding of a key wins, however far back it
  lies, and what does not match takes nothing from it.

  Args:
    score_CxJ: of the candidates; `EMPTY` where there is none.
    log_share_CxJ: as of `shares`.
    age_CxJ: different for each candidate of a row.
    sharpness: positive.
    margin: 0: the best candidate takes half of what older ones have.
  """
  behind_CxJ = jnp.max(score_CxJ, axis=-1, keepdims=True) - score_CxJ
  log_left_CxJ = jax.nn.log_sigmoid(sharpness * behind_CxJ - margin)
  newest_first_CxJ = jnp.argsort(age_CxJ, axis=-1)
  sorted_CxJ = jnp.take_along_axis(log_left_CxJ, newest_first_CxJ, axis=-1)
  newer_CxJ = jnp.cumsum(sorted_CxJ, axis=-1) - sorted_CxJ
  back_CxJ = jnp.argsort(newest_first_CxJ, axis=-1)
  kept_CxJ = log_share_CxJ + jnp.take_along_axis(newer_CxJ, back_CxJ, axis=-1)
  whole_Cx1 = jax.nn.logsumexp(log_share_CxJ, axis=-1, keepdims=True)
  kept_Cx1 = jax.nn.logsumexp(kept_CxJ, axis=-1, keepdims=True)
  return kept_CxJ + (whole_Cx1 - kept_Cx1)
