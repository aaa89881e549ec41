"""The head on a large vocabulary: scores of a block of it at a time.

Logits of C tokens on V entries are the largest array of a step with a large V.
Here they exist for one block of the vocabulary at a time; a backward pass
computes them again. It may be differentiated any number of times.

Shapes: C tokens, D model, V vocabulary, J tokens asked for, n blocks of B.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.recompute import recomputed

_MASKED = -1e30  # finite, so that gradients are


@struct.dataclass
class Scores:
  """What the head says about each of C tokens; float32 or wider."""

  target_C: Array  # logit of its target
  log_total_C: Array  # log of the sum of exp(logit) over the vocabulary
  # Without a gradient: the largest logit, its entry (the first of equal ones),
  # and the logits of the other entries that were asked for.
  best_C: Array
  likely_C: Array
  asked_CxJ: Array

  @property
  def log_prob_C(self) -> Array:
    """log p(target)."""
    return self.target_C - self.log_total_C


def logits(h_CxD: Array, head_DxV: Array) -> Array:
  """[C, V], in float32 or wider."""
  dtype = jnp.promote_types(h_CxD.dtype, jnp.float32)
  return jnp.einsum(
    "cd,dv->cv",
    h_CxD,
    head_DxV.astype(h_CxD.dtype),
    preferred_element_type=dtype,
  )


def scores(
  h_CxD: Array,
  head_DxV: Array,
  target_C: Array,
  block: int,
  asked_CxJ: Array | None = None,
) -> Scores:
  """Scores every entry of the vocabulary.

  Args:
    h_CxD: what the head sees.
    head_DxV: its weights.
    target_C: int32.
    block: entries that are scored at once, about; 0: all.
    asked_CxJ: int32, other entries whose logits are wanted.
  """
  vocab = head_DxV.shape[1]
  n = math.ceil(vocab / block) if block else 1
  size = math.ceil(vocab / n)
  if asked_CxJ is None:
    asked_CxJ = target_C[:, None][:, :0]

  def read(b, head_DxB):
    """Scores of block b: entries b, b + n, b + 2 n, ..."""
    logits_CxB = logits(h_CxD, head_DxB)
    if n * size > vocab:
      inside_B = jnp.arange(size) * n + b < vocab
      logits_CxB = jnp.where(inside_B, logits_CxB, _MASKED)

    def pick(logits_CxB, entry_CxJ):
      logit_CxJ = jnp.take_along_axis(logits_CxB, entry_CxJ // n, axis=-1)
      return jnp.where(entry_CxJ % n == b, logit_CxJ, 0.0)

    seen_CxB = jax.lax.stop_gradient(logits_CxB)
    return Scores(
      target_C=pick(logits_CxB, target_C[:, None])[:, 0],
      log_total_C=jax.nn.logsumexp(logits_CxB, axis=-1),
      best_C=jnp.max(seen_CxB, axis=-1),
      likely_C=jnp.argmax(seen_CxB, axis=-1) * n + b,
      asked_CxJ=pick(seen_CxB, asked_CxJ),
    )

  if n == 1:
    return read(0, head_DxV)
  # Every n-th entry, not runs of them, so that devices split every block.
  head_DxV = jnp.pad(head_DxV, ((0, 0), (0, n * size - vocab)))
  head_nxDxB = jnp.moveaxis(head_DxV.reshape(-1, size, n), -1, 0)
  read = recomputed(read)
  _, blocks = jax.lax.scan(
    lambda _, x: (None, read(*x)), None, (jnp.arange(n), head_nxDxB)
  )
  best_C = jnp.max(blocks.best_C, axis=0)
  likely_C = jnp.where(blocks.best_C == best_C, blocks.likely_C, vocab)
  return Scores(
    target_C=jnp.sum(blocks.target_C, axis=0),
    log_total_C=jax.nn.logsumexp(blocks.log_total_C, axis=0),
    best_C=best_C,
    likely_C=jnp.min(likely_C, axis=0),
    asked_CxJ=jnp.sum(blocks.asked_CxJ, axis=0),
  )


def total_of_each(token_CxJ: Array, mass_CxJ: Array, vocab: int) -> Array:
  """The mass of all candidates of a row that name the same token, [C, J]."""
  if token_CxJ.shape[1] ** 2 <= vocab:
    same_CxJxJ = token_CxJ[:, :, None] == token_CxJ[:, None, :]
    return jnp.sum(jnp.where(same_CxJxJ, mass_CxJ[:, None, :], 0.0), axis=-1)
  rows_Cx1 = jnp.arange(len(token_CxJ))[:, None]
  mass_CxV = jnp.zeros((len(token_CxJ), vocab), mass_CxJ.dtype)
  return mass_CxV.at[rows_Cx1, token_CxJ].add(mass_CxJ)[rows_Cx1, token_CxJ]
