"""FLOPs, parameters and state of a training step, against sums by hand.

Of one sequence. B batch, L tokens, D width, F hidden, V vocabulary.
"""

import dataclasses
import math

import pytest

from mattt_jax import config
from mattt_jax.planning.cost_model import step_cost
from mattt_jax.ttt.parts import Parts

B, L, D, F, V, LAYERS = 2, 64, 16, 24, 40, 2
CHUNK, WINDOW = 16, 8
PROJECTIONS = 2 * 4 * D * D  # of a token: queries, keys, values, output
MLP = 2 * 3 * D * F
HEAD = 2 * D * V


def experiment(**changes):
  tree = config.template("associative_recall")
  tree.update(length=L, chunk=CHUNK, batch_size=B)
  tree.model.update(dim=D, num_layers=LAYERS, num_suffix=0, num_heads=2,
                    mlp_dim=F, fast_mlp_dim=0, window=WINDOW)  # fmt: skip
  tree.inner.enabled = False
  tree.task.update(num_pairs=2, num_queries=2)
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def attention(queries, keys):
  """Scores, and the sum of values that they weight."""
  return 2 * 2 * queries * keys * D


def window_attention(length, window):
  """Blocks of queries meet the blocks of keys in reach."""
  block = min(window, 64)
  reach = math.ceil((window - 1) / block)
  return attention(length, (reach + 1) * block)


@pytest.mark.parametrize(
  "window, length", [(8, L), (16, 4 * L), (None, L), (None, 4 * L)]
)
def test_attention_alone(window, length):
  changes = (
    {"model__attention": "full"}
    if window is None
    else {"model__window": window}
  )
  cheap = experiment(model__remat_prefix=False, **changes)
  cost = step_cost(cheap, V, length=length)
  mixing = (
    attention(length, length)
    if window is None
    else (window_attention(length, window))
  )
  blocks = LAYERS * (length * (PROJECTIONS + MLP) + mixing)
  read = B * (blocks + length * HEAD)
  assert cost.tokens == B * length
  assert cost.read_flops == read
  assert cost.model_flops == 3 * read
  again = dataclasses.replace(
    cheap, model=dataclasses.replace(cheap.model, remat_prefix=True)
  )
  again = step_cost(again, V, length=length)
  assert again.hardware_flops == cost.hardware_flops + B * blocks
  assert again.model_flops == cost.model_flops


def ttt_read():
  """One prefix block, one suffix block with a fast MLP as wide as the other."""
  prefix = L * (PROJECTIONS + MLP) + window_attention(L, WINDOW)
  # The suffix sees its cache of WINDOW tokens too, again in blocks.
  mixing = L // CHUNK * window_attention(CHUNK, WINDOW)
  suffix = L * (PROJECTIONS + 2 * MLP + HEAD) + mixing
  # Back from the loss: to the input of every product, and to fast weights.
  # The loop over suffix blocks goes back through the whole of each.
  back = L * (PROJECTIONS + 2 * MLP + MLP + HEAD) + 2 * mixing
  return prefix, suffix + back


def test_a_kernel_counts_as_attention_in_blocks():
  """Not as the one block that its program shows."""
  costs = [
    step_cost(
      experiment(
        length=128, model__window=32, model__prefix_attention=how,
        task__out_of_reach=False,
      ),
      V,
    )
    for how in ("banded", "auto", "splash")
  ]  # fmt: skip
  assert costs[0] == costs[1] == costs[2]


def test_ttt():
  fast = {"model__num_suffix": 1, "model__fast_mlp_dim": F}
  cost = step_cost(experiment(inner__enabled=True, **fast), V)
  prefix, learning = ttt_read()
  assert cost.read_flops == B * (prefix + learning)
  # A second derivative: every product of the first has two more.
  assert cost.model_flops == 3 * cost.read_flops
  assert cost.hardware_flops > cost.model_flops


def test_no_backward_pass_through_a_frozen_prefix():
  """Nor products for gradients of what is frozen in the suffix."""
  changes = dict(
    inner__enabled=True, inner__remat_levels=1, model__num_suffix=1,
    model__fast_mlp_dim=F, model__tie_embeddings=False,
  )  # fmt: skip
  cost, rest = (
    step_cost(experiment(train__trainable=trainable, **changes), V)
    for trainable in (("*",), ("suffix/*", "final_norm/*", "head"))
  )
  prefix = B * (L * (PROJECTIONS + MLP) + window_attention(L, WINDOW))
  assert rest.read_flops == cost.read_flops
  # Two products for each of the first pass; and, to recompute it, that again.
  assert cost.model_flops - rest.model_flops == 2 * prefix
  assert cost.hardware_flops - rest.hardware_flops >= 3 * prefix
  less = step_cost(
    experiment(train__trainable=("suffix/fast_mlp/*",), **changes), V
  )
  # A first pass and the inner backward pass have for each matrix product one
  # whose result nothing needs: the gradient of the weights.
  weights = B * L * (PROJECTIONS + MLP + HEAD)
  assert rest.model_flops - less.model_flops >= 2 * weights
  assert less.parameters == cost.parameters


def test_a_head_in_blocks_computes_its_logits_twice():
  cost = step_cost(experiment(), V)
  blocks = step_cost(experiment(model__vocab_block=V // 4), V)
  assert blocks.model_flops == cost.model_flops
  assert blocks.hardware_flops == cost.hardware_flops + B * L * HEAD


def test_inner_loop_off_costs_what_a_model_without_it_costs():
  fast = {"model__num_suffix": 1, "model__fast_mlp_dim": F}
  on = experiment(inner__enabled=True, **fast)
  off = step_cost(on, V, Parts(inner=False))
  assert off.model_flops == step_cost(experiment(**fast), V).model_flops
  assert off.model_flops < step_cost(on, V).model_flops


def test_cost_grows_with_batch_length_and_window():
  base = experiment()
  cost = step_cost(base, V)
  assert step_cost(base, V, sequences=3 * B).model_flops == 3 * cost.model_flops
  longer = step_cost(base, V, length=8 * L)
  assert longer.model_flops == 8 * cost.model_flops
  wide = dataclasses.replace(
    base, model=dataclasses.replace(base.model, window=2 * WINDOW)
  )
  extra = (
    3
    * B
    * LAYERS
    * (window_attention(L, 2 * WINDOW) - window_attention(L, WINDOW))
  )
  assert step_cost(wide, V).model_flops == cost.model_flops + extra


def test_parameters_and_state():
  fast = {"model__num_suffix": 1, "model__fast_mlp_dim": F}
  cost = step_cost(experiment(inner__enabled=True, **fast), V)
  matrices = LAYERS * (4 * D * D + 3 * D * F) + V * D
  norms = LAYERS * (4 * D + 2 * D // 2) + 2 * D + D  # of the fast MLP; the last
  assert cost.parameters["fast"] == 3 * D * F
  assert cost.parameters["slow"] == matrices + norms
  assert cost.state_bytes["fast_weights"] == 4 * 3 * D * F
  assert cost.state_bytes["cache"] == 4 * 2 * LAYERS * WINDOW * D
