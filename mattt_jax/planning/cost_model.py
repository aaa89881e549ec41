"""Costs of a system: FLOPs and bytes of a step, parameters, state.

They are counted in the jaxpr of the programs that run, a `scan` as often as it
runs (XLA's own cost analysis counts the body of a loop once). A multiplication
and an addition are two FLOPs.
"""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jax.extend import core
from jax.interpreters import partial_eval

from mattt_jax import recompute
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.training import metrics
from mattt_jax.training.train_step import abstract_training, train_step
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.read_batch import read_batch
from mattt_jax.ttt.tokens import tokens_of


@dataclasses.dataclass(frozen=True)
class Products:
  """Matrix products (and triangular solves) of a program."""

  flops: float = 0.0
  # What they read and write, if nothing stays on the chip between them.
  bytes: float = 0.0

  def __add__(self, other: "Products") -> "Products":
    return Products(self.flops + other.flops, self.bytes + other.bytes)

  def times(self, number: int) -> "Products":
    """Adds this program up `number` times."""
    return Products(number * self.flops, number * self.bytes)


@dataclasses.dataclass(frozen=True)
class StepCost:
  """Cost of an outer step on all devices together, in FLOPs of matrix products,
  and sizes of the system."""

  tokens: int
  parameters: dict[str, int]  # by kind
  state_bytes: dict[str, int]  # of one sequence of this length, by part
  read_flops: float  # forward pass, with inner steps and memory
  model_flops: float  # the whole step, if nothing were computed twice
  hardware_flops: float  # of the program that runs
  product_bytes: float  # `Products.bytes` of the program that runs


def step_cost(
  experiment: Experiment,
  vocab_size: int,
  parts: Parts = ALL,
  *,
  sequences: int | None = None,
  length: int | None = None,
) -> StepCost:
  """Counts the cost of an outer step; computes nothing.

  Args:
    experiment: gives model, chunk, memory, ...
    vocab_size: of the task.
    parts: that are on in this step.
    sequences: of a batch; default: `experiment.batch_size`.
    length: tokens of a sequence; default: `experiment.length`.
  """
  sequences = sequences or experiment.batch_size
  length = length or experiment.length
  parts = parts._replace(inner=parts.inner and experiment.inner.enabled)
  experiment = _countable(experiment)
  graphdef, params = build.abstract_learner(experiment, vocab_size)
  batch = build.abstract_batch(sequences, length)
  runs = _train_products(experiment, vocab_size, batch, parts)
  # The model's own: reverse mode over everything that a first pass computes.
  inner = dataclasses.replace(experiment.inner, differentiation="reverse")
  reverse = dataclasses.replace(experiment, inner=inner)
  with recompute.keeping_all():
    once = _train_products(reverse, vocab_size, batch, parts)
    read_flops = _read_flops(graphdef, params, batch, parts)
  return StepCost(
    tokens=sequences * length,
    parameters=metrics.parameter_counts(params),
    state_bytes=_state_bytes(graphdef, params, length),
    read_flops=read_flops,
    model_flops=once.flops,
    hardware_flops=runs.flops,
    product_bytes=runs.bytes,
  )


def flops_per_token(experiment: Experiment, vocab_size: int) -> float:
  """Matrix-product FLOPs of reading a token of a training sequence, inner steps
  and memory included (nothing of the outer backward pass)."""
  experiment = _countable(experiment)
  learner = build.abstract_learner(experiment, vocab_size)
  batch = build.abstract_batch(1, experiment.length)
  parts = Parts(inner=experiment.inner.enabled)
  return _read_flops(*learner, batch, parts) / experiment.length


def _read_flops(graphdef, params, batch, parts: Parts) -> float:
  def read(params, tokens):
    return read_batch(nnx.merge(graphdef, params), tokens, parts).loss_BxL

  return matmul_flops(read, params, tokens_of(batch))


def _countable(experiment: Experiment) -> Experiment:
  """Sets attention in blocks, which a kernel's jaxpr does not count. (A kernel
  has .8 times these products in training for the first 8192 tokens, 1.6 times
  later: benchmarks/prefix_attention.py.)"""
  model = dataclasses.replace(experiment.model, prefix_attention="banded")
  return dataclasses.replace(experiment, model=model)


def _state_bytes(graphdef, params: Any, length: int) -> dict[str, int]:
  sizes = {}

  def collect(params):
    sizes.update(nnx.merge(graphdef, params).state_bytes(length))

  jax.eval_shape(collect, params)
  return sizes


def _train_products(
  experiment: Experiment, vocab_size: int, batch, parts: Parts
) -> Products:
  mesh = meshes.make_mesh(1)  # on every mesh the same is computed
  graphdef, optimizer, state = abstract_training(experiment, vocab_size, mesh)

  def step(state, batch):
    return train_step(graphdef, optimizer, experiment, state, batch, parts)

  return products(step, state, batch)


def matmul_flops(fn, *args: Any) -> float:
  """FLOPs of `products(fn, *args)`."""
  return products(fn, *args).flops


def products(fn, *args: Any) -> Products:
  """Counts matrix products and triangular solves of `fn(*args)` that its
  results need; arguments may be abstract.

  Raises:
    ValueError: the program has a `while` loop, whose length is not known.
  """
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(needed)


def _count(jaxpr: core.Jaxpr) -> Products:
  total = Products()
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name in _FLOPS:
      ends: list[Any] = [*equation.invars, *equation.outvars]
      moved = sum(x.aval.size * x.aval.dtype.itemsize for x in ends)
      total += Products(_FLOPS[name](equation), moved)
      continue
    if name == "while":
      raise ValueError(
        "the program has a while loop, whose length is not known: write it as "
        "lax.scan"
      )
    inner = [_count(sub) for sub in _jaxprs(equation.params)]
    if name == "cond":  # the dearest branch
      total += max(inner, key=lambda branch: branch.flops)
    else:
      times = equation.params["length"] if name == "scan" else 1
      total += sum(inner, Products()).times(times)
  return total


def _jaxprs(params: dict[str, Any]):
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _dot_general(equation) -> float:
  (left, _), _ = equation.params["dimension_numbers"]
  x = equation.invars[0].aval
  contracted = math.prod(x.shape[axis] for axis in left)
  return 2.0 * contracted * math.prod(equation.outvars[0].aval.shape)


def _triangular_solve(equation) -> float:
  # n^2 for each right-hand side: half of a product, the rest being zeros.
  matrix, right = (x.aval for x in equation.invars)
  return float(matrix.shape[-1] * math.prod(right.shape))


_FLOPS = {"dot_general": _dot_general, "triangular_solve": _triangular_solve}
