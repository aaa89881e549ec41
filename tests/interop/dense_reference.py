"""TTT-E2E written down a second time, straight from tests/golden/README.md.

Shares no line with the package: dense masks over all T keys, Python loops over
chunks and layers, absolute positions, plain autodiff. Slow, and meant to be
read beside that page. Call it under `jax.enable_x64`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

ROOT = "language_model.model."
BLOCK = ROOT + "h.blocks."
PRIME = ROOT + "h.prime_storage."
ADAPTED = ROOT + "h.suffix_blocks.feed_forward_prime."
MLP = ("w1", "w2", "w3")


def rms_norm(x, weight, eps):
  return weight * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)


def swiglu(x, w1, w2, w3):
  return (jax.nn.silu(x @ w1) * (x @ w3)) @ w2


def rotate(x_TxHxK, positions_T, theta):
  """Neighbouring channels as complex numbers, times exp(i position freq)."""
  dim = x_TxHxK.shape[-1]
  frequency = theta ** (-np.arange(0, dim, 2) / dim)
  angle = (positions_T[:, None] * frequency)[:, None]
  real, imaginary = x_TxHxK[..., 0::2], x_TxHxK[..., 1::2]
  out = (
    real * jnp.cos(angle) - imaginary * jnp.sin(angle),
    real * jnp.sin(angle) + imaginary * jnp.cos(angle),
  )
  return jnp.stack(out, axis=-1).reshape(x_TxHxK.shape)


class Model:
  """`m`: the configuration; window None: full attention; weights are args."""

  def __init__(self, m, window):
    self.m, self.window = m, window
    self.layers = m["num_hidden_layers"]
    self.suffix = m["suffix_len"] if m["prime"] else 0

  def norm(self, w, x, flag, name, index):
    if not self.m[flag]:
      return x
    return rms_norm(x, w[f"{name}.weight"][index], self.m["rms_norm_eps"])

  def attention(self, w, x_CxD, layer, start, cache):
    """Tokens start .. start+C-1; `cache`: keys and values of all T, so far."""
    heads = self.m["num_attention_heads"]
    name = BLOCK + "seq_modeling_block."

    def project(which):
      y = x_CxD @ w[f"{name}{which}.weight"][layer]
      return y.reshape(len(y), heads, -1)

    q = self.norm(w, project("wq"), "qk_norm", name + "q_norm", layer)
    k = self.norm(w, project("wk"), "qk_norm", name + "k_norm", layer)
    k = jax.lax.dynamic_update_slice(cache[0], k, (start, 0, 0))
    v = jax.lax.dynamic_update_slice(cache[1], project("wv"), (start, 0, 0))
    i = start + jnp.arange(len(x_CxD))[:, None]
    j = jnp.arange(len(k))[None, :]
    seen = j <= i
    if self.window is not None:
      seen &= i < j + self.window
    theta = self.m["rope_theta"]
    scores = jnp.einsum(
      "qhd,khd->hqk", rotate(q, i[:, 0], theta), rotate(k, j[0], theta)
    )
    scores = jnp.where(seen, scores / np.sqrt(q.shape[-1]), -jnp.inf)
    out = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)
    return out.reshape(x_CxD.shape) @ w[f"{name}wo.weight"][layer], (k, v)

  def block(self, w, x, layer, start, cache, fast=None):
    """One layer; `fast`: the prime MLPs, for a suffix layer."""
    out = self.norm(w, x, "pre_norm", BLOCK + "seq_norm", layer)
    out, cache = self.attention(w, out, layer, start, cache)
    x = x + self.norm(w, out, "post_norm", BLOCK + "seq_post_norm", layer)
    if fast is not None:
      s = layer - (self.layers - self.suffix)
      out = self.norm(w, x, "pre_norm", PRIME + "ffn_prime_norm", s)
      out = swiglu(out, *(fast[name][s] for name in MLP))
      out = self.norm(w, out, "post_norm", PRIME + "ffn_prime_post_norm", s)
      x = x + out
    out = self.norm(w, x, "pre_norm", BLOCK + "ffn_norm", layer)
    mlp = (w[f"{BLOCK}feed_forward.{name}.weight"][layer] for name in MLP)
    out = swiglu(out, *mlp)
    out = self.norm(w, out, "post_norm", BLOCK + "ffn_post_norm", layer)
    return x + out, cache

  def empty_cache(self, length):
    heads = self.m["num_attention_heads"]
    shape = (length, heads, self.m["hidden_size"] // heads)
    return jnp.zeros(shape), jnp.zeros(shape)

  @functools.partial(jax.jit, static_argnums=0)
  def prefix(self, w, tokens):
    x = w[ROOT + "wte.weight"][tokens]
    for layer in range(self.layers - self.suffix):
      x, _ = self.block(w, x, layer, 0, self.empty_cache(len(x)))
    return x

  @functools.partial(jax.jit, static_argnums=0)
  def inner_loss(self, fast, w, x, targets, mask, start, caches):
    """Suffix and head on one chunk: (masked mean, (token nll, caches))."""
    new = []
    for s, cache in enumerate(caches):
      layer = self.layers - self.suffix + s
      x, cache = self.block(w, x, layer, start, cache, fast)
      new.append(cache)
    x = rms_norm(x, w[ROOT + "ln_f.weight"], self.m["rms_norm_eps"])
    if self.m["tie_word_embeddings"]:
      logits = x @ w[ROOT + "wte.weight"].T
    else:
      logits = x @ w["language_model.lm_head.weight"]
    nll = -jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]
    total = jnp.where(mask > 0, nll, 0.0).sum()
    return total / jnp.maximum(mask.sum(), 1e-10), (nll, new)

  def read(self, w, tokens, targets, mask, chunk, inner, rate, clip):
    """One sequence, in chunks."""
    fast = {
      name: w.get(f"{PRIME}feed_forward_prime.{name}.weight") for name in MLP
    }
    x = self.prefix(w, tokens)
    caches = [self.empty_cache(len(x))] * self.suffix
    nlls, losses, norms = [], [], []
    for start in range(0, len(tokens), chunk):
      args = (w, *(a[start : start + chunk] for a in (x, targets, mask)))
      loss_and_grad = jax.value_and_grad(self.inner_loss, has_aux=True)
      if inner:
        (loss, aux), grads = loss_and_grad(fast, *args, start, caches)
        square = sum(jnp.sum(g**2) for g in grads.values())
        some = square > 0  # a masked chunk has no gradient, and teaches nothing
        norm = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
        scale = jnp.where(norm < clip, 1.0, clip / jnp.where(some, norm, 1.0))
        step = rate * (scale if clip > 0 else 1.0)
        fast = {name: fast[name] - step * grads[name] for name in MLP}
        norms.append(norm)
      else:
        loss, aux = self.inner_loss(fast, *args, start, caches)
      nlls.append(aux[0])
      losses.append(loss)
      caches = aux[1]
    out = {"token_nll": jnp.concatenate(nlls), "chunk_loss": jnp.stack(losses)}
    out["seq_loss"] = out["chunk_loss"].mean()
    if inner:
      out["inner_grad_norm"] = jnp.stack(norms)
      out["fast"] = {f"{ADAPTED}{k}.weight": x for k, x in fast.items()}
    return out


def inner_rate(config):
  """The inner learning rate at outer step `step`."""
  training = config["training"]
  rate, warmup = training["optimizer_inner"]["lr"], training["ilr_warmup_steps"]
  if not warmup:
    return rate
  share = min(1.0, (config["step"] + 1) / warmup)
  return training["ilr_init"] + (rate - training["ilr_init"]) * share


def losses_and_gradients(config, weights, tokens, targets, masks, mode):
  """(outputs, d loss / d weight by name), in float64, for B sequences."""
  assert jax.config.jax_enable_x64
  weights = {k: jnp.asarray(x, jnp.float64) for k, x in weights.items()}
  rows = [jnp.asarray(x) for x in (tokens, targets)]
  rows.append(jnp.asarray(masks, jnp.float64))
  m = config["model"]
  model = Model(m, None if mode == "full" else m["sliding_window_size"])
  read = functools.partial(
    model.read,
    chunk=rows[0].shape[1] if mode == "full" else m["mini_batch_size"],
    inner=mode == "meta",
    rate=inner_rate(config),
    clip=config["training"]["optimizer_inner"]["clip_gradient"],
  )

  def loss(weights):
    out = jax.vmap(lambda *row: read(weights, *row))(*rows)
    loss = out["seq_loss"].mean()
    return loss, out | {"loss": loss}

  (_, out), grads = jax.value_and_grad(loss, has_aux=True)(weights)
  return jax.device_get((out, grads))
