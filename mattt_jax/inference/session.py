"""Reading token by token, with the numbers of one `read_sequence`.

A chunk's tokens are read with the weights and memory from before it. It is
learned and remembered when the first token of the next one arrives, which is
the target of its last.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mattt_jax.config import require, require_at_least
from mattt_jax.model import fast_weights
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.inner_step import reading_weights
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import Tokens, make_tokens


class Session:
  """One text being read; `probs_V` is p(next token) once a token was read."""

  def __init__(
    self,
    learner: Learner,
    context_length: int,
    parts: Parts = ALL,
    *,
    rate_scale: float = 1.0,
    state: ContextState | None = None,
  ):
    """Starts a session of at most `context_length` tokens. `rate_scale`
    multiplies the inner learning rate; `state` is one after whole chunks, made
    for `context_length` with `streaming=True` (default: an empty one)."""
    require_at_least("context_length", context_length, 1)
    self.chunk = learner.chunk
    self.context_length = context_length
    self.probs_V: Array | None = None
    self._graphdef, self._params = nnx.split(learner)
    self._parts = parts
    self._scale = rate_scale
    self._vocab_size = learner.model.vocab_size
    # After the last whole chunk that was learned, and the tokens since.
    self.state: ContextState = state or learner.init_state(context_length)
    self._fast = self.state.fast  # what the pending tokens are read with
    if parts.inner and state is not None:
      self._fast = _reading(self._graphdef, self._params, state, rate_scale)
    self._pending: list[int] = []
    self._cache = self.state.cache  # with the pending tokens

  @property
  def position(self) -> int:
    """Tokens read."""
    return int(self.state.position) + len(self._pending)

  def read(self, tokens: Sequence[int] | np.ndarray) -> Array:
    """Reads tokens one by one; returns p(next token) after the last, [V].

    Raises:
      ValueError: no token, one outside of the vocabulary, or more tokens than
        `context_length`. Nothing is read then.
    """
    tokens = self._checked(tokens)
    for token in tokens:
      if len(self._pending) == self.chunk:
        self._learn(self._pending, [*self._pending[1:], token])
      self.probs_V, self._cache = _read_token(
        self._graphdef, self._params, self.state, self._fast, self._cache,
        token, len(self._pending), self._parts,
      )  # fmt: skip
      self._pending.append(token)
    assert self.probs_V is not None  # `_checked` refuses no tokens
    return self.probs_V

  def prefill(self, tokens: Sequence[int] | np.ndarray) -> Array:
    """`read`, but whole chunks at once where it can."""
    tokens = self._checked(tokens)
    if not self._pending:
      # The last chunk stays pending: the target of its last token is unknown.
      whole = (len(tokens) - 1) // self.chunk * self.chunk
      if whole:
        self._learn(tokens[:whole], tokens[1 : whole + 1])
        tokens = tokens[whole:]
    return self.read(tokens)

  def _checked(self, tokens) -> list[int]:
    tokens = [int(t) for t in np.asarray(tokens).reshape(-1)]
    require(len(tokens) > 0, "tokens is empty: give at least one")
    outside = [t for t in tokens if not 0 <= t < self._vocab_size]
    require(
      not outside,
      f"token {outside[:1]} is outside of the vocabulary 0 .. "
      f"{self._vocab_size - 1}",
    )
    after = self.position + len(tokens)
    require(
      after <= self.context_length,
      f"context_length={self.context_length} is too short for {after} tokens: "
      "start the session with a larger one",
    )
    return tokens

  def _learn(self, tokens: list[int], targets: list[int]) -> None:
    learned = make_tokens(*np.asarray((tokens, targets), np.int32))
    self.state, self._fast = _read_chunks(
      self._graphdef, self._params, self.state, learned, self._scale,
      self._parts,
    )  # fmt: skip
    self._pending, self._cache = [], self.state.cache


@functools.partial(jax.jit, static_argnums=0)
def _reading(graphdef, params, state: ContextState, scale):
  """The fast weights that the next tokens are read with."""
  return reading_weights(nnx.merge(graphdef, params), state, scale)[0]


@functools.partial(jax.jit, static_argnames=("graphdef", "parts"))
def _read_token(
  graphdef, params, state: ContextState, fast, cache, token, pending, parts
):
  """p(next token) [V] after `token`, the `pending`-th of the current chunk."""
  learner = nnx.merge(graphdef, params)
  model_def, _, slow = fast_weights.split(learner.model)
  model = nnx.merge(model_def, fast, slow)
  position = state.position + pending
  x_1xD, cache = model.read_prefix(jnp.asarray([token]), cache, position)
  memory = state.memory if parts.memory else None
  forward = model.forward(x_1xD, cache, memory, position)
  cache = dataclasses.replace(cache, suffix=forward.cache)
  return model.next_token_probs(forward)[0], cache


@functools.partial(jax.jit, static_argnames=("graphdef", "parts"))
def _read_chunks(graphdef, params, state, tokens: Tokens, scale, parts: Parts):
  """The state after whole chunks, and what the next tokens are read with."""
  learner = nnx.merge(graphdef, params)
  state, _ = read_sequence(learner, state, tokens, parts, scale)
  if not parts.inner:
    return state, state.fast
  return state, reading_weights(learner, state, scale)[0]
