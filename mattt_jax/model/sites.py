"""Where the memory is: beside the head, in each suffix block, or nowhere.

A site says what its memory is asked with, where the answer goes, what is scored
by it, and what is written. It holds settings only: parameters are the model's
(`pointer`, `suffix/memory`), which every method is given.

A new memory changes nothing here: its settings' `read` chooses the site.

Shapes: C chunk, D model, J candidates, V vocabulary, S suffix blocks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from mattt_jax.layers.norms import rms_normalize
from mattt_jax.layers.parameters import full_param, repeat, scan_stack
from mattt_jax.memory import none
from mattt_jax.memory.base import BaseConfig, Memory, Pairs, PointerRead
from mattt_jax.model import mixture
from mattt_jax.model.block import BlockRead

# (x_CxD, states of the blocks' memories or None) -> (x_CxD, cache, the stacked
# reads of the blocks, None without a state).
RunSuffix = Callable[[Array, Any], tuple[Array, Any, BlockRead | None]]


@dataclasses.dataclass(frozen=True)
class Site:
  """No memory: the base of the others, and what they are when it is off."""

  wants_gradient = False  # whether `write` is to know the gradient's norm

  def block_memory(self, dim: int, chunk: int, rngs: nnx.Rngs) -> Memory | None:
    """The memory of a new suffix block."""
    return None

  def add_parameters(self, model: Any, chunk: int, rngs: nnx.Rngs) -> None:
    """Gives a model, complete but for this, what the site needs beside it."""

  def init_state(self, model: Any, context_length: int) -> Any:
    """An empty memory; a pytree, of no arrays without a memory."""
    return ()

  def read(self, model: Any, state: Any, x_CxD: Array, run_suffix: RunSuffix):
    """Runs the suffix on x, with what the memory says of it: x_CxD, the cache,
    and the read for the methods below (None without a memory)."""
    x_CxD, cache, _ = run_suffix(x_CxD, None)
    return x_CxD, cache, None

  def score(
    self, model: Any, read: Any, final_CxD: Array, targets_C: Array
  ) -> tuple[Array, Array]:
    """-log p(target), [C], and whether no other token is likelier, [C]."""
    own = model.scores(final_CxD, targets_C)
    return -own.log_prob_C, own.likely_C == targets_C

  def read_loss(
    self, model: Any, read: Any, targets_C: Array
  ) -> tuple[Array, Array]:
    """The memory's own next-token loss, and which tokens have one: (C, C)."""
    return jnp.zeros(targets_C.shape), jnp.zeros(targets_C.shape, bool)

  def use(self, read: Any, final_CxD: Array) -> Array:
    """How much of a prediction is the memory's, in [0, 1], [C]."""
    return jnp.zeros(len(final_CxD))

  def diagnostics(self, read: Any) -> tuple[Array, Array, Array]:
    """(null mass, gate, share) of `Transformer.diagnostics`."""
    return jnp.ones(()), jnp.zeros(()), jnp.zeros(())

  def next_token_probs(self, read: Any, own_CxV: Array) -> Array:
    """p(next token), [C, V], of the model's own distribution and the read."""
    return own_CxV

  def write(self, model: Any, state: Any, read: Any, pairs: Pairs) -> Any:
    """The state with the chunk's pairs; those given are of the prefix."""
    return state


@dataclasses.dataclass(frozen=True)
class _MemorySite(Site):
  """A site with a memory, of these settings."""

  config: BaseConfig

  @property
  def wants_gradient(self) -> bool:  # type: ignore[override]
    return self.config.wants_gradient

  def _pairs(self, pairs: Pairs, hidden_CxD: Array) -> Pairs:
    """The same tokens, addressed by `hidden_CxD`."""
    value = hidden_CxD if self.config.value == "hidden" else pairs.value_CxD
    return dataclasses.replace(pairs, hidden_CxD=hidden_CxD, value_CxD=value)


class HeadSite(_MemorySite):
  """One memory, `model.pointer`, whose `PointerRead` is mixed with the head's
  distribution; asked with the prefix's output.

  With `feed` the suffix also sees the recalled tokens' mean embedding, and a
  gate (`speak_bias`, `speak_weight`) says how much of it is a prediction.
  """

  @property
  def _feeds(self) -> bool:
    return getattr(self.config, "feed", False)

  def add_parameters(self, model, chunk, rngs):
    dim = model.config.dim
    model.pointer = self.config.make(dim, chunk, rngs)
    if self._feeds:
      model.speak_bias = full_param(0)
      model.speak_weight = full_param(0, dim)

  def init_state(self, model, context_length):
    return model.pointer.init_state(context_length)

  def read(self, model, state, x_CxD, run_suffix):
    read = model.pointer.read(state, x_CxD)
    if self._feeds:
      hidden_CxD = rms_normalize(x_CxD, 1e-6)
      logit_C = model.speak_bias[...] + hidden_CxD @ model.speak_weight[...]
      x_CxD = x_CxD + _expected_embedding(model, read).astype(x_CxD.dtype)
      read = mixture.speak(read, logit_C)
    x_CxD, cache, _ = run_suffix(x_CxD, None)
    return x_CxD, cache, read

  def score(self, model, read, final_CxD, targets_C):
    own = model.scores(final_CxD, targets_C, read.token_CxJ)
    return mixture.score(read, own, targets_C, model.vocab_size)

  def read_loss(self, model, read, targets_C):
    """-log of the target's share of the recalled tokens, where it is one."""
    return mixture.recalled_loss(read, targets_C)

  def use(self, read, final_CxD):
    return 1 - jnp.exp(read.log_null_C)

  def diagnostics(self, read):
    null = jnp.mean(jnp.exp(read.log_null_C))
    return null, 1 - null, 1 - null

  def next_token_probs(self, read, own_CxV):
    return mixture.next_token_probs(read, own_CxV)

  def write(self, model, state, read, pairs):
    return model.pointer.write(state, self._pairs(pairs, pairs.hidden_CxD))


class BlockSite(_MemorySite):
  """A memory in each suffix block, `model.suffix.memory`, whose `ResidualRead`
  is added to the residual stream. State and read are stacked over blocks."""

  def block_memory(self, dim, chunk, rngs):
    return self.config.make(dim, chunk, rngs)

  def init_state(self, model, context_length):
    one = model.suffix.memory.init_state(context_length)
    return repeat(one, model.config.num_suffix)

  def read(self, model, state, x_CxD, run_suffix):
    return run_suffix(x_CxD, state)

  def read_loss(self, model, read, targets_C):
    """The head's cross-entropy on what was added alone, where something was."""
    added_CxD = jnp.sum(read.answer.output_CxD, axis=0)
    some_C = jnp.any(added_CxD != 0, axis=-1)
    own = model.scores(model.final_norm(added_CxD), targets_C)
    return jnp.where(some_C, -own.log_prob_C, 0.0), some_C

  def use(self, read, final_CxD):
    gate_SxC = jnp.abs(read.answer.gate_C)
    return jnp.mean(gate_SxC * (1 - read.answer.null_C), axis=0)

  def diagnostics(self, read):
    gate = jnp.mean(jnp.abs(read.answer.gate_C))
    return jnp.mean(read.answer.null_C), gate, jnp.mean(read.share_C)

  def write(self, model, state, read, pairs):
    def step(block, _, x):
      block_state, asked_CxD = x
      own_pairs = self._pairs(pairs, asked_CxD)
      return None, block.memory.write(block_state, own_pairs)

    return scan_stack(model.suffix, step, None, (state, read.asked_CxD))[1]


OFF = Site()
_SITES = {"pointer": HeadSite, "residual": BlockSite}


def site_of(memory: BaseConfig | none.Config) -> Site:
  """The site that a memory's settings ask for."""
  return _SITES[memory.read](memory) if isinstance(memory, BaseConfig) else OFF


def _expected_embedding(model: Any, read: PointerRead) -> Array:
  """sum_j w_j E[token_j]: what was recalled, as if it had been read."""
  return jnp.einsum(
    "cj,cjd->cd",
    jnp.exp(read.log_prob_CxJ),
    model.embedding[...][read.token_CxJ],
  )
