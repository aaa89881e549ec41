"""The inner update: what one gradient does to the fast weights.

    W_i = W_0 + r (W_{i-1} - W_0) - eta u_i,    u = optax transform of the grad

and then, with `max_drift`, W_i - W_0 is scaled down to that norm. The meta loss
may learn eta and r, one for each fast tensor.
"""

import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mattt_jax.config import InnerConfig


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """g if |g| < max_norm else g max_norm / |g|; optax's own has a nan derivative
  at g = 0 (0 * inf), the gradient of a chunk without a valid target."""

  def update(updates, state, params=None):
    square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(updates))
    over = square >= max_norm**2
    scale = jnp.where(
      over, max_norm * jax.lax.rsqrt(jnp.where(over, square, 1.0)), 1.0
    )
    return jax.tree.map(lambda g: g * scale, updates), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def transform(config: InnerConfig) -> optax.GradientTransformation:
  """The direction u of the update, before eta; weight decay is decoupled."""
  steps: list[optax.GradientTransformation] = [optax.identity()]
  if config.clip_norm > 0:
    steps.append(clip_by_global_norm(config.clip_norm))
  if config.optimizer == "momentum":
    steps.append(optax.trace(config.momentum))
  if config.optimizer == "adamw":
    # eps_root: the derivative of sqrt at a zero second moment is infinite.
    steps.append(
      optax.scale_by_adam(config.b1, config.b2, config.eps, eps_root=1e-12)
    )
  if config.weight_decay > 0:
    steps.append(optax.add_decayed_weights(config.weight_decay))
  return optax.chain(*steps)


class InnerOptimizer(nnx.Module):
  """The inner optimiser; its learned rates are slow parameters."""

  def __init__(self, config: InnerConfig, num_tensors: int):
    """`num_tensors`: T, how many fast tensors there are."""
    self.config = config
    if config.learn_rate:
      self.log_rate_T = nnx.Param(
        jnp.full((num_tensors,), math.log(config.learning_rate), jnp.float32)
      )
    if config.learn_retention:
      logit = math.log(config.retention / (1 - config.retention))
      self.retention_logit_T = nnx.Param(
        jnp.full((num_tensors,), logit, jnp.float32)
      )

  def rates(self) -> Array | float:
    """eta: [T] when learned."""
    if self.config.learn_rate:
      return jnp.exp(self.log_rate_T[...])
    return self.config.learning_rate

  def retentions(self) -> Array | float:
    """r: [T] when learned."""
    if self.config.learn_retention:
      return jax.nn.sigmoid(self.retention_logit_T[...])
    return self.config.retention

  def init(self, fast):
    """The optimiser's state for fast weights `fast`."""
    return transform(self.config).init(fast)

  def update(self, grads, opt_state, fast, fast_0, rate_scale: Array | float):
    """(W_i, `opt_state` after it) of the `grads` of the inner loss, `fast`
    being W_{i-1} and `fast_0` W_0; `rate_scale` multiplies eta."""
    updates, opt_state = transform(self.config).update(grads, opt_state, fast)
    leaves, treedef = jax.tree.flatten(fast)
    rates, retentions = self.rates(), self.retentions()
    new = []
    others = jax.tree.leaves(fast_0), jax.tree.leaves(updates)
    for t, (w, w_0, u) in enumerate(zip(leaves, *others, strict=True)):
      rate = rates[t] if isinstance(rates, Array) else rates
      r = retentions[t] if isinstance(retentions, Array) else retentions
      if isinstance(r, Array) or r != 1.0:
        w = w_0 + r * (w - w_0)
      new.append(w - rate * rate_scale * u)
    new = jax.tree.unflatten(treedef, new)
    if self.config.max_drift > 0:
      drift = jax.tree.map(jnp.subtract, new, fast_0)
      cap = clip_by_global_norm(self.config.max_drift)
      drift, _ = cap.update(drift, optax.EmptyState())
      new = jax.tree.map(jnp.add, fast_0, drift)
    return new, opt_state
