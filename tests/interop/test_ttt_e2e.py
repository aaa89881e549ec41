"""Parity with the published code: its own numbers, and a second reading.

The golden files hold what the authors' code computed. Other configurations of
the same schema are checked against `dense_reference`, which has to reproduce
the golden files too.
"""

import functools
import json
import pathlib

import dense_reference
import jax
import numpy as np
import pytest

from mattt_jax.interop import ttt_e2e

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FIXTURES = ("P1", "P2", "P3")
MODES = ("meta", "swa", "full")
ATOL = {
  "token_nll": 5e-5,
  "chunk_loss": 1e-5,
  "seq_loss": 1e-5,
  "loss": 1e-5,
  "inner_grad_norm": 1e-5,
  "fast": 1e-5,
}
GRADIENT_RTOL = 2e-5  # of the largest entry of a tensor


@functools.cache
def golden(name):
  """(config, weights, tokens/targets/masks, outputs and gradients by mode)."""
  config = json.loads((GOLDEN / f"{name}.json").read_text())
  with np.load(GOLDEN / f"{name}.npz") as file:
    arrays = dict(file)
  weights = under("w/", arrays)
  data = tuple(arrays[k] for k in ("tokens", "targets", "loss_masks"))
  expected = {}
  for mode in MODES:
    out = under("fa/" if mode == "full" else f"{mode}/", arrays)
    grads = under("grad/", out)
    fast = under("fast/", out)
    out = {k: v for k, v in out.items() if "/" not in k}
    expected[mode] = (out | {"fast": fast} if fast else out, grads)
  return config, weights, data, expected


def under(prefix, arrays):
  """The arrays whose name starts with `prefix`, without it."""
  return {
    k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
  }


def assert_same(ours, expected):
  """Every expected output and gradient, within the golden tolerances."""
  (out, grads), (expected_out, expected_grads) = ours, expected
  assert expected_out.keys() <= out.keys()
  for name, values in expected_out.items():
    one = not isinstance(values, dict)
    values, got = ({"": x} if one else x for x in (values, out[name]))
    assert values.keys() == got.keys()
    for key in values:
      assert got[key].shape == values[key].shape, (name, key)
      np.testing.assert_allclose(
        got[key], values[key], rtol=0, atol=ATOL[name], err_msg=f"{name} {key}"
      )
  assert grads.keys() == expected_grads.keys()
  for name, g in expected_grads.items():
    assert grads[name].shape == g.shape, name
    np.testing.assert_allclose(
      grads[name],
      g,
      rtol=0,
      atol=GRADIENT_RTOL * max(np.abs(g).max(), 1e-6),
      err_msg=name,
    )


def ours(config, weights, data, mode):
  model = ttt_e2e.load(config, weights)
  return (
    ttt_e2e.token_losses(model, *data, mode=mode),
    ttt_e2e.meta_gradients(model, *data, mode=mode),
  )


def reference(config, weights, data, mode):
  with jax.enable_x64(True):
    return dense_reference.losses_and_gradients(config, weights, *data, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FIXTURES)
def test_published_numbers(name, mode):
  config, weights, data, expected = golden(name)
  out, grads = result = ours(config, weights, data, mode)
  assert_same(result, expected[mode])
  assert grads.keys() == weights.keys()
  assert ("fast" in out) == ("inner_grad_norm" in out) == (mode == "meta")


def test_published_numbers_without_inner_learning():
  config, weights, data, _ = golden("P1")
  config = json.loads(json.dumps(config))
  config["training"]["optimizer_inner"]["lr"] = 0  # an int, as JSON may hold
  out = ttt_e2e.token_losses(ttt_e2e.load(config, weights), *data)
  with np.load(GOLDEN / "P1.npz") as file:
    for name in ("token_nll", "chunk_loss"):
      np.testing.assert_allclose(
        out[name], file[f"lr0/{name}"], rtol=0, atol=ATOL[name]
      )
  for name, x in out["fast"].items():
    short = name.rsplit(".", 2)[1]
    before = weights[
      f"language_model.model.h.prime_storage.feed_forward_prime.{short}.weight"
    ]
    np.testing.assert_array_equal(x[0], before)


@pytest.mark.parametrize("mode", MODES)
def test_reference_reproduces_published_numbers(mode):
  config, weights, data, expected = golden("P2")  # catches every misreading
  assert_same(reference(config, weights, data, mode), expected[mode])


# Configurations of the same schema that the golden files do not have.

NORMS = {"qk_norm": False, "pre_norm": False, "post_norm": False}
CASES = {
  # Three sequences; in one of them a chunk without a valid target.
  "odd_window_untied": dict(
    model=dict(sliding_window_size=11, tie_word_embeddings=False),
    data=dict(batch=3, length=24, masked=slice(8, 16)),
  ),
  "short_window_no_prefix_no_norms": dict(
    model=dict(sliding_window_size=3, suffix_len=3, **NORMS),
    training=dict(ilr_warmup_steps=7, ilr_init=0.2),
    data=dict(batch=2, length=32, mask_type=bool),
  ),
  "long_window_no_prime": dict(
    model=dict(sliding_window_size=40, prime=False, qk_norm=False),
    data=dict(batch=2, length=24, mask_type=int),
    drop=("prime", ".q_norm", ".k_norm"),
  ),
}


def make_case(name):
  """(config, weights, data) of a case; weights as the golden ones."""
  case = CASES[name]
  config = json.loads(json.dumps(golden("P1")[0]))
  config["step"] = 3
  config["model"] |= dict(
    vocab_size=19, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=2, mini_batch_size=8, seq_len=16, output_size=19,
  ) | case["model"]  # fmt: skip
  config["training"] |= {"seq_length": 16} | case.get("training", {})
  m, rng = config["model"], np.random.default_rng(7)

  def draw(*shape):
    return (0.3 * rng.normal(size=shape)).astype(np.float32)

  def scale(*shape):
    return np.clip(1 + draw(*shape), 0.3, 1.9)

  vocab, dim, hidden = m["vocab_size"], m["hidden_size"], m["intermediate_size"]
  layers, suffix = m["num_hidden_layers"], m["suffix_len"]
  head_dim = dim // m["num_attention_heads"]
  root = "language_model.model."
  weights = {f"{root}wte": draw(vocab, dim), f"{root}ln_f": scale(dim)}
  for k in ("wq", "wk", "wv", "wo"):
    weights[f"{root}h.blocks.seq_modeling_block.{k}"] = draw(layers, dim, dim)
  for k in ("q_norm", "k_norm"):
    weights[f"{root}h.blocks.seq_modeling_block.{k}"] = scale(layers, head_dim)
  for k in ("seq_norm", "seq_post_norm", "ffn_norm", "ffn_post_norm"):
    weights[f"{root}h.blocks.{k}"] = scale(layers, dim)
  for k in ("ffn_prime_norm", "ffn_prime_post_norm"):
    weights[f"{root}h.prime_storage.{k}"] = scale(suffix, dim)
  for part, n in (
    ("blocks.feed_forward", layers),
    ("prime_storage.feed_forward_prime", suffix),
  ):
    for k in ("w1", "w2", "w3"):
      shape = (n, hidden, dim) if k == "w2" else (n, dim, hidden)
      weights[f"{root}h.{part}.{k}"] = draw(*shape)
  if not m["tie_word_embeddings"]:
    weights["language_model.lm_head"] = draw(dim, vocab)
  weights = {
    f"{k}.weight": x
    for k, x in weights.items()
    if not any(part in k for part in case.get("drop", ()))
  }
  d = case["data"]
  text = rng.integers(0, vocab, (d["batch"], d["length"] + 1))
  masks = (rng.random((d["batch"], d["length"])) < 0.8).astype(
    d.get("mask_type", np.float32)
  )
  if "masked" in d:
    masks[-1, d["masked"]] = 0
  return config, weights, (text[:, :-1], text[:, 1:], masks)


@pytest.mark.parametrize(
  "name, mode",
  [
    ("odd_window_untied", "meta"),
    ("odd_window_untied", "swa"),
    ("short_window_no_prefix_no_norms", "meta"),
    ("short_window_no_prefix_no_norms", "full"),
    ("long_window_no_prime", "swa"),
    ("long_window_no_prime", "full"),
  ],
)
def test_other_configurations(name, mode):
  config, weights, data = make_case(name)
  out, grads = result = ours(config, weights, data, mode)
  assert_same(result, reference(config, weights, data, mode))
  for x in jax.tree.leaves((out, grads)):
    assert np.isfinite(x).all()
  if "masked" in CASES[name]["data"] and mode == "meta":
    assert out["chunk_loss"][-1, 1] == out["inner_grad_norm"][-1, 1] == 0
  if not config["model"]["post_norm"]:  # given, but unused
    name = "language_model.model.h.blocks.seq_post_norm.weight"
    assert not grads[name].any() and grads[name].shape == weights[name].shape


@pytest.mark.parametrize(
  "change, error",
  [
    (lambda c, w: w.pop("language_model.model.ln_f.weight"),
     r"weights\['language_model.model.ln_f.weight'\] is missing"),
    (lambda c, w: w.update({"language_model.model.ln_f.weight": np.ones(7)}),
     r"ln_f.weight'\] has the shape \(7,\), .* says \(8,\)"),
    (lambda c, w: c["model"].update(num_hidden_layers=4),
     r"norm.weight'\] has the shape \(3, 4\), .* says \(4, 4\)"),
    (lambda c, w: c["training"]["optimizer_inner"].update(
      optimizer_type="adamw"), "optimizer_type='adamw' is not known: .*sgd"),
  ],
)  # fmt: skip
def test_load_says_what_does_not_fit(change, error):
  config, weights, _ = make_case("odd_window_untied")
  change(config, weights)
  with pytest.raises(ValueError, match=error):
    ttt_e2e.load(config, weights)


@pytest.mark.parametrize("run", [ttt_e2e.token_losses, ttt_e2e.meta_gradients])
@pytest.mark.parametrize(
  "case, cut, mode, error",
  [
    ("odd_window_untied", 24, "fa", "mode='fa' is not known: use .*full"),
    ("odd_window_untied", 20, "meta", "mini_batch_size=8 must divide .* 20"),
    ("long_window_no_prime", 24, "meta", "'meta' needs .* prime=True"),
  ],
)
def test_unusable_calls_are_refused(run, case, cut, mode, error):
  config, weights, data = make_case(case)
  model = ttt_e2e.load(config, weights)
  with pytest.raises(ValueError, match=error):
    run(model, *(x[:, :cut] for x in data), mode=mode)


def test_shapes_that_differ_are_refused():
  config, weights, (tokens, targets, masks) = make_case("odd_window_untied")
  model = ttt_e2e.load(config, weights)
  with pytest.raises(ValueError, match=r"loss_masks has shape \(3, 23\)"):
    ttt_e2e.token_losses(model, tokens, targets, masks[:, 1:])
