"""Meta-gradients against finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

LENGTH = 4 * small.CHUNK
CASES = {
  f"{memory}-{read}": (memory, read, {}) for memory, read in small.SYSTEMS
} | {
  # Its gradients are smaller: the clip acts in some chunks.
  "associative-residual": (
    "associative",
    "residual",
    dict(inner__clip_norm=0.8),
  ),
  # Addresses that the fast weights move, from another place in the block.
  "episodic-hidden": (
    "episodic",
    "residual",
    dict(memory__address="hidden", memory__place="after_mlp"),
  ),
  "coordination": (
    "episodic",
    "pointer",
    dict(
      coordination__inner_loss="without_memory",
      coordination__rate_from_memory=True,
      inner__max_drift=0.5,
      inner__clip_norm=2.0,
    ),
  ),
  "adamw": (
    "none",
    None,
    dict(
      inner__optimizer="adamw",
      inner__learning_rate=0.03,
      inner__eps=1e-3,
      inner__weight_decay=0.1,
    ),
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name):
  memory, read, changes = CASES[name]
  with jax.enable_x64(True):
    check(small.learner(
      memory, read, float64=True, length=LENGTH,
      **{"inner__learning_rate": 0.3} | changes, inner__learn_rate=True,
      inner__retention=0.9, inner__learn_retention=True,
    ))  # fmt: skip


def check(learner):
  graphdef, state = nnx.split(learner)
  paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
  tokens, targets = small.text(LENGTH)
  inner = jnp.ones(LENGTH).at[3].set(0.0).at[9].set(0.5)
  outer = jnp.linspace(0, 1, LENGTH)

  @jax.jit
  def loss_and_gradient(state):
    def loss(state):
      model = nnx.merge(graphdef, state)
      _, out = small.read(model, tokens, targets, inner)
      assert out.loss_C.dtype == jnp.float64
      return jnp.sum(outer * out.loss_C.reshape(-1)), out.inner_grad_norm

    return jax.value_and_grad(loss, has_aux=True)(state)

  params, treedef = jax.tree.flatten(jax.device_get(state))
  (_, norms), grads = loss_and_gradient(state)
  grads = jax.tree.leaves(jax.device_get(grads))
  clip = learner.inner.config.clip_norm
  assert norms.min() < clip < norms.max()  # it acts in some chunks

  def slope(direction, h=3e-6):
    """Fourth-order central difference along `direction`."""

    def at(step):
      moved = (p + step * d for p, d in zip(params, direction, strict=True))
      return loss_and_gradient(treedef.unflatten(moved))[0][0]

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)

  rng = np.random.default_rng(0)
  directions = [[rng.normal(size=p.shape) for p in params] for _ in range(3)]
  for d in directions:
    expected = sum(np.vdot(g, x) for g, x in zip(grads, d, strict=True))
    np.testing.assert_allclose(slope(d), expected, rtol=1e-6)

  # The largest entry of each tensor, so that none is left out.
  for i, path in enumerate(paths):
    one = [np.zeros_like(p) for p in params]
    at = np.unravel_index(np.abs(grads[i]).argmax(), grads[i].shape)
    one[i][at] = 1.0
    assert np.abs(grads[i][at]) > 1e-6, f"{path} gets no gradient"
    np.testing.assert_allclose(
      slope(one), grads[i][at], rtol=1e-6, atol=1e-8, err_msg=path
    )
