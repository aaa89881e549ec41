"""When the inner loop learns during outer training.

Trained jointly from the start, weights and memory learn the same thing and the
memory, harder to start, ends unused. So the memory comes first (`start_step`),
and afterwards a share of the steps runs without the inner loop (`off_share`),
so that the memory stays able to answer alone.
"""

import math

import jax.numpy as jnp

from mattt_jax.config import InnerConfig


def inner_on(config: InnerConfig, step: int) -> bool:
  """Whether the inner loop runs in outer step `step` (a host decision: the
  two kinds of step are two compiled programs, and "off" costs no gradient)."""
  if not config.enabled or step < config.start_step:
    return False
  after = step - config.start_step
  share = config.off_share
  return math.floor((after + 1) * share) == math.floor(after * share)


def rate_scale(config: InnerConfig, step):
  """Multiplier of the inner learning rate at outer step `step` (may be traced):
  linear from warmup_init / learning_rate to 1 over `warmup_steps`, as published
  (arXiv 2512.23675)."""
  if not config.warmup_steps or not config.learning_rate:
    return 1.0
  share = jnp.minimum(1.0, (step + 1) / config.warmup_steps)
  rate = (
    config.warmup_init + (config.learning_rate - config.warmup_init) * share
  )
  return rate / config.learning_rate
