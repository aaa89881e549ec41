"""A small network a head, trained on the pairs while they are read (Titans).

The network M learns to map each token's key to its value, by gradient descent
with momentum and forgetting (2501.00663, eq. 11 to 14):

    l(M; k_t, v_t) = |M(k_t) - v_t|^2
    S_t = eta_t S_{t-1} - theta_t grad l(M'; k_t, v_t)
    M_t = (1 - alpha_t) M_{t-1} + S_t

with learned theta_t, eta_t, alpha_t of each token and head, unit keys and
values, and the gradient clipped. M' are the weights before the `write_chunk`
tokens around t (section 3.2), whose gradients are taken at once; with
write_chunk=1 it is M_{t-1}. A matrix (depth=1) with eta=alpha=0 then learns by
the delta rule.

The initial weights M_0 are learned. A read gives M(q) - M_0(q), only what the
context taught, so that an empty memory adds exactly 0.

The paper's memory as a layer is place="before_attention"; its memory as a gate
is the default, place="after_attention" with gate="sigmoid": the address does
not depend on attention, and the gate weighs what is added to its output.

Shapes: H heads, K key dim, E value dim, F hidden, I and O in and out of a
layer, B tokens of a write chunk.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import Array

from mattt_jax.config import require, require_at_least, require_positive
from mattt_jax.layers.norms import RMSNorm, unit
from mattt_jax.layers.parameters import copied_param, full_param, normal_param
from mattt_jax.memory.base import BaseConfig, Gate, Memory, Pairs, ResidualRead

Layers = tuple[Array, ...]  # [H, I, O] of each layer


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings of the neural memory."""

  num_heads: int = 4
  key_dim: int = 16
  value_dim: int = 16
  depth: int = 2  # layers of a head's network; 1: a matrix
  hidden: int = 32  # width between them
  # Tokens whose gradients share weights. More is faster, but overshoots what
  # they have in common: learning_rate must fall.
  write_chunk: int = 1
  # At init, of each token; all three are learned functions of it.
  learning_rate: float = 0.25  # theta, which stays below twice that
  momentum: float = 0.1  # eta
  # alpha. M_0 is forgotten with the rest, and a deep M that has lost its first
  # layer learns nothing: 0.001 shows at 2,000 tokens.
  forget: float = 0.0001
  # Limit of a token's gradient in a head; an unknown value has 2 at depth 1.
  # Without it (0, as published) large rates make deep memories diverge.
  clip_norm: float = 2.0

  SPLIT: ClassVar = {"num_heads": "tensor"}

  def make(self, dim: int, chunk: int, rngs: nnx.Rngs) -> "Neural":
    return Neural(self, dim, rngs)

  def check(self, experiment) -> None:
    super().check(experiment)
    sizes = ("num_heads", "key_dim", "value_dim", "depth", "hidden")
    for field in (*sizes, "write_chunk"):
      require_at_least(f"memory.{field}", getattr(self, field), 1)
    require(
      experiment.chunk % self.write_chunk == 0,
      f"memory.write_chunk={self.write_chunk} must divide chunk="
      f"{experiment.chunk}",
    )
    require_at_least("memory.clip_norm", self.clip_norm, 0.0)
    require_positive("memory.learning_rate", self.learning_rate)
    for field in ("momentum", "forget"):
      value = getattr(self, field)
      require(
        0 < value < 1,
        f"memory.{field}={value} must lie in (0, 1): it is learned, as a "
        "sigmoid",
      )


@struct.dataclass
class State:
  """What the context did to the networks, float32: the change, not the weights,
  which is exactly 0 at first and does not round small steps away."""

  change: Layers  # M - M_0
  momentum: Layers  # S

  AXES: ClassVar = {
    "change": ("tensor", None, None),
    "momentum": ("tensor", None, None),
  }


class Neural(Memory):
  """Parameters: projections, M_0, the three rates, output gate."""

  def __init__(self, config: Config, dim: int, rngs: nnx.Rngs):
    c = self.config = config
    self.dim = dim
    keys, values = c.num_heads * c.key_dim, c.num_heads * c.value_dim
    std = 1 / math.sqrt(dim)
    self.norm = RMSNorm(dim, 1e-6)
    self.wq = normal_param(rngs, (dim, keys), std)
    # Queries start as keys, so that what was stored is found from the start.
    self.wk = copied_param(self.wq)
    self.wv = normal_param(rngs, (dim, values), std)
    # A head's values are unit: the output's RMS is 1 where all heads recall.
    self.wo = normal_param(rngs, (values, dim), 1 / math.sqrt(c.num_heads))
    # Keys are unit, so weights of N(0, 1) put the hidden units where they bend;
    # the last layer starts at 0, so that the first write stores the value
    # itself, not its difference to a guess.
    self.initial = nnx.List(
      normal_param(rngs, shape, float(i + 1 < c.depth))
      for i, shape in enumerate(self._shapes())
    )
    self.rate_weight = full_param(0, dim, 3 * c.num_heads)
    start_3 = jnp.array([0.5, c.momentum, c.forget], jnp.float32)
    self.rate_bias = nnx.Param(
      jnp.repeat(jax.scipy.special.logit(start_3), c.num_heads)
    )
    self.gate = Gate(config, dim)

  def init_state(self, context_length: int) -> State:
    """Networks at M_0 and at rest, whatever the length."""
    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in self._shapes())
    return State(zeros, zeros)

  def read(self, state: State, hidden_CxD: Array) -> ResidualRead:
    """M(q) - M_0(q) for each head, projected back and gated."""
    hidden_CxD = self.norm(hidden_CxD)
    q_CxHxK = unit(self._heads(hidden_CxD, self.wq))
    out_CxHxE = _difference(self._initial(), state.change, q_CxHxK)
    out_CxD = out_CxHxE.reshape(len(hidden_CxD), -1) @ self.wo[...]
    return self.gate(hidden_CxD, out_CxD)

  def write(self, state: State, pairs: Pairs) -> State:
    """Titans' recurrences over the tokens, by write chunks in order.

    Raises:
      ValueError: the write chunk does not divide the pairs.
    """
    hidden_CxD = self.norm(pairs.hidden_CxD)
    k_CxHxK = unit(self._heads(hidden_CxD, self.wk))
    v_CxHxE = unit(self._heads(pairs.value_CxD, self.wv))
    initial = self._initial()
    if len(hidden_CxD) % self.config.write_chunk:
      raise ValueError(
        f"memory.write_chunk={self.config.write_chunk} must divide the "
        f"{len(hidden_CxD)} pairs of a write"
      )

    def step(state, chunk):
      k_BxHxK, v_BxHxE, effects = chunk
      weights = jax.tree.map(jnp.add, initial, state.change)
      inputs, deltas = _gradient(weights, k_BxHxK, v_BxHxE)
      clip_BxH = _clip(inputs, deltas, self.config.clip_norm)
      # S and M are linear in the gradients: their sums over the write chunk
      # are matrix products, and no token's gradient is ever laid out.
      scale_2xBxH = effects.of_gradient_2xBxH * clip_BxH
      added = jax.tree.map(
        lambda x_BxHxI, d_BxHxO: jnp.einsum(
          "bhi,sbho->shio", x_BxHxI, scale_2xBxH[..., None] * d_BxHxO
        ),
        inputs,
        deltas,
      )
      decayed, kept, carried = (x[:, None, None] for x in effects.of_before_3xH)

      def new_change(start, change, momentum, added):
        # Forgetting goes to 0, not to M_0.
        forgotten = (1 - kept) * start
        return kept * change - forgotten + carried * momentum - added[1]

      def new_momentum(momentum, added):
        return decayed * momentum - added[0]

      return State(
        jax.tree.map(new_change, initial, state.change, state.momentum, added),
        jax.tree.map(new_momentum, state.momentum, added),
      ), None

    xs = jax.tree.map(
      lambda x: x.reshape(-1, self.config.write_chunk, *x.shape[1:]),
      (k_CxHxK, v_CxHxE, self._rates(hidden_CxD, pairs.valid_C)),
    )
    effects = jax.vmap(_effects)(xs[2])
    return jax.lax.scan(step, state, (xs[0], xs[1], effects))[0]

  def flops_per_token(self, context_length: int) -> float:
    """The same at every length: projections and the networks."""
    c, dim = self.config, self.dim
    sizes = [h * i * o for h, i, o in self._shapes()]
    # x_0 M_0 except in the last layer, x_0 (M - M_0), (x - x_0) M except in
    # the first.
    read = 3 * sum(sizes) - sizes[0] - sizes[-1]
    # Forward, back to all layers but the first, gradients for S and for M.
    write = 4 * sum(sizes) - sizes[0]
    projections = c.num_heads * (2 * c.key_dim + 2 * c.value_dim + 3) + 1
    return 2.0 * (read + write + dim * projections)

  def _shapes(self) -> list[tuple[int, int, int]]:
    c = self.config
    sizes = [c.key_dim, *[c.hidden] * (c.depth - 1), c.value_dim]
    return [(c.num_heads, i, o) for i, o in zip(sizes, sizes[1:], strict=False)]

  def _initial(self) -> Layers:
    return tuple(w[...] for w in self.initial)

  def _heads(self, x_CxD: Array, w) -> Array:
    return (x_CxD @ w[...]).reshape(len(x_CxD), self.config.num_heads, -1)

  def _rates(self, hidden_CxD: Array, valid_C: Array) -> "_Rates":
    """theta, eta, 1 - alpha; a token that is not valid moves nothing."""
    logit_CxRH = hidden_CxD @ self.rate_weight[...] + self.rate_bias[...]
    theta, eta, alpha = jnp.split(jax.nn.sigmoid(logit_CxRH), 3, axis=-1)
    valid_Cx1 = valid_C[:, None]
    return _Rates(
      theta=jnp.where(valid_Cx1, 2 * self.config.learning_rate * theta, 0.0),
      eta=jnp.where(valid_Cx1, eta, 1.0),
      keep=jnp.where(valid_Cx1, 1 - alpha, 1.0),
      moves=jnp.where(valid_Cx1, jnp.ones_like(eta), 0.0),
    )


@struct.dataclass
class _Rates:
  """A token moves S = eta S - theta g, M = keep M + moves S; [C, H] each."""

  theta: Array
  eta: Array
  keep: Array
  moves: Array


@struct.dataclass
class _Effects:
  """How S and M after a write chunk depend on those before and on each token's
  gradient: S' = decayed S - sum_t of_gradient[0]_t g_t and
  M' = kept M + carried S - sum_t of_gradient[1]_t g_t."""

  of_before_3xH: tuple[Array, Array, Array]  # decayed, kept, carried
  of_gradient_2xBxH: Array


def _effects(rates: _Rates) -> _Effects:
  """Effects of B tokens, [B, H] each, from the last one back."""

  def step(carry, rate: _Rates):
    # Of S on the final S, of M on the final M, of S on the final M.
    decayed_H, kept_H, carried_H = carry
    carried_H = carried_H + rate.moves * kept_H
    of_gradient_2xH = rate.theta * jnp.stack([decayed_H, carried_H])
    carry = decayed_H * rate.eta, kept_H * rate.keep, carried_H * rate.eta
    return carry, of_gradient_2xH

  one_H = jnp.ones_like(rates.eta[0])
  start = one_H, one_H, jnp.zeros_like(one_H)
  of_before, of_gradient = jax.lax.scan(step, start, rates, reverse=True)
  return _Effects(of_before, of_gradient.swapaxes(0, 1))


def _layer(x_BxHxI: Array, w_HxIxO: Array) -> Array:
  return jnp.einsum("bhi,hio->bho", x_BxHxI, w_HxIxO)


def _gradient(weights: Layers, k: Array, v: Array) -> tuple[Layers, Layers]:
  """Gradients of |M(k) - v|^2, for each token and head the outer product of
  what a layer was given, [B, H, I], and what came back to it, [B, H, O].

  SiLU is divided by sqrt(F), for steps that change the output as much at every
  width.
  """

  def loss(nudges):
    inputs = [k]
    for w, nudge in zip(weights[:-1], nudges[:-1], strict=True):
      y = _layer(inputs[-1], w) + nudge
      inputs.append(jax.nn.silu(y) / math.sqrt(y.shape[-1]))
    error = _layer(inputs[-1], weights[-1]) + nudges[-1] - v
    return jnp.sum(jnp.square(error)), tuple(inputs)

  nudges = tuple(
    jnp.zeros((*k.shape[:2], w.shape[-1]), k.dtype) for w in weights
  )
  deltas, inputs = jax.grad(loss, has_aux=True)(nudges)
  return inputs, deltas


def _clip(inputs: Layers, deltas: Layers, clip_norm: float) -> Array:
  """min(1, clip_norm / |gradient|) of each token and head."""
  square_BxH = sum(
    jnp.sum(jnp.square(x), -1) * jnp.sum(jnp.square(d), -1)
    for x, d in zip(inputs, deltas, strict=True)
  )
  if not clip_norm:
    return jnp.ones_like(square_BxH)
  return clip_norm * jax.lax.rsqrt(jnp.maximum(square_BxH, clip_norm**2))


def _difference(initial: Layers, change: Layers, x: Array) -> Array:
  """(M_0 + change)(x) - M_0(x), exactly 0 where the change is.

  It is carried from layer to layer: the difference of two products may leave
  1e-7 (a compiler fuses one of them with the subtraction).
  """
  by = _layer(x, change[0])  # what M's layer gives beyond M_0's
  for w, start, d in zip(initial[:-1], initial[1:], change[1:], strict=True):
    y = _layer(x, w)
    # silu(y + by) - silu(y), of silu(y) = y sigmoid(y).
    before, after = jax.nn.sigmoid(y), jax.nn.sigmoid(y + by)
    scale = 1 / math.sqrt(y.shape[-1])
    x = scale * y * before
    moved = scale * (by * after + y * (after - before))
    by = _layer(x, d) + _layer(moved, start + d)
  return by
