"""Gradients that are differentiated again, forward over reverse.

The meta-gradient needs the derivative of an inner gradient g(W, x) = dL/dW.
Reverse over reverse stores what both passes computed. But for a cotangent u of
g, <u, g> is the directional derivative of L along u, so that

    d<u, g>/d(W, x) = d/de [dL/d(W, x)](W + e u, x)     at e = 0

which is one forward-mode derivative of one ordinary gradient: exact, and it
keeps only what that gradient itself does (2505.00793). It computes the gradient
anew; the first one, which made the update, is saved (`remat.chunk`). Without
recomputed chunks (`inner.remat_levels=0`) "reverse" has fewer operations.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mattt_jax.config import require_choice
from mattt_jax.ttt.remat import SAVED

MODES = ("mixed", "reverse")


def value_and_grad(
  loss_fn: Callable[[Any], tuple[jax.Array, Any]], at: Any, mode: str = "mixed"
):
  """(loss, aux) and gradient: `jax.value_and_grad(loss_fn, has_aux=True)(at)`.

  Args:
    loss_fn: at -> (scalar loss, aux); may close over traced arrays.
    at: arrays of floating point.
    mode: how the result is differentiated, the numbers being the same: "mixed"
      (in reverse mode only, once) or "reverse" (any way and number of times).
  """
  require_choice("mode", mode, MODES)
  if mode == "reverse":
    return jax.value_and_grad(loss_fn, has_aux=True)(at)
  # What is closed over becomes an argument: it has a derivative, too.
  closed, shape = jax.make_jaxpr(loss_fn, return_shape=True)(at)
  structure = jax.tree.structure(shape)

  def run(at, consts):
    out = jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(at))
    return jax.tree.unflatten(structure, out)

  @jax.custom_vjp
  def gradient(at, consts):
    out = jax.value_and_grad(run, has_aux=True)(at, consts)
    return _batched_like((at, consts), out)

  def forward(at, consts):
    return gradient(at, consts), (at, consts)

  def backward(residuals, cotangents):
    at, consts = residuals
    (loss_bar, aux_bar), grad_bar = cotangents
    varied = _floats(consts)

    def outputs(at, varied):
      left = iter(varied)
      loss, aux = run(at, [next(left) if _inexact(x) else x for x in consts])
      return loss, _floats(aux)

    def pull(at, bars):
      return jax.vjp(outputs, at, varied)[1](bars)

    aux_bar = _floats(aux_bar)
    primal = jnp.ones_like(loss_bar), [jnp.zeros_like(x) for x in aux_bar]
    # `pull` is linear in the cotangents: their tangents add the plain
    # derivative of loss and aux to that of the gradient.
    _, (at_bar, varied_bar) = jax.jvp(
      pull, (at, primal), (grad_bar, (loss_bar, aux_bar))
    )
    left = iter(varied_bar)
    return at_bar, [next(left) if _inexact(x) else None for x in consts]

  gradient.defvjp(forward, backward)
  out, grads = gradient(at, closed.consts)
  return out, checkpoint_name(grads, SAVED)


def _batched_like(inputs, outputs):
  """`outputs`, each with a batch axis under `vmap` where any input has one.

  A custom derivative is summed over the examples for what they share. An output
  that they shared too would have its one cotangent counted once per example.
  """
  leaves = [x for x in jax.tree.leaves(inputs) if jnp.size(x)]
  first = [jnp.asarray(x)[(0,) * jnp.ndim(x)] for x in leaves]
  # Whatever its value: XLA drops a choice between equals and what it rests on.
  either = jnp.any(jnp.stack([x == x for x in first]))
  return jax.tree.map(lambda x: jax.lax.select(either, x, x), outputs)


def _inexact(x) -> bool:
  return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _floats(tree) -> list:
  return [x for x in jax.tree.leaves(tree) if _inexact(x)]
