"""Models of the published TTT-E2E code (arXiv 2512.23675), read and run here.

`load` takes the published configuration (its `model` and `training` parts and
the outer `step`) and its weights by their published names; `token_losses` and
`meta_gradients` compute what that code computes in its three modes:

  meta   inner loop on, sliding-window attention
  swa    inner loop off, sliding-window attention
  full   inner loop off, full attention, the sequence as one chunk
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from mattt_jax.config import InnerConfig, ModelConfig, require, require_choice
from mattt_jax.memory import none
from mattt_jax.model.transformer import Transformer
from mattt_jax.ttt import coordination
from mattt_jax.ttt.inner_loop import make_learner, read_sequence
from mattt_jax.ttt.meta_loss import sequence_loss
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.tokens import make_tokens

_ROOT = "language_model.model."
_BLOCKS = _ROOT + "h.blocks."
_PRIME = _ROOT + "h.prime_storage."
_FAST = _ROOT + "h.suffix_blocks.feed_forward_prime."

_OUTSIDE = {
  "embedding": _ROOT + "wte.weight",
  "final_norm/scale": _ROOT + "ln_f.weight",
  "head": "language_model.lm_head.weight",
}
# Our parameter -> the published one: of all blocks, and of the suffix only.
_IN_BLOCK = {
  "attention/wq": "seq_modeling_block.wq",
  "attention/wk": "seq_modeling_block.wk",
  "attention/wv": "seq_modeling_block.wv",
  "attention/wo": "seq_modeling_block.wo",
  "attention/q_norm/scale": "seq_modeling_block.q_norm",
  "attention/k_norm/scale": "seq_modeling_block.k_norm",
  "attention_norm/scale": "seq_norm",
  "attention_post_norm/scale": "seq_post_norm",
  "mlp/w1": "feed_forward.w1",
  "mlp/w2": "feed_forward.w2",
  "mlp/w3": "feed_forward.w3",
  "mlp_norm/scale": "ffn_norm",
  "mlp_post_norm/scale": "ffn_post_norm",
}
_IN_SUFFIX = {
  "fast_mlp/w1": "feed_forward_prime.w1",
  "fast_mlp/w2": "feed_forward_prime.w2",
  "fast_mlp/w3": "feed_forward_prime.w3",
  "fast_mlp_norm/scale": "ffn_prime_norm",
  "fast_mlp_post_norm/scale": "ffn_prime_post_norm",
}


@dataclasses.dataclass(frozen=True)
class TTTE2E:
  """A published model: settings and weights under our names."""

  model: ModelConfig
  inner: InnerConfig
  vocab_size: int
  chunk: int
  rate_scale: float
  params: dict[str, Array]
  published: dict[str, tuple[int, ...]]  # shapes of the weights given


def load(config: Mapping[str, Any], weights: Mapping[str, Any]) -> TTTE2E:
  """Reads a published model.

  Args:
    config: `model`, `training` and `step`, as the published code has them.
    weights: published name -> array.

  Raises:
    ValueError: a weight that is missing or has another shape, or a setting
      that has no counterpart here.
  """
  m, training = config["model"], config["training"]
  inner = training["optimizer_inner"]
  optimizer = inner["optimizer_type"]
  require_choice("optimizer_inner.optimizer_type", optimizer, ("sgd",))
  model = ModelConfig(
    dim=m["hidden_size"],
    num_layers=m["num_hidden_layers"],
    num_suffix=m["suffix_len"] if m["prime"] else max(m["suffix_len"], 1),
    num_heads=m["num_attention_heads"],
    mlp_dim=m["intermediate_size"],
    fast_mlp_dim=m["intermediate_size"] if m["prime"] else 0,
    window=m["sliding_window_size"],
    rope_theta=m["rope_theta"],
    norm_eps=m["rms_norm_eps"],
    init_std=m["initializer_range"],
    tie_embeddings=m["tie_word_embeddings"],
    qk_norm=m["qk_norm"],
    pre_norm=m["pre_norm"],
    post_norm=m["post_norm"],
    dtype={"fp32": "float32", "bf16": "bfloat16"}[m["compute_dtype"]],
  )
  inner_config = InnerConfig(
    learning_rate=float(inner["lr"]),
    clip_norm=max(float(inner["clip_gradient"]), 0.0),
    warmup_steps=training["ilr_warmup_steps"],
    warmup_init=float(training["ilr_init"]),
  )
  vocab_size = m["vocab_size"]
  _, shapes = _abstract(model, vocab_size, 1)
  return TTTE2E(
    model=model,
    inner=inner_config,
    vocab_size=vocab_size,
    chunk=m["mini_batch_size"],
    rate_scale=float(
      coordination.rate_scale(inner_config, config.get("step", 0))
    ),
    params=_from_published(weights, _flat(shapes), model),
    published={name: np.shape(x) for name, x in weights.items()},
  )


def token_losses(
  model: TTTE2E, tokens, targets, loss_masks, mode: str = "meta"
) -> dict[str, Any]:
  """The losses of B sequences of T tokens in n chunks.

  Args:
    model: from `load`.
    tokens: [B, T] int.
    targets: [B, T] int.
    loss_masks: [B, T], 1 where the target counts.
    mode: "meta", "swa" or "full" (n = 1).

  Returns:
    token_nll [B, T] (not masked), chunk_loss [B, n], seq_loss [B], loss [];
    in mode "meta" also inner_grad_norm [B, n] and `fast`: published path ->
    [B, ...], the fast weights after the last chunk.

  Raises:
    ValueError: unknown mode, shapes that differ, or a chunk that does not
      divide T.
  """
  out = _run(model, model.params, tokens, targets, loss_masks, mode)
  return jax.tree.map(np.asarray, out)


def meta_gradients(
  model: TTTE2E, tokens, targets, loss_masks, mode: str = "meta"
) -> dict[str, np.ndarray]:
  """d loss / d weight for each weight that was given to `load`.

  Arguments and errors are those of `token_losses`. A weight that the settings
  leave unused has the gradient zero.
  """

  @jax.jit
  @jax.grad
  def grad(params):
    return _run(model, params, tokens, targets, loss_masks, mode)["loss"]

  ours = _to_published(jax.tree.map(np.asarray, grad(model.params)))
  return {
    name: ours.get(name, np.zeros(shape, np.float32))
    for name, shape in model.published.items()
  }


def _check(model, tokens, targets, loss_masks, mode):
  require_choice("mode", mode, ("meta", "swa", "full"))
  require(
    mode != "meta" or model.model.num_suffix * model.model.fast_mlp_dim > 0,
    "mode='meta' needs fast weights, that is prime=True and suffix_len > 0: "
    "use mode='swa' or 'full'",
  )
  shape = np.shape(tokens)
  for name, x in (("targets", targets), ("loss_masks", loss_masks)):
    require(
      np.shape(x) == shape and len(shape) == 2,
      f"{name} has shape {np.shape(x)}, tokens {shape}: both must be [B, T]",
    )
  require(
    shape[1] % model.chunk == 0,
    f"mini_batch_size={model.chunk} must divide the sequence length {shape[1]}",
  )


def _abstract(config: ModelConfig, vocab_size: int, chunk: int):
  args = config, vocab_size, none.Config(), chunk
  return nnx.split(nnx.eval_shape(lambda: Transformer(*args, nnx.Rngs(0))))


def _run(model: TTTE2E, params, tokens, targets, loss_masks, mode):
  """The losses as a function of the parameters, by our names."""
  _check(model, tokens, targets, loss_masks, mode)
  config, chunk, length = model.model, model.chunk, np.shape(tokens)[1]
  if mode == "full":
    config, chunk = dataclasses.replace(config, attention="full"), length

  @jax.jit
  def run(params, tokens, targets, masks):
    graphdef, state = _abstract(config, model.vocab_size, chunk)
    nnx.replace_by_pure_dict(state, unflatten_dict(params, sep="/"))
    learner = make_learner(nnx.merge(graphdef, state), model.inner, chunk)

    def read(tokens_L, targets_L, mask_L):
      state = learner.init_state(length, streaming=False)
      tokens = make_tokens(tokens_L, targets_L, mask_L)
      parts = Parts(inner=mode == "meta")
      state, out = read_sequence(
        learner, state, tokens, parts, model.rate_scale
      )
      loss_L = out.loss_C.reshape(-1)
      return {
        "token_nll": loss_L,
        "chunk_loss": out.inner_loss,
        "seq_loss": sequence_loss(loss_L, mask_L, chunk, "chunks"),
        "inner_grad_norm": out.inner_grad_norm,
        "fast": _flat(state.fast),
      }

    out = jax.vmap(read)(tokens, targets, masks)
    out["loss"] = jnp.mean(out["seq_loss"])
    return out

  out = run(
    params,
    jnp.asarray(tokens, jnp.int32),
    jnp.asarray(targets, jnp.int32),
    jnp.asarray(loss_masks, jnp.float32),
  )
  fast = out.pop("fast")
  if mode == "meta":
    out["fast"] = {
      f"{_FAST}{path.rsplit('/', 1)[-1]}.weight": x for path, x in fast.items()
    }
  else:
    out.pop("inner_grad_norm")
  return out


def _flat(state: nnx.State) -> dict[str, Array]:
  return flatten_dict(nnx.to_pure_dict(state), sep="/")


def _published_name(path: str) -> tuple[str, str]:
  """Our path -> (published name, which blocks: "", "prefix", "suffix")."""
  if path in _OUTSIDE:
    return _OUTSIDE[path], ""
  part, name = path.split("/", 1)
  if name in _IN_SUFFIX:
    return f"{_PRIME}{_IN_SUFFIX[name]}.weight", ""
  return f"{_BLOCKS}{_IN_BLOCK[name]}.weight", part


def _from_published(weights, shapes, model: ModelConfig) -> dict[str, Array]:
  prefix = model.num_layers - model.num_suffix
  params = {}
  for path, shape in shapes.items():
    name, part = _published_name(path)
    require(name in weights, f"weights[{name!r}] is missing")
    x = np.asarray(weights[name])
    expected = (model.num_layers, *shape.shape[1:]) if part else shape.shape
    require(
      x.shape == expected,
      f"weights[{name!r}] has the shape {x.shape}, but the configuration says "
      f"{expected}",
    )
    x = {"prefix": x[:prefix], "suffix": x[prefix:], "": x}[part]
    params[path] = jnp.asarray(x)
  return params


def _to_published(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  out: dict[str, np.ndarray] = {}
  for path in sorted(params):  # prefix comes before suffix
    (name, _), x = _published_name(path), params[path]
    out[name] = np.concatenate([out[name], x]) if name in out else x
  return out
