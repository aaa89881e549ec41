"""Sampling text from a session."""

import jax
import jax.numpy as jnp
from jax import Array

from mattt_jax.config import require_at_least
from mattt_jax.inference.session import Session


def generate(
  session: Session, count: int, key: Array, temperature: float = 1.0
) -> list[int]:
  """Draws `count` tokens after what the session has read, reading each (and
  learning from it); `temperature` 0 takes the most likely token.

  Raises:
    ValueError: nothing was read yet, or no room is left in the context.
  """
  require_at_least("count", count, 1)
  require_at_least("temperature", temperature, 0)
  if session.probs_V is None:
    raise ValueError("the session is empty: read a prompt first")
  tokens = []
  for step_key in jax.random.split(key, count):
    probs_V = session.probs_V
    if temperature == 0:
      token = int(jnp.argmax(probs_V))
    else:
      logits_V = jnp.log(jnp.maximum(probs_V, 1e-30)) / temperature
      token = int(jax.random.categorical(step_key, logits_V))
    tokens.append(token)
    session.read([token])
  return tokens
