"""Reads sequences: whole, in segments, up to a chunk, or with an answer.

Shapes: B sequences, L tokens, K choices.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mattt_jax.config import Experiment
from mattt_jax.data.tokenizer import Tokenizer
from mattt_jax.devices import meshes, processes, sharding
from mattt_jax.inference.generate import generate
from mattt_jax.inference.session import Session
from mattt_jax.tasks.base import Question
from mattt_jax.ttt.context_state import ContextState
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import Parts, eval_parts
from mattt_jax.ttt.read_batch import (
  SequenceOutput,
  abstract_states,
  read_batch,
  read_on,
  start_states,
)
from mattt_jax.ttt.tokens import Tokens

_OF_TOKENS = ("loss_BxL", "correct_BxL", "chunk_loss_Bxn", "read_loss_BxL",
              "has_read_loss_BxL")  # fmt: skip
_STATIC = ("graphdef", "mesh", "parts")


class Reader:
  """A learner that reads, with what is on, and where."""

  def __init__(
    self,
    learner: nnx.Module | tuple[nnx.GraphDef, Any],
    experiment: Experiment,
    mesh: Mesh | None = None,
    parts: Parts | None = None,
    rate_scale: Any = 1.0,
  ):
    """Computes nothing yet.

    Args:
      learner: or its (graphdef, parameters), for `lower` shapes that say where
        they lie; it is not changed.
      experiment: gives `chunk` and the section `eval`.
      mesh: its devices share the sequences; default: one device.
      parts: what is on, as far as the system has it; default: as `eval` says.
      rate_scale: multiplies the inner learning rate.
    """
    self.graphdef: nnx.GraphDef
    self.params: Any
    self.graphdef, self.params = (
      learner if isinstance(learner, tuple) else nnx.split(learner)
    )
    self.experiment = experiment
    self.mesh = meshes.make_mesh(1) if mesh is None else mesh
    self.parts = eval_parts(experiment, parts)
    self.rate_scale = rate_scale

  def of(self, experiment: Experiment, parts: Parts | None = None) -> "Reader":
    """The same learner with the settings of another task; `parts` None: as
    here."""
    return Reader(
      (self.graphdef, self.params), experiment, self.mesh, parts or self.parts,
      self.rate_scale,
    )  # fmt: skip

  @functools.cached_property
  def learner(self) -> Learner:
    """Graphdef and parameters in one."""
    return nnx.merge(self.graphdef, self.params)

  def read(self, tokens: Tokens) -> SequenceOutput:
    """Reads B sequences, whole or in segments, and returns NumPy arrays."""
    outs = [*self.segments(tokens)]
    sizes = [out.loss_BxL.shape[1] for out in outs]
    arrays: dict[str, Any] = {
      field: None
      if getattr(outs[0], field) is None
      else np.concatenate([getattr(out, field) for out in outs], axis=1)
      for field in _OF_TOKENS
    }
    aux = {
      name: np.average([out.aux[name] for out in outs], weights=sizes)
      for name in outs[0].aux
    }
    return SequenceOutput(**arrays, aux=aux)

  def segments(self, tokens: Tokens) -> Iterator[SequenceOutput]:
    """`read`, a segment (`eval.segment`) at a time, as soon as it is read."""
    size, length = tokens.tokens.shape
    segment = self._segment(length)
    if segment == length:
      yield processes.fetch(_read(
        self.graphdef, self.params,
        sharding.put_whole_batch(tokens, self.mesh), self.rate_scale,
        self.mesh, self.parts,
      ))  # fmt: skip
      return
    state = self._start(size, length)
    for part in _split(tokens, segment):
      state, out = self._read_on(state, part)
      yield processes.fetch(out)

  def states(
    self, tokens: Tokens, context_length: int
  ) -> Iterator[ContextState]:
    """States [B, ...] of B sequences before each chunk; each is gone once the
    next is asked for. `context_length` may be more than is read here."""
    state = self._start(len(tokens.tokens), context_length)
    for part in _split(tokens, self.experiment.chunk):
      yield state
      state, _ = self._read_on(state, part)

  def choice_losses(
    self,
    state: ContextState,
    tokens_L: Tokens,
    question: Question,
    shape: tuple[int, int],
  ) -> np.ndarray:
    """Mean loss a token of each choice, in its place: [K] float64.

    Args:
      state: of the sequence before the chunk in which the question lies.
      tokens_L: of the sequence, on the host.
      question: has choices.
      shape: (candidates, tokens) to read, at least as many as there are; whole
        chunks of tokens.
    """
    number, size = shape
    start = question.at // self.experiment.chunk * self.experiment.chunk
    texts = [
      _answered(tokens_L, start, question.at, choice, size)
      for choice in question.choices
    ]
    texts += [jax.tree.map(np.zeros_like, texts[0])] * (number - len(texts))
    loss_KxL = np.asarray(_losses(
      self.graphdef, self.params, state,
      jax.tree.map(lambda *x: np.stack(x), *texts), self.rate_scale,
      self.parts,
    ))  # fmt: skip
    before = question.at - start  # targets
    return np.array([
      np.mean(loss_L[before : before + len(choice)], dtype=np.float64)
      for loss_L, choice in zip(loss_KxL, question.choices, strict=False)
    ])  # fmt: skip

  def write(
    self,
    state: ContextState,
    tokens_L: Tokens,
    question: Question,
    tokenizer: Tokenizer,
    context_length: int,
  ) -> str:
    """What the learner answers, greedily: up to the question's `end`, which is
    left out, or `room` tokens.

    Args:
      state: of the sequence before the chunk in which the question lies.
      tokens_L: of the sequence, on the host.
      question: is answered.
      tokenizer: knows every token that the learner can write.
      context_length: that the state was made for.
    """
    session = Session(
      self.learner, context_length, self.parts, rate_scale=self.rate_scale,
      state=state,
    )  # fmt: skip
    tokens = np.asarray(tokens_L.tokens)
    session.read(tokens[session.position : question.at + 1])
    end, written, text = question.end, list[int](), ""
    while len(written) < question.room and not (end and end in text):
      written += generate(session, 1, jax.random.key(0), temperature=0)
      text = tokenizer.decode(written)
    return text.partition(end)[0] if end else text

  def lower(self, tokens: Tokens) -> jax.stages.Lowered:
    """The program that `segments` runs (for all but a shorter last segment),
    lowered for the shapes of the parameters and `tokens`."""
    size, length = tokens.tokens.shape
    segment = self._segment(length)
    split = sharding.split_batch(self.mesh)
    part = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((size, segment), x.dtype, sharding=split),
      tokens,
    )
    rest = part, self.rate_scale, self.mesh, self.parts
    if segment == length:
      return _read.lower(self.graphdef, self.params, *rest)
    state = abstract_states(self.graphdef, self.params, size, length, self.mesh)
    return _read_on.lower(self.graphdef, self.params, state, *rest)

  def _segment(self, length: int) -> int:
    most = self.experiment.eval.segment if self.learner.streams else 0
    return segment_size(length, self.experiment.chunk, most)

  def _start(self, size: int, context_length: int) -> ContextState:
    return start_states(
      self.graphdef, self.params, size, context_length, self.mesh
    )

  def _read_on(self, state: ContextState, tokens: Tokens):
    return _read_on(
      self.graphdef, self.params, state,
      sharding.put_whole_batch(tokens, self.mesh), self.rate_scale, self.mesh,
      self.parts,
    )  # fmt: skip


def segment_size(length: int, chunk: int, most: int) -> int:
  """Tokens of the equal segments (the last may be shorter) in which `length`
  tokens are read: whole chunks, at most `most` if that holds one; 0: whole."""
  if not most or length <= most:
    return length
  chunks, most = length // chunk, max(1, most // chunk)
  return math.ceil(chunks / math.ceil(chunks / most)) * chunk


def _split(tokens: Tokens, size: int) -> Iterator[Tokens]:
  for start in range(0, tokens.tokens.shape[1], size):
    here = slice(start, start + size)
    yield jax.tree.map(lambda x_BxL, here=here: x_BxL[:, here], tokens)


def _answered(
  tokens_L: Tokens, start: int, at: int, answer: np.ndarray, size: int
) -> Tokens:
  """`size` tokens from `start` on, of which target `at` is the first of the
  `answer`; padded after it."""

  def text(x_L, answer):
    out, before = np.zeros(size, x_L.dtype), at - start
    out[:before] = x_L[start:at]
    out[before : before + len(answer)] = answer
    return out

  return Tokens(
    tokens=text(tokens_L.tokens, [tokens_L.tokens[at], *answer[:-1]]),
    targets=text(tokens_L.targets, answer),
    weight=text(tokens_L.weight, np.ones(len(answer))),
    relevant=text(tokens_L.relevant, np.zeros(len(answer))),
  )


# Compiled once for each size; the graphdef is the same object every time.
@functools.partial(jax.jit, static_argnames=_STATIC)
def _read(graphdef, params, tokens, scale, mesh, parts):
  with sharding.on(mesh):
    return read_batch(nnx.merge(graphdef, params), tokens, parts, scale)


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("state",))
def _read_on(graphdef, params, state, tokens, scale, mesh, parts):
  with sharding.on(mesh):
    return read_on(nnx.merge(graphdef, params), state, tokens, parts, scale)


@functools.partial(jax.jit, static_argnames=("graphdef", "parts"))
def _losses(graphdef, params, state, texts, scale, parts):
  """The loss of each token of K texts after `state`: [K, L]."""

  def read(tokens):
    learner = nnx.merge(graphdef, params)
    _, out = read_sequence(learner, state, tokens, parts, scale)
    return out.loss_C.reshape(-1)

  return jax.vmap(read)(texts)


@jax.jit
def state_of(states: ContextState, row: int) -> ContextState:
  """The state of one of B sequences."""
  return jax.tree.map(lambda x: x[row], states)
