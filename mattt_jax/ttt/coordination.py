"""How fast weights and memory share the work.

Trained jointly from the start, weights and memory learn the same thing, and the
part that is harder to start ends unused. `CoordinationConfig` lists what can be
done about it.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mattt_jax.config import CoordinationConfig, Experiment, InnerConfig
from mattt_jax.ttt.parts import Parts


def parts_on(experiment: Experiment, step: int) -> Parts:
  """Parts that are on in outer step `step` of training. The memory's share is
  counted over the steps with the inner loop on, so that both are off together
  only before their starts."""
  c = experiment.coordination
  inner = experiment.inner.enabled and _on(
    step - c.inner_start, c.inner_off_share
  )
  memory = step >= c.memory_start
  if memory and c.memory_off_share:
    count = step - c.memory_start
    if experiment.inner.enabled:
      if not inner:
        return Parts(inner, True)
      count = _number_on(step - c.inner_start, c.inner_off_share)
    memory = _on(count, c.memory_off_share)
  return Parts(inner, memory)


def _on(step: int, off_share: float) -> bool:
  """Evenly spread: off in `off_share` of the steps from 0 on."""
  off = math.floor((step + 1) * off_share) - math.floor(step * off_share)
  return step >= 0 and off == 0


def _number_on(steps: int, off_share: float) -> int:
  return steps - math.floor(steps * off_share)


def rate_scale(config: InnerConfig, step):
  """Multiplier of the inner learning rate at outer step `step` (may be traced;
  None: after the warm-up): linear from warmup_init / learning_rate to 1 over
  `warmup_steps`, as published (arXiv 2512.23675)."""
  if step is None or not config.warmup_steps or not config.learning_rate:
    return 1.0
  first, last = config.warmup_init, config.learning_rate
  share = jnp.minimum(1.0, (step + 1) / config.warmup_steps)
  return (first + (last - first) * share) / last


class Coordination(nnx.Module):
  """What acts inside a chunk, and its meta-learned parameters."""

  def __init__(self, config: CoordinationConfig):
    self.config = config
    if config.rate_from_memory:
      self.rate_bias = nnx.Param(jnp.zeros((), jnp.float32))
      self.rate_weight = nnx.Param(jnp.zeros((), jnp.float32))

  def token_weight(self, weight_C: Array, loss_C: Array) -> Array:
    """Weights of the inner loss: w loss^p, no gradient through the loss."""
    if not self.config.surprise_power:
      return weight_C
    # where: the loss of a token of weight 0 may be anything, infinite too.
    loss_C = jnp.where(weight_C > 0, jax.lax.stop_gradient(loss_C), 1.0)
    return weight_C * jnp.maximum(loss_C, 1e-6) ** self.config.surprise_power

  def rate(self, memory_use_C: Array) -> Array | float:
    """Multiplier of the inner rate, exp(a + b mean(memory_use)); 1 at init."""
    if not self.config.rate_from_memory:
      return 1.0
    return jnp.exp(
      self.rate_bias[...] + self.rate_weight[...] * jnp.mean(memory_use_C)
    )
