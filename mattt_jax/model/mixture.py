"""One next-token distribution of two: the model's own and what a pointer read.

    p(y) = null p_model(y) + sum_j w_j [token_j = y],   null + sum_j w_j = 1

Shapes: C tokens, J candidates of the read, V vocabulary.
"""

import jax
import jax.numpy as jnp
from jax import Array

from mattt_jax.memory.base import PointerRead
from mattt_jax.model import head

_NONE = -1e30  # log of no probability; finite, so that gradients are


def score(
  read: PointerRead, own: head.Scores, targets_C: Array, vocab_size: int
) -> tuple[Array, Array]:
  """-log p(target) of each token, [C], and whether no other one is more likely,
  [C]; `own` are the head's scores, of the read's candidates too."""
  own_Cx1 = (read.log_null_C + own.log_prob_C)[:, None]
  loss_C = -jax.nn.logsumexp(
    jnp.concatenate([own_Cx1, _hits(read, targets_C)], axis=-1), axis=-1
  )
  # The likeliest token is one that was recalled or the model's own.
  log_share_C = read.log_null_C - own.log_total_C
  recalled_CxJ = head.total_of_each(
    read.token_CxJ, jnp.exp(read.log_prob_CxJ), vocab_size
  ) + jnp.exp(log_share_C[:, None] + own.asked_CxJ)
  own_Cx1 = jnp.exp(log_share_C + own.best_C)[:, None]
  prob = jnp.concatenate([own_Cx1, recalled_CxJ], axis=-1)
  token = jnp.concatenate([own.likely_C[:, None], read.token_CxJ], axis=-1)
  top = prob == jnp.max(prob, axis=-1, keepdims=True)
  likely_C = jnp.min(jnp.where(top, token, vocab_size), axis=-1)
  return loss_C, likely_C == targets_C


def recalled_loss(read: PointerRead, targets_C: Array) -> tuple[Array, Array]:
  """-log of the target's share of the recalled tokens, [C], and whether it is
  one of them, [C]."""
  hits_C = jax.nn.logsumexp(_hits(read, targets_C), axis=-1)
  # An empty slot holds some token, too, and an empty memory recalls none.
  hit_C = (hits_C > -1e29) & (read.log_null_C < -1e-6)
  loss_C = jax.nn.logsumexp(read.log_prob_CxJ, axis=-1) - hits_C
  return jnp.where(hit_C, loss_C, 0.0), hit_C


def speak(read: PointerRead, logit_C: Array) -> PointerRead:
  """The part of a read, sigmoid(logit), that also predicts the next token: what
  the suffix is fed need not be the answer itself."""
  recalled_C = jax.nn.logsumexp(read.log_prob_CxJ, axis=-1)
  return PointerRead(
    token_CxJ=read.token_CxJ,
    log_prob_CxJ=read.log_prob_CxJ + jax.nn.log_sigmoid(logit_C)[:, None],
    log_null_C=jnp.logaddexp(
      read.log_null_C, recalled_C + jax.nn.log_sigmoid(-logit_C)
    ),
  )


def next_token_probs(read: PointerRead, own_CxV: Array) -> Array:
  """p(y) of all tokens, [C, V]."""
  rows_Cx1 = jnp.arange(len(own_CxV))[:, None]
  return (
    (jnp.exp(read.log_null_C)[:, None] * own_CxV)
    .at[rows_Cx1, read.token_CxJ]
    .add(jnp.exp(read.log_prob_CxJ))
  )


def _hits(read: PointerRead, targets_C: Array) -> Array:
  hit_CxJ = read.token_CxJ == targets_C[:, None]
  return jnp.where(hit_CxJ, read.log_prob_CxJ, _NONE)
