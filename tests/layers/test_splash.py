"""The prefix's kernel against attention in blocks; where it is taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax.config import ModelConfig
from mattt_jax.devices import meshes, sharding
from mattt_jax.layers import attention, splash
from mattt_jax.layers.multi_head import Attention

interpreted = functools.partial(splash.attend, interpret=True)


def draw(shape, past, dtype=jnp.float32):
  """Queries of `shape`, keys and values with `past` more, a cotangent."""
  rng = np.random.default_rng(0)
  *batch, length, dim = shape
  longer = (*batch, past + length, dim)
  qkv = [
    jnp.asarray(rng.normal(size=s), dtype) for s in (shape, longer, longer)
  ]
  return qkv, jnp.asarray(rng.normal(size=shape), jnp.float32)


def value_and_gradients(read, qkv, cotangent, position, window):
  def loss(qkv):
    out = read(*qkv, position, window)
    return jnp.sum(out * cotangent), out

  (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(qkv)
  return out, *gradients


# (L, P, position, window): from the start; 88 empty slots in the cache; a past
# that is longer than the window, and a window that is no multiple of anything.
@pytest.mark.parametrize(
  "length, past, position, window",
  [(256, 0, 0, 128), (256, 128, 40, 200), (128, 256, 1000, 77)],
)
def test_equals_attention_in_blocks(length, past, position, window):
  qkv, cotangent = draw((2, length, 32), past)
  found, wanted = (
    value_and_gradients(read, qkv, cotangent, position, window)
    for read in (interpreted, attention.attend)
  )
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6)


def test_in_half_precision():
  """As near to the exact result as attention in blocks is."""
  qkv, cotangent = draw((2, 256, 32), 128, jnp.bfloat16)
  exact = value_and_gradients(
    attention.attend, [x.astype(jnp.float32) for x in qkv], cotangent, 40, 200
  )
  for read in (interpreted, attention.attend):
    found = value_and_gradients(read, qkv, cotangent, 40, 200)
    for a, b in zip(found, exact, strict=True):
      error = jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())
      assert error < 0.01


def test_on_a_mesh():
  """Sequences, heads and queries split over devices."""
  mesh = meshes.make_mesh(2, 1, 2, 2)
  qkv, cotangent = draw((2, 4, 256, 32), 128)
  placed = jax.device_put((qkv, cotangent), sharding.split_batch(mesh))

  def of_batch(read):
    def read_batch(q, k, v, position, window):
      one = lambda *qkv: read(*qkv, position, window)  # noqa: E731
      with sharding.on(mesh):
        return jax.vmap(one, spmd_axis_name=sharding.BATCH)(q, k, v)

    return read_batch

  @functools.partial(jax.jit, static_argnums=0)
  def run(read, qkv, cotangent):
    return value_and_gradients(of_batch(read), qkv, cotangent, 40, 200)

  found, wanted = (run(r, *placed) for r in (interpreted, attention.attend))
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(
  "how, length, tpu",
  [("auto", 256, True), ("banded", 256, False), ("auto", 200, False)],
)
def test_where_it_is_taken(how, length, tpu):
  """In a program for TPUs, where blocks divide the lengths; on a CPU never."""
  made = ModelConfig(dim=16, num_heads=2, window=64, prefix_attention=how)
  block = Attention(made, nnx.Rngs(0), prefix=True)
  x_CxD = jnp.zeros((length, 16))
  traced = jax.jit(lambda x: block(x, None, 0)[0]).trace(x_CxD)
  for platform, wanted in (("tpu", tpu), ("cpu", False)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("tpu_custom_call" in text) == wanted


def test_the_suffix_never_takes_it():
  """Its gradient is differentiated again."""
  made = ModelConfig(dim=16, num_heads=2, prefix_attention="splash")
  block = Attention(made, nnx.Rngs(0))
  traced = jax.jit(lambda x: block(x, None, 0)[0]).trace(jnp.zeros((256, 16)))
  text = traced.lower(lowering_platforms=("tpu",)).as_text()
  assert "tpu_custom_call" not in text


def test_what_it_cannot_do_is_said():
  with pytest.raises(ValueError, match="200 tokens after 0.*128.*auto"):
    splash.attend(*draw((2, 200, 32), 0)[0], 0, 64)
  with pytest.raises(ValueError, match="splash.*full.*auto"):
    ModelConfig(prefix_attention="splash", attention="full")
