"""Entry points: the script `mattt`, and `python -m mattt_jax.main` (training).

Versions that do not fit end here, before anything that needs them is imported.
"""

import sys
from collections.abc import Callable
from types import ModuleType

from mattt_jax import versions


def mattt() -> int:
  """Entry point of `mattt`."""
  return _enter("mattt", lambda cli: cli.main())


def main() -> int:
  """Entry point of `python -m mattt_jax.main`: `mattt train`."""
  program = "python -m mattt_jax.main"
  return _enter(program, lambda cli: cli.run("train", program, sys.argv[1:]))


def _enter(program: str, run: Callable[[ModuleType], int]) -> int:
  problem = versions.problem()
  if problem:
    print(f"{program}: error: {problem}", file=sys.stderr)
    return 2
  from mattt_jax.commands import cli

  return run(cli)


if __name__ == "__main__":
  sys.exit(main())
