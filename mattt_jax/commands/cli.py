"""The command `mattt`, which runs one of the files here."""

import difflib
import sys
from collections.abc import Sequence

import mattt_jax
from mattt_jax import registry
from mattt_jax.commands import launch

PACKAGE = "mattt_jax.commands"


def names() -> tuple[str, ...]:
  """The commands there are."""
  return registry.names(PACKAGE)


def command(name: str) -> launch.Command:
  """The command of that name."""
  return registry.load(PACKAGE, name).COMMAND


def run(name: str, program: str, argv: Sequence[str]) -> int:
  """Runs a command as `program`; returns the exit code."""
  return launch.launch(command(name), program, argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command that `argv` names; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv:
    print(_overview(), file=sys.stderr)
    return 2
  name, *rest = argv
  if name in ("help", "--help", "-h"):
    if rest and rest[0] in names():
      return run(rest[0], f"mattt {rest[0]}", ["--help"])
    print(_overview())
    return 0
  if name == "--version":
    print(mattt_jax.__version__)
    return 0
  if name not in names():
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    error = f"mattt: error: unknown command {name!r}{hint}"
    print(f"{error}\n\n{_overview()}", file=sys.stderr)
    return 2
  return run(name, f"mattt {name}", rest)


def _overview() -> str:
  about = registry.summaries(PACKAGE)
  return "\n".join(
    ["Memory-augmented test-time training.", "", "Commands:"]
    + [f"  mattt {name:<9} {about[name]}" for name in names()]
    + ["", "Example:", f"  mattt train {command('train').example}", ""]
    + ["mattt COMMAND --help shows its flags."]
  )


if __name__ == "__main__":
  sys.exit(main())
