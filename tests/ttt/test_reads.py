"""What the transformer does with what its memory recalls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

TOKENS, TARGETS = small.text(2 * small.CHUNK)


def run(model, x, cache, memory, position):
  """`model.forward`, compiled as one program."""
  graphdef, params = nnx.split(model)
  return jax.jit(
    lambda params, *args: nnx.merge(graphdef, params).forward(*args, position)
  )(params, x, cache, memory)


def second_chunk(learner):
  """(model, x of the second chunk, cache and memory after the first)."""
  model, c = learner.model, small.CHUNK
  x, _ = model.read_prefix(TOKENS, model.init_cache(2 * c, False), 0)
  cache, memory = model.init_cache(2 * c, False), model.init_memory(2 * c)
  forward = run(model, x[:c], cache, memory, 0)
  zeros = jnp.zeros((c,))
  memory = model.write(
    memory, forward, TARGETS[:c], zeros, zeros > 0, zeros == 0
  )
  return model, x[c:], cache, memory


def test_fed_tokens_enter_the_suffix_as_their_embeddings():
  model, x, cache, memory = second_chunk(
    small.learner("episodic", "pointer", memory__feed=True)
  )
  forward = run(model, x, cache, memory, 0)
  read = model.pointer.read(memory, x)
  fed = np.array(x)
  for t in range(len(x)):
    for token, log_prob in zip(
      read.token_CxJ[t], read.log_prob_CxJ[t], strict=True
    ):
      fed[t] += np.exp(log_prob) * np.asarray(model.embedding[...])[token]
  assert np.abs(fed - x).max() > 0.01
  by_hand = run(model, jnp.asarray(fed), cache, None, 0)
  np.testing.assert_allclose(
    forward.final_CxD, by_hand.final_CxD, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("bias, share", [(30.0, 1.0), (0.0, 0.5), (-30.0, 0.0)])
def test_what_is_fed_need_not_be_predicted(bias, share):
  model, x, cache, memory = second_chunk(
    small.learner("episodic", "pointer", memory__feed=True)
  )
  model.speak_bias[...] = jnp.asarray(bias)
  model.speak_weight[...] = jnp.zeros_like(model.speak_weight[...])
  forward = run(model, x, cache, memory, 0)
  read = model.pointer.read(memory, x)
  recalled = np.exp(read.log_prob_CxJ).sum(-1)
  np.testing.assert_allclose(
    np.exp(forward.read.log_prob_CxJ).sum(-1), share * recalled,
    rtol=1e-5, atol=1e-6,
  )  # fmt: skip
  np.testing.assert_allclose(
    np.exp(forward.read.log_null_C), 1 - share * recalled, rtol=1e-4
  )
  np.testing.assert_allclose(
    model.next_token_probs(forward).sum(-1), 1, rtol=1e-5
  )


def test_an_empty_memory_feeds_nothing():
  learner = small.learner("episodic", "pointer", memory__feed=True)
  model, x, cache, _ = second_chunk(learner)
  empty = model.init_memory(2 * small.CHUNK)
  with_it = run(model, x, cache, empty, 0)
  without = run(model, x, cache, None, 0)
  np.testing.assert_array_equal(with_it.final_CxD, without.final_CxD)
  for a, b in zip(
    model.score(with_it, TARGETS[: len(x)]),
    model.score(without, TARGETS[: len(x)]),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("system", small.SYSTEMS, ids=str)
def test_diagnostics_are_shares(system):
  model, x, cache, memory = second_chunk(small.learner(*system))
  off = model.diagnostics(run(model, x, cache, None, 0))
  assert (off["null_mass"], off["gate"], off["memory_share"]) == (1, 0, 0)
  on = model.diagnostics(run(model, x, cache, memory, 0))
  assert all(0 <= value <= 1.01 for value in on.values())
  if system[1]:
    assert on["gate"] > 0 and on["memory_share"] > 0


def test_share_of_the_residual_stream():
  """By hand, in one block: |read| / |x + read|."""
  model, x, cache, memory = second_chunk(
    small.learner("associative", "residual")
  )
  forward = run(model, x, cache, memory, 0)
  graphdef, state = nnx.split(model.suffix)

  block = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], state))
  first = jax.tree.map(lambda a: a[0], (cache.suffix, memory))
  out, _ = block.attention(block.attention_norm(x), first[0], 0)
  before = np.asarray(x + block.attention_post_norm(out))
  read = np.asarray(block.memory.read(first[1], x).output_CxD)
  share = np.linalg.norm(read, axis=-1) / np.linalg.norm(before + read, axis=-1)
  np.testing.assert_allclose(forward.read.share_C[0], share, rtol=1e-4)
  np.testing.assert_allclose(forward.read.answer.output_CxD[0], read, rtol=1e-5)


def test_gradient_norm_is_that_of_the_loss():

  model, x, cache, _ = second_chunk(small.learner())
  forward = run(model, x, cache, None, 0)
  targets = TARGETS[small.CHUNK :]

  def loss(final_D, target):
    return -jax.nn.log_softmax(final_D @ model._head())[target]

  by_grad = jax.vmap(jax.grad(loss))(forward.final_CxD, targets)
  np.testing.assert_allclose(
    model._gradient_norm(forward, targets),
    np.linalg.norm(by_grad, axis=-1),
    rtol=1e-4,
  )
