"""The smallest transformers that have every part of the recurrence."""

import jax
import jax.numpy as jnp
from flax import nnx

from mattt_jax import config, registry
from mattt_jax.learners.build import build_learner
from mattt_jax.ttt.inner_loop import read_sequence
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.tokens import make_tokens

VOCAB, CHUNK = 40, 4
MEMORIES = registry.names(config.MEMORIES)
# (memory, read) of every memory that there is.
SYSTEMS = [
  (name, read)
  for name in MEMORIES
  for read in getattr(
    registry.load(config.MEMORIES, name).Config, "reads", (None,)
  )
]
_SIZES = dict(num_heads=2, head_dim=4, key_dim=3, value_dim=5, top_k=3)
# Or the memory would hardly be read.
_SIZES |= dict(null_bias=0.0, temperature=2.0)


def experiment(memory="none", read=None, length=16, **changes):
  """Settings; `changes` are "section__field" = value."""
  tree = config.template("associative_recall", memory)
  tree.update({"length": length, "chunk": CHUNK, "batch_size": 1})
  tree.model.update(
    dim=8, num_layers=2, num_suffix=1, num_heads=2, mlp_dim=10,
    fast_mlp_dim=6, window=5, init_std=0.3,
  )  # fmt: skip
  tree.task.update(num_keys=4, num_values=4, num_fillers=4)
  tree.task.update(num_pairs=1, num_queries=1)
  if read:
    tree.memory.read = read
  tree.memory.update({k: x for k, x in _SIZES.items() if k in tree.memory})
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def learner(memory="none", read=None, *, float64=False, **changes) -> Learner:
  """A learner of which no parameter is at its initial zero or one."""
  settings = experiment(memory, read, **changes)
  if float64:  # for checks only, so not a choice of the settings
    object.__setattr__(settings.model, "dtype", "float64")
  graphdef, state = nnx.split(build_learner(settings, VOCAB))
  leaves, treedef = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  state = treedef.unflatten(
    x + 0.2 * jax.random.normal(k, x.shape, x.dtype)
    for k, x in zip(keys, leaves, strict=True)
  )
  return nnx.merge(graphdef, as_float64(state) if float64 else state)


def as_float64(tree):
  """Floating arrays in float64."""
  return jax.tree.map(
    lambda x: (
      x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    ),
    tree,
  )


def text(length, seed=0):
  """(tokens, targets), random."""
  tokens = jax.random.randint(jax.random.key(seed), (length + 1,), 0, VOCAB)
  tokens = tokens.astype(jnp.int32)
  return tokens[:-1], tokens[1:]


def read(learner, tokens, targets, weight, **kwargs):
  """(final state, outputs) of one pass from an empty state."""
  state = learner.init_state(len(tokens), streaming=False)
  if learner.model.config.dtype == "float64":
    state = as_float64(state)
  tokens = make_tokens(tokens, targets, weight)
  return read_sequence(learner, state, tokens, **kwargs)
