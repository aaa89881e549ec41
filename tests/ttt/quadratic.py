"""A model whose inner loop can be worked out by hand.

Token t pulls the fast weights a, b toward its own place c_t:

    loss_t = (a - c_t)' A (a - c_t) / 2 + |b - 2 c_t|^2 / 2 + slope a' c_t

with A the `curvature` (symmetric). There is nothing but the fast weights to
carry from chunk to chunk. What it says of its memory, which it does not have,
is the sigmoid of c_t's first number.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from mattt_jax.config import CoordinationConfig, InnerConfig
from mattt_jax.model.fast_weights import FastWeight
from mattt_jax.ttt.inner_loop import make_learner
from mattt_jax.ttt.learner import Learner

DIM, VOCAB, CHUNK = 3, 7, 4


@struct.dataclass
class Cache:
  prefix: None = None
  suffix: None = None


@struct.dataclass
class Forward:
  loss_CxV: jax.Array
  memory_use_C: jax.Array
  cache: None = None


class Quadratic(nnx.Module):
  vocab_size = VOCAB

  def __init__(self, curved: bool = True, slope: float = 0.0):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(DIM, DIM)) * curved
    self.a = FastWeight(jnp.asarray(rng.normal(size=DIM)))
    self.b = FastWeight(jnp.asarray(rng.normal(size=DIM)))
    self.places = nnx.Param(jnp.asarray(rng.normal(size=(VOCAB, DIM))))
    self.curvature = nnx.Param(jnp.asarray(root @ root.T / DIM))
    self.slope = slope

  def init_cache(self, context_length, streaming=True):
    return Cache()

  def init_memory(self, context_length):
    return None

  def read_prefix(self, tokens_L, cache, position):
    return self.places[...][tokens_L], cache

  def forward(self, x_CxD, cache, memory, position):
    a_CxD, b_CxD = self.a[...] - x_CxD, self.b[...] - 2 * x_CxD
    pull_C = jnp.einsum("cd,de,ce->c", a_CxD, self.curvature[...], a_CxD)
    loss_C = (pull_C + jnp.sum(b_CxD**2, -1)) / 2
    loss_C += self.slope * x_CxD @ self.a[...]
    loss_CxV = jnp.broadcast_to(loss_C[:, None], (len(x_CxD), VOCAB))
    return Forward(loss_CxV, jax.nn.sigmoid(x_CxD[:, 0]))

  def score(self, forward, targets_C):
    # All entries are as likely: the first is the likeliest.
    return forward.loss_CxV[:, 0], targets_C == 0

  def read_loss(self, forward, targets_C):
    return jnp.zeros(targets_C.shape), jnp.zeros(targets_C.shape, bool)

  def memory_use(self, forward):
    return forward.memory_use_C

  def diagnostics(self, forward):
    return {}

  def write(self, memory, forward, targets_C, surprise_C, relevant_C, valid_C):
    return memory


def learner(
  curved: bool = True,
  slope: float = 0.0,
  coordination: CoordinationConfig | None = None,
  **inner,
) -> Learner:
  """A quadratic, in float64, and how it learns; default: plain SGD."""
  config = InnerConfig(**{"learning_rate": 0.3, "clip_norm": 0.0} | inner)
  coordination = coordination or CoordinationConfig()
  made = make_learner(Quadratic(curved, slope), config, CHUNK, coordination)
  graphdef, state = nnx.split(made)
  return nnx.merge(
    graphdef, jax.tree.map(lambda x: x.astype(jnp.float64), state)
  )


def gradients(model: Quadratic, fast, tokens_C, weight_C):
  """Inner gradient by hand, at fast = {"a": .., "b": ..}."""
  share_C = weight_C / weight_C.sum()
  c_CxD = np.asarray(model.places[...])[tokens_C]
  mean_D = share_C @ c_CxD
  return {
    "a": np.asarray(model.curvature[...]) @ (fast["a"] - mean_D)
    + model.slope * mean_D,
    "b": fast["b"] - 2 * mean_D,
  }


def token_losses(model: Quadratic, fast, tokens_C):
  """loss_t by hand, [C]."""
  c_CxD = np.asarray(model.places[...])[tokens_C]
  a_CxD, b_CxD = fast["a"] - c_CxD, fast["b"] - 2 * c_CxD
  pull_C = np.einsum("cd,de,ce->c", a_CxD, model.curvature[...], a_CxD)
  return (pull_C + (b_CxD**2).sum(-1)) / 2 + model.slope * c_CxD @ fast["a"]
