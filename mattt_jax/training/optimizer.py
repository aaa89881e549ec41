"""The outer optimiser: clip, AdamW, linear warm-up and cosine decay."""

from typing import Any

import jax
import optax

from mattt_jax.config import OuterConfig
from mattt_jax.devices.sharding import path_name


def learning_rate(config: OuterConfig, steps: int) -> optax.Schedule:
  """Rate of update number `step` = 0 .. `steps` - 1.

  It rises linearly to `learning_rate` in update `warmup_steps - 1` (so that the
  first is not empty), then falls as a cosine to `final_learning_rate` in the
  last.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=max(steps, config.warmup_steps + 1),
    end_value=config.final_learning_rate,
  )
  return lambda step: schedule(step + 1)


def decay_mask(params: Any) -> Any:
  """Marks the parameters that weight decay shrinks.

  The published recipe decays every tensor. Learned inner rates and retentions
  (under "inner", "coordination") are left alone: they are logarithms and
  logits, for which zero is a particular rate and not a small weight.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not path_name(path).startswith(("inner/", "coordination/")),
    params,
  )


def make_optimizer(
  config: OuterConfig, steps: int
) -> optax.GradientTransformation:
  """Makes the chain that updates the slow parameters, for `steps` updates."""
  adamw = optax.adamw(
    learning_rate(config, steps),
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=decay_mask,
  )
  if config.clip_norm == 0:
    return adamw
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
