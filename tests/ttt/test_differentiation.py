"""Ways of differentiating and of recomputing: all the same numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from mattt_jax.ttt import differentiation
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.remat import split_evenly
from mattt_jax.ttt.tokens import make_tokens

CHUNKS = 8


def test_derivative_of_loss_aux_and_gradient():
  """Of everything that the loss closes over; integers have none."""
  rng = np.random.default_rng(0)
  index = jnp.asarray([0, 3, 1, 1, 2])

  def outer(mode):
    def total(x, w, scale, index):
      def loss_fn(w):
        y = jnp.tanh(x @ w["a"]) * scale
        loss = -jnp.mean(jax.nn.log_softmax(y)[jnp.arange(5), index])
        return loss, (y**2, jnp.argmax(y, -1), index)

      (loss, (y, top, _)), grads = differentiation.value_and_grad(
        loss_fn, {"a": w}, mode
      )
      g = grads["a"]
      return jnp.sin(loss) + jnp.sum(y * top[:, None]) + jnp.sum(g**3) + g[0, 1]

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))

  with jax.enable_x64(True):
    x, w, scale = (
      jnp.asarray(rng.normal(size=s)) for s in ((5, 3), (3, 4), ())
    )
    found, wanted = (
      outer(mode)(x, w, scale, index) for mode in ("mixed", "reverse")
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted
  )


@pytest.mark.parametrize("place", ["vmap", "scan", "devices"])
def test_batch_that_shares_inputs_and_outputs(place):
  """What all examples share is counted once each way, batched or not."""
  if place == "devices":
    assert len(jax.devices()) == 8

  def outer(mode):
    def one(w, scale, x):
      def loss_fn(w):
        loss = jnp.mean(jnp.tanh(x @ w) ** 2) * scale
        # vmap sees that the examples share the first two of the three.
        return loss, (scale**3, jnp.sin(w) * scale, x * jnp.sum(w))

      (loss, aux), grads = differentiation.value_and_grad(loss_fn, w, mode)
      return loss, aux, grads

    def step(w, scale, x):
      loss, (alone, of_w, both), grads = jax.vmap(
        one, in_axes=(None, None, 0), spmd_axis_name="data"
      )(w, scale, x)
      # Cotangents: the same for every example, and another for each.
      each = jnp.arange(1.0, len(x) + 1)
      return (
        jnp.sum(jnp.sin(loss) * each) + jnp.sum(alone) + jnp.sum(of_w[0] ** 2)
        + jnp.sum(of_w * each[:, None, None]) + jnp.sum(both**2)
        + jnp.sum(grads**3 * each[:, None, None]),
        w - jnp.mean(grads, axis=0),
      )  # fmt: skip

    def total(w, scale, x):
      if place != "scan":
        return step(w, scale, x)[0]

      def body(carry, _):
        value, w = step(carry, scale, x)
        return w, value

      return jnp.sum(jax.lax.scan(body, w, None, length=3)[1])

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))

  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    w, scale, x = (
      jnp.asarray(rng.normal(size=s)) for s in ((3, 4), (), (8, 5, 3))
    )
    mesh = jax.make_mesh(
      (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    if place == "devices":
      spec = jax.sharding.PartitionSpec
      x = jax.device_put(x, jax.NamedSharding(mesh, spec("data")))
      w, scale = jax.device_put((w, scale), jax.NamedSharding(mesh, spec()))
    with jax.set_mesh(mesh):
      found, wanted = (
        outer(mode)(w, scale, x) for mode in ("mixed", "reverse")
      )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted
  )


def test_unknown_mode():
  with pytest.raises(ValueError, match="mode='forward' is not known"):
    differentiation.value_and_grad(lambda w: (w, None), jnp.ones(()), "forward")


@pytest.mark.parametrize(
  "memory, read, changes",
  [
    ("none", None, dict(inner__optimizer="adamw", inner__eps=1e-3)),
    (
      "episodic",
      "pointer",
      dict(
        memory__feed=True,
        coordination__rate_from_memory=True,
        inner__learning_rate=0.1,
      ),
    ),
  ],
  ids=["adamw", "episodic"],
)
def test_meta_gradients_agree(memory, read, changes, monkeypatch):
  """One, two and three levels, mixed or reverse, as without recomputing."""
  length = CHUNKS * small.CHUNK
  init = Learner.init_state
  monkeypatch.setattr(
    Learner,
    "init_state",
    lambda *args, **kwargs: small.as_float64(init(*args, **kwargs)),
  )
  with jax.enable_x64(True):

    def gradient(levels, mode):
      learner = small.learner(
        memory, read, float64=True, length=length, **changes,
        inner__remat_levels=levels, inner__differentiation=mode,
      )  # fmt: skip
      graphdef, state = nnx.split(learner)
      tokens, targets = small.text(length)
      weight = jnp.ones(length).at[3].set(0.0)

      def loss(state):
        out = nnx.merge(graphdef, state).read_whole(
          make_tokens(tokens, targets, weight)
        )
        return jnp.sum(out.loss_C.reshape(-1) * jnp.linspace(0, 1, length))

      return jax.device_get(jax.jit(jax.value_and_grad(loss))(state))

    wanted = gradient(0, "reverse")
    assert max(np.abs(x).max() for x in jax.tree.leaves(wanted)) > 1e-2
    for levels, mode in ((1, "mixed"), (3, "mixed"), (2, "reverse")):
      for a, b in zip(
        jax.tree.leaves(gradient(levels, mode)),
        jax.tree.leaves(wanted),
        strict=True,
      ):
        # Entries of a tensor are sums of terms as large as its largest.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("attention, suffix, length, wanted", [
  ("window", 1, 16, (16,)),  # 8 states instead of 16
  ("window", 1, 256, (16, 16)),  # 32 instead of 256
  ("full", 0, 256, (256,)),  # only a segment's state has the prefix's keys
])  # fmt: skip
def test_levels_by_the_bytes_they_keep(attention, suffix, length, wanted):
  learner = small.learner(
    model__attention=attention,
    model__num_suffix=suffix,
    inner__enabled=suffix > 0,
    length=length * small.CHUNK,
  )
  assert learner.remat_parts(length * small.CHUNK) == wanted


@pytest.mark.parametrize("number, factors, wanted", [
  (32, 1, (32,)), (32, 2, (8, 4)), (36, 2, (6, 6)), (64, 3, (4, 4, 4)),
  (512, 3, (8, 8, 8)), (7, 2, (1, 7)), (1, 3, (1, 1, 1)),
])  # fmt: skip
def test_split_evenly(number, factors, wanted):
  found = split_evenly(number, factors)
  assert math.prod(found) == number
  assert found == wanted or found == wanted[::-1]
