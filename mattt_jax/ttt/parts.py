"""Which parts of a system are on while it reads."""

from typing import NamedTuple

from mattt_jax.config import Experiment


class Parts(NamedTuple):
  """What acts; static: each choice is a program of its own, and what is off
  costs nothing."""

  inner: bool = True  # the inner loop moves the fast weights
  memory: bool = True  # the memory is read and written


ALL = Parts()


def parts_of(experiment: Experiment) -> Parts:
  """The parts that the experiment's system has."""
  return Parts(
    inner=experiment.inner.enabled, memory=experiment.memory.read is not None
  )


def eval_parts(experiment: Experiment, parts: Parts | None = None) -> Parts:
  """What is on in evaluation: `parts`, by default `eval.inner` and
  `eval.memory`, as far as the system has them."""
  wanted = parts or Parts(experiment.eval.inner, experiment.eval.memory)
  own = parts_of(experiment)
  return Parts(wanted.inner and own.inner, wanted.memory and own.memory)
