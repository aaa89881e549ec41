"""What a backward pass computes again, instead of keeping it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

_KEEPS_ALL = contextvars.ContextVar("keeps_all", default=False)


def recomputed(fn: Callable, *, policy: Callable | None = None) -> Callable:
  """Makes a backward pass compute the results of `fn` again, but those that
  `policy` keeps (`jax.checkpoint_policies`). `fn` is the body of a `lax.scan`,
  which XLA does not merge with its recomputation."""
  if _KEEPS_ALL.get():
    return fn
  return jax.checkpoint(fn, prevent_cse=False, policy=policy)


@contextlib.contextmanager
def keeping_all() -> Iterator[None]:
  """Lets all that is traced here keep what its backward pass needs, as if
  memory were free."""
  token = _KEEPS_ALL.set(True)
  try:
    yield
  finally:
    _KEEPS_ALL.reset(token)
