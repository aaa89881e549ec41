"""FLOPs of a JAX program, counted in its jaxpr.

XLA's own cost analysis counts the body of a loop once; here a `scan` counts as
often as it runs. A multiplication and an addition are two FLOPs.
"""

import math
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def matmul_flops(fn, *args: Any) -> float:
  """FLOPs of the matrix products (and triangular solves) of `fn(*args)`;
  arguments may be abstract.

  Elementwise work, sorting and gathers are not counted, nor is what no result
  needs (a compiler leaves it out).

  Raises:
    ValueError: the program has a `while` loop, of which nobody knows how often
      it runs.
  """
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(needed)


def _count(jaxpr: core.Jaxpr) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      total += _dot_general(equation)
      continue
    if name == "triangular_solve":
      total += _triangular_solve(equation)
      continue
    if name == "while":
      raise ValueError(
        "the program has a while loop, whose length is not known: write it as "
        "lax.scan"
      )
    inner = [_count(sub) for sub in _jaxprs(equation.params)]
    if name == "cond":  # the dearest branch
      total += max(inner)
    else:
      times = equation.params["length"] if name == "scan" else 1
      total += times * sum(inner)
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
