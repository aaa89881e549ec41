"""Parameters: making them, stacking them over blocks, scanning the stack."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mattt_jax.recompute import recomputed

M = TypeVar("M", bound=nnx.Module)


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], std: float):
  """A float32 parameter drawn from N(0, std^2)."""
  return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


def full_param(value: float, *shape: int):
  """A float32 parameter with `value` everywhere; a scalar without a shape."""
  return nnx.Param(jnp.full(shape, value, jnp.float32))


def copied_param(param) -> nnx.Param:
  """A parameter that starts equal to another one."""
  return nnx.Param(jnp.array(param[...], copy=True))


def stack(make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
  """One module that holds `count` modules, their arrays stacked on axis 0."""
  keys = jax.random.split(rngs.params(), count)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  states = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys)
  return nnx.merge(graphdef, states)


def repeat(tree, count: int):
  """Stacks each array `count` times on axis 0: one state a layer."""
  return jax.tree.map(lambda x: jnp.stack([x] * count), tree)


def scan_stack(
  stacked: nnx.Module,
  step: Callable,
  carry,
  xs,
  *,
  unroll: int = 1,
  remat: bool = False,
):
  """`lax.scan` of `step(layer, carry, x) -> (carry, y)` over the layers.

  `remat` recomputes a layer in the backward pass instead of storing it.
  """
  graphdef, state = nnx.split(stacked)

  def body(carry, layer_and_x):
    layer, x = layer_and_x
    return step(nnx.merge(graphdef, layer), carry, x)

  if remat:
    body = recomputed(body)
  return jax.lax.scan(body, carry, (state, xs), unroll=unroll)
