"""What a backward pass computes again, instead of keeping it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

_NOTHING = contextvars.ContextVar("nothing", default=False)


def recomputed(fn: Callable, *, policy: Callable | None = None) -> Callable:
  """`fn`, whose results a backward pass computes again from its arguments.

  For bodies of `lax.scan`, which XLA does not merge with their recomputation.
  `policy`: which results are kept all the same (`jax.checkpoint_policies`).
  """
  if _NOTHING.get():
    return fn
  return jax.checkpoint(fn, prevent_cse=False, policy=policy)


@contextlib.contextmanager
def nothing() -> Iterator[None]:
  """Everything traced here keeps what its backward pass needs: what a program
  computes, if memory were free."""
  token = _NOTHING.set(True)
  try:
    yield
  finally:
    _NOTHING.reset(token)
