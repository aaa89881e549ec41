"""Stand-ins for gcloud, kubectl, xpk, srun and others, put first on the PATH.

Each call is a line of `calls.jsonl`. What gcloud and kubectl answer follows a
small model of the real thing: creating what is there, deleting or reaching what
is not, is an error.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

_HEAD = (
  f"#!{sys.executable} -SE\n"
  + """
import json, os, pathlib, sys
here = pathlib.Path(os.environ["FAKES"])
args = sys.argv[1:]
name = pathlib.Path(sys.argv[0]).name
with (here / "calls.jsonl").open("a") as file:
  file.write(json.dumps([name, *args]) + "\\n")
path = here / "world.json"
world = json.loads(path.read_text())
def leave(code=0, out="", err=""):
  path.write_text(json.dumps(world))
  if out: print(out)
  if err: print(err, file=sys.stderr)
  sys.exit(code)
"""
)

# world: "lives", for each creation the states that describe shows one after the
# other (the last one stays); "ssh", for each ssh (exit code, states to come or
# null); "now", the states of the resource that is there, or null.
_GCLOUD = """
group, verb = args[2], args[3]
now = world["now"]
if verb == "describe":
  if world.get("broken"):
    leave(1, err="ERROR: (gcloud) You do not have permission: 403")
  if not now:
    leave(1, err="ERROR: (gcloud...describe) NOT_FOUND: Resource was not found")
  state = now.pop(0) if len(now) > 1 else now[0]
  if state == "GONE":
    world["now"] = None
    leave(1, err="ERROR: (gcloud...describe) NOT_FOUND: Resource was not found")
  leave(out=state)
if verb == "create":
  if now: leave(1, err="ERROR: ALREADY_EXISTS")
  if not world["lives"]: leave(1, err="ERROR: quota")
  world["now"] = world["lives"].pop(0)
  leave()
if verb == "delete":
  if not now: leave(1, err="ERROR: NOT_FOUND")
  world["now"] = None
  leave()
if now is None or now[0] != "ACTIVE": leave(1, err="ERROR: not active")
code, then = 0, None
kind = "setup" if verb == "scp" or "setup_host.sh" in args[-1] else "ssh"
if world.get(kind): code, then = world[kind].pop(0)
if then: world["now"] = then
leave(code, out=f"ran: {args[-1]}")
"""

# world: "jobsets" by name: [terminal state, suspended, restarts], or a list of
# them, one after the other.
_KUBECTL = """
if args[0] == "get":
  found = world["jobsets"].get(args[2])
  if world.get("broken"): leave(1, err="the server is not there")
  if found is None: leave()
  if isinstance(found[0], list):
    now = found.pop(0) if len(found) > 1 else found[0]
  else:
    now = found
  leave(out="/".join([args[2], *map(str, now)]))
if args[0] == "delete":
  if args[2] not in world["jobsets"] and "--ignore-not-found" not in args:
    leave(1, err="NotFound")
  world["jobsets"].pop(args[2], None)
  leave()
if args[0] == "apply":
  text = sys.stdin.read()
  world.setdefault("applied", []).append(text)
  leave()
leave(1, err="what?")
"""

# world: "codes", the exit codes of the calls, one after the other; then 0.
_PROGRAM = """
code = world.get("codes", {}).get(name, [])
leave(code.pop(0) if code else 0)
"""


class Fakes:
  """Fakes in `directory`, and scripts run among them."""

  def __init__(self, directory: pathlib.Path, **world):
    self.directory = directory
    self.bin = directory / "bin"
    self.bin.mkdir(parents=True)
    self.world(**world)
    for name, body in {
      "gcloud": _GCLOUD, "kubectl": _KUBECTL,
      **dict.fromkeys(("xpk", "srun", "scontrol", "mattt", "sudo", "gcsfuse"),
                      _PROGRAM),
    }.items():  # fmt: skip
      path = self.bin / name
      path.write_text(_HEAD + body)
      path.chmod(0o755)

  def world(self, **world):
    """Sets what is; returns what was."""
    path = self.directory / "world.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if world:
      path.write_text(json.dumps(world))
    elif not path.exists():
      path.write_text("{}")
    return before

  def run(self, script, *args, **environment):
    """Runs launch/`script`; returns the finished process."""
    beside = pathlib.Path(sys.executable).parent  # a python with ml_collections
    return subprocess.run(
      [str(LAUNCH / script), *map(str, args)],
      env=os.environ
      | {
        "FAKES": str(self.directory),
        "PATH": f"{self.bin}:{beside}:{os.environ['PATH']}",
        "TMPDIR": str(self.directory),
      }
      | environment,
      capture_output=True,
      text=True,
      timeout=60,
    )

  def calls(self, name):
    """The arguments of each call of `name`."""
    path = self.directory / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [json.loads(line) for line in lines]
    return [call[1:] for call in calls if call[0] == name]
