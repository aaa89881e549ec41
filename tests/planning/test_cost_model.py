"""FLOPs counted in a jaxpr, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from mattt_jax.planning.cost_model import matmul_flops, products

X = jax.ShapeDtypeStruct((3, 4), jnp.float32)
W = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ONCE = 2 * 3 * 4 * 4


@pytest.mark.parametrize(
  "fn, expected",
  [
    (lambda x, w: x @ w, ONCE),
    (lambda x, w: jnp.tanh(x) + 1, 0),
    (jax.jit(lambda x, w: jax.checkpoint(jnp.matmul)(x, w)), ONCE),
    # A loop counts as often as it runs, a loop in a loop too.
    (
      lambda x, w: jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0],
      7 * ONCE,
    ),
    (
      lambda x, w: jax.lax.scan(
        lambda x, _: (
          jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)[0], None
        ),
        x, length=2,
      )[0],
      6 * ONCE,
    ),
    # What no result needs is left out, in a loop too.
    (
      lambda x, w: jax.lax.scan(
        lambda x, _: (x @ w, x @ w @ w), x, length=3
      )[0],
      3 * ONCE,
    ),
    # Of the branches of a condition, the dearest.
    (
      lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: x @ w @ w),
      2 * ONCE,
    ),
    # d(xw) needs x' g and g w'.
    (
      lambda x, w: jax.value_and_grad(
        lambda x, w: jnp.sum(x @ w), (0, 1)
      )(x, w),
      3 * ONCE,
    ),
    # Batches multiply: [5, 3, 4] x [5, 4, 4].
    (
      lambda x, w: jnp.einsum(
        "bij,bjk->bik", jnp.stack([x] * 5), jnp.stack([w] * 5)
      ),
      5 * ONCE,
    ),
  ],
)  # fmt: skip
def test_counts(fn, expected):
  assert matmul_flops(fn, X, W) == expected


def test_a_while_loop_is_refused():
  def loop(x, w):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ w, x)

  with pytest.raises(ValueError, match="while loop.*lax.scan"):
    matmul_flops(loop, X, W)


def test_bytes_of_operands_and_results_times_the_loop():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

  found = products(loop, X, W)
  assert (found.flops, found.bytes) == (7 * ONCE, 7 * 4 * (12 + 16 + 12))
