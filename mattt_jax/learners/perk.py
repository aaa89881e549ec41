"""PERK: a context becomes a low-rank adapter, questions are read without it.

Parameter-efficient test-time learning (2507.06415). The context, every chunk
but the last `question_chunks`, is an unordered batch of segments, a chunk each:
a segment is read alone, its positions start at 0.

    phi_0 = {A_m, B_m}                            the adapter, meta-learned
    phi_k = phi_{k-1} - eta_k optimizer(grad L(phi_{k-1}))     k = 1 .. K
    L     = sum_t w_t NLL_t / sum_t w_t           t: all tokens of all segments
    W_m   = W_m + (alpha / r) A_m B_m             in every matrix m chosen

Then phi_K reads the last chunks together, and alone. Only phi is fast; the
outer loop trains phi_0, eta, the weighting w and the model.

Truncated unrolling: the meta-gradient passes through the last T steps; what
earlier ones added to phi_0 is a constant to it (so their rates never move).

Shapes: C tokens of a chunk, n chunks, g of them context, q of them questions,
D model, T adapter tensors (two a matrix), K steps.
"""

import dataclasses
import fnmatch
import functools
import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mattt_jax.config import require_chunked
from mattt_jax.devices.sharding import path_name
from mattt_jax.learners._whole import WholeReader, require_inner_loop
from mattt_jax.learners.base import BaseConfig
from mattt_jax.model import fast_weights
from mattt_jax.model.fast_weights import FastWeight
from mattt_jax.model.transformer import Cache, Transformer
from mattt_jax.recompute import recomputed
from mattt_jax.strict import require, require_at_least, require_positive
from mattt_jax.ttt.inner_optimizer import InnerOptimizer, transform
from mattt_jax.ttt.parts import ALL
from mattt_jax.ttt.tokens import ChunkOutput, Tokens, in_chunks, weighted_mean


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Settings. `experiment.inner` gives the optimiser (published: AdamW with
  b1=0.9, b2=0.95) and eta; `inner.learn_rate` learns an eta for each step and
  adapter tensor. `model.fast` is not used."""

  rank: int = 8
  alpha: float = 16.0
  # Globs over the paths of the model's matrices, in any block or outside.
  layers: tuple[str, ...] = ("*/attention/w[qv]", "*/mlp/*")
  steps: int = 4  # K
  unroll: int = 2  # T
  question_chunks: int = 1
  weigh_tokens: bool = True  # False: all w are equal

  def __post_init__(self):
    for field in ("rank", "steps", "unroll", "question_chunks"):
      require_at_least(f"learner.{field}", getattr(self, field), 1)
    require_positive("learner.alpha", self.alpha)
    require(
      self.unroll <= self.steps,
      f"learner.unroll={self.unroll} must be <= learner.steps={self.steps}: "
      "there are no more steps to differentiate",
    )

  def make(self, experiment, vocab_size):
    """The transformer of the experiment with an adapter.

    Raises:
      ValueError: a glob of `layers` matches nothing, or what is no matrix.
    """
    rngs = nnx.Rngs(experiment.seed)
    model = Transformer(
      # The inner loop goes through the prefix, too: no kernel there.
      dataclasses.replace(experiment.model, fast=(), prefix_attention="banded"),
      vocab_size,
      experiment.memory,
      experiment.chunk,
      rngs,
    )
    return Perk(model, experiment.inner, experiment.chunk, self, rngs)

  def check(self, experiment) -> None:
    """Raises `ValueError` for settings that this learner would not obey."""
    model = experiment.model
    require_inner_loop(
      experiment,
      "perk",
      "inner.retention",
      "inner.max_drift",
      "coordination.surprise_power",
      "coordination.replay",
    )
    require(
      model.prefix_attention != "splash",
      "model.prefix_attention='splash' can be differentiated once, but the "
      "inner loop of learner perk goes through the prefix: use 'auto'",
    )
    read = self.question_chunks * experiment.chunk
    require(
      model.attention == "full" or model.window >= read,
      f"model.window={model.window} must reach over all {read} tokens that "
      f"learner perk reads at once (chunk={experiment.chunk} * learner."
      f"question_chunks={self.question_chunks}): raise it, or use "
      "model.attention='full'",
    )
    for field, length in experiment.lengths:
      self.require_context(field, length, experiment.chunk)

  def require_context(self, field: str, length: int, chunk: int) -> None:
    """Raises `ValueError` unless a context is left beside the questions."""
    chunks = length // chunk
    require(
      self.question_chunks < chunks,
      f"learner.question_chunks={self.question_chunks} leaves no context of "
      f"the {chunks} chunks of {field}={length}: use fewer, or a length of at "
      f"least {(self.question_chunks + 1) * chunk}",
    )


class LowRank(nnx.Module):
  """The product A B of each layer of a stack (2106.09685); 0 at first."""

  def __init__(self, shape: tuple[int, ...], rank: int, rngs: nnx.Rngs):
    *layers, rows, columns = shape
    a = jax.random.normal(rngs.params(), (*layers, rows, rank), jnp.float32)
    self.a = FastWeight(a / math.sqrt(rows))
    self.b = FastWeight(jnp.zeros((*layers, rank, columns), jnp.float32))

  def __call__(self) -> Array:
    return self.a[...] @ self.b[...]


class Perk(WholeReader):
  """A model, its adapter, and the steps that learn a context."""

  name = "perk"

  def __init__(self, model, inner, chunk: int, config: Config, rngs: nnx.Rngs):
    """`inner` is the experiment's `InnerConfig`."""
    shapes = _matrices(model, config.layers)
    self.config = config
    self.paths = tuple(shapes)
    self.adapters = nnx.List(
      [LowRank(shape, config.rank, rngs) for shape in shapes.values()]
    )
    if config.weigh_tokens:
      self.token_weight = nnx.Linear(
        model.config.dim, 1, kernel_init=nnx.initializers.zeros, rngs=rngs
      )
    # Rates of all steps: K times T.
    optimizer = InnerOptimizer(inner, config.steps * 2 * len(shapes))
    super().__init__(model, optimizer, chunk)

  def adapted(self):
    """The model with the adapter added to its matrices."""
    scale = self.config.alpha / self.config.rank
    added = dict(zip(self.paths, self.adapters, strict=True))
    graphdef, state = nnx.split(self.model)

    def add(path, w):
      adapter = added.get(path_name(path))
      return w if adapter is None else w + scale * adapter()

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(add, state))

  def context_loss(self, context: Tokens) -> Array:
    """L, which an inner step descends. The hidden states that w looks at are
    constants to every gradient; w's own parameters get the meta-gradient."""
    read = functools.partial(_read, self.adapted())
    loss_gxC, _, forward = jax.vmap(read)(context.tokens, context.targets)
    weight_gxC = context.weight
    if self.config.weigh_tokens:
      hidden_gxCxD = jax.lax.stop_gradient(forward.final_CxD)
      score_gxCx1 = self.token_weight(hidden_gxCxD)
      weight_gxC = weight_gxC * jax.nn.softplus(score_gxCx1[..., 0])
    return weighted_mean(loss_gxC, weight_gxC)

  def learn(self, context: Tokens, rate_scale: Array | float = 1.0):
    """Takes K steps on a context's segments, [g, C].

    Returns:
      phi_K; and the loss and the norm of its gradient before each step.
    """
    graphdef, fast_0, slow = fast_weights.split(self)
    steps, early = self.config.steps, self.config.steps - self.config.unroll
    descend = transform(self.inner.config)
    leaves, treedef = jax.tree.flatten(fast_0)
    rate_KxT = jnp.broadcast_to(self.inner.rates(), (steps * len(leaves),))
    rate_KxT = rate_scale * rate_KxT.reshape(steps, -1)

    def run(slow, carry, rate_KxT):
      def loss_fn(fast):
        return nnx.merge(graphdef, fast, slow).context_loss(context)

      def step(carry, rate_T):
        fast, opt_state = carry
        loss, grads = jax.value_and_grad(loss_fn)(fast)
        if not self.inner.config.second_order:
          grads = jax.lax.stop_gradient(grads)
        updates, opt_state = descend.update(grads, opt_state, fast)
        rates = jax.tree.unflatten(treedef, list(rate_T))
        fast = jax.tree.map(lambda w, eta, u: w - eta * u, fast, rates, updates)
        stats = jax.lax.stop_gradient((loss, optax.tree.norm(grads)))
        return (fast, opt_state), stats

      if self.inner.config.remat_levels:
        step = recomputed(step)
      return jax.lax.scan(step, carry, rate_KxT)

    start = fast_0, descend.init(fast_0)
    (fast, opt_state), stats = run(
      *jax.lax.stop_gradient((slow, start, rate_KxT[:early]))
    )
    # phi_0 + what the early steps added, a constant.
    fast = jax.tree.map(
      lambda w, moved: w + jax.lax.stop_gradient(moved - w), fast_0, fast
    )
    (fast, _), last = run(slow, (fast, opt_state), rate_KxT[early:])
    return fast, [jnp.concatenate(x) for x in zip(stats, last, strict=True)]

  def read_whole(self, tokens, parts=ALL, rate_scale=1.0) -> ChunkOutput:
    """Learns the context, then reads the questions, [n, ...].

    The context's tokens have the losses of phi_0 on their segments, before any
    learning. `inner_loss` is a chunk's own loss; the diagnostics `first_loss`
    and `last_loss` are L before steps 1 and K.

    Raises:
      ValueError: the chunk does not divide L, or no context is left.
    """
    length, c = len(tokens.tokens), self.chunk
    require_chunked(c, length)
    self.config.require_context("length", length, c)
    at = length - self.config.question_chunks * c
    chunks = in_chunks(tokens, c)
    context = jax.tree.map(lambda x: x[: at // c], chunks)
    read_all = jax.vmap(functools.partial(_read, self.adapted()))
    context_read = read_all(context.tokens, context.targets)
    learner, norm, diagnostics = self, jnp.zeros(()), {}
    if parts.inner:
      graphdef, _, slow = fast_weights.split(self)
      fast, (loss_K, norm_K) = self.learn(context, rate_scale)
      learner, norm = nnx.merge(graphdef, fast, slow), jnp.mean(norm_K)
      diagnostics = {"first_loss": loss_K[0], "last_loss": loss_K[-1]}
    question_read = _read(
      learner.adapted(), tokens.tokens[at:], tokens.targets[at:]
    )

    loss_nxC, correct_nxC = (
      jnp.concatenate([jnp.ravel(a), b]).reshape(-1, c)
      for a, b in zip(context_read[:2], question_read[:2], strict=True)
    )
    return ChunkOutput(
      loss_C=loss_nxC,
      correct_C=correct_nxC,
      inner_loss=jax.vmap(weighted_mean)(loss_nxC, chunks.weight),
      inner_grad_norm=jnp.broadcast_to(norm, len(loss_nxC)),
      diagnostics=self.model.diagnostics(question_read[2]) | diagnostics,
    )

  def state_parts(self, context_length):
    """Arrays by part: "replay" has the tokens, kept for K readings, "cache" the
    questions' keys and values."""
    _, fast, _ = fast_weights.split(self)
    read = self.config.question_chunks * self.chunk
    return {
      "fast_weights": fast,
      "inner_optimizer": self.inner.init(fast),
      "replay": jnp.zeros((context_length,), jnp.int32),
      "cache": self.model.init_cache(read, streaming=True),
    }


def _read(model, tokens_C: Array, targets_C: Array):
  """(loss_C, correct_C, forward) of tokens read from position 0, no past."""
  x_CxD, cache = model.read_prefix(tokens_C, Cache(None, None), 0)
  forward = model.forward(x_CxD, cache, None, 0)
  return *model.score(forward, targets_C), forward


def _matrices(model, globs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters that the globs match, by path.

  Raises:
    ValueError: a glob that matches nothing, or something that is no matrix.
  """
  leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
  shapes = {path_name(path): leaf.shape for path, leaf in leaves}

  def is_matrix(name):  # blocks are stacked: one axis more
    return len(shapes[name]) == 2 + name.startswith(("prefix/", "suffix/"))

  matrices = [name for name in shapes if is_matrix(name)]
  chosen: dict[str, tuple[int, ...]] = {}
  for glob in globs:
    names = fnmatch.filter(shapes, glob)
    require(
      bool(names) and set(names) <= set(matrices),
      f"learner.layers={globs}: {glob!r} matches {', '.join(names) or None}, "
      f"but must match only matrices: {', '.join(matrices)}",
    )
    chosen |= {name: shapes[name] for name in names}
  require(bool(chosen), "learner.layers=() adapts nothing: name a matrix")
  return chosen
