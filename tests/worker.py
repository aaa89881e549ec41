"""One process of a run, for tests that kill processes: `start`, `run`.

What it is to do is one JSON argument:

  workdir, changes: of `tiny.experiment`.
  pause: seconds before each batch.
  at, signal: sends itself this signal before batch `at`.
  after: once the checkpoint of that step is there.
  process: only this one of several does so.
  file_bytes: no file may grow beyond this.
  clock: seconds by which the clock jumps, before each of three batches.
  distributed: whether there are several.
"""

import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).parent


def start(
  workdir, *, devices: int = 1, environment=None, program=__file__, **spec
):
  """Starts a process (of another `program`, if it is one, with the same
  argument); its output is text, both streams in one."""
  paths = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
  flags = os.environ["XLA_FLAGS"]
  flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", flags)
  return subprocess.Popen(
    [
      sys.executable,
      str(program),
      json.dumps({"workdir": str(workdir), **spec}),
    ],
    env=os.environ
    | {"PYTHONPATH": paths, "XLA_FLAGS": flags}
    | (environment or {}),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def run(workdir, **spec) -> tuple[int, str]:
  """Starts a process and waits for it; returns exit code and output."""
  process = start(workdir, **spec)
  out, _ = process.communicate(timeout=300)
  return process.returncode, out


def run_together(workdir, number: int, devices: int, **spec) -> list:
  """`run` of several processes with so many devices each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  started = [
    start(
      workdir,
      devices=devices,
      environment={
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(number),
        "JAX_PROCESS_ID": str(index),
      },
      distributed=True,
      **spec,
    )
    for index in range(number)
  ]
  outs = [process.communicate(timeout=300)[0] for process in started]
  codes = [process.returncode for process in started]
  return list(zip(codes, outs, strict=True))


def _main(spec: dict) -> int:
  from tiny import experiment

  from mattt_jax.devices import processes
  from mattt_jax.tasks import batches
  from mattt_jax.training import preemption, trainer
  from mattt_jax.training.preemption import EXIT_CODE

  if spec.get("distributed"):
    processes.join()
  if spec.get("file_bytes"):
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = spec["file_bytes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  spec.setdefault("after", 0)
  make = batches.train_batches
  clock = time.time
  jumps = dict(zip((3, 6, 9), spec.get("clock", ()), strict=False))

  class Batches:
    def __init__(self, *args, **settings):
      self.made = make(*args, **settings)
      self.count = itertools.count(1)

    def __next__(self):
      import jax

      time.sleep(spec.get("pause", 0))
      number = next(self.count)
      if number in jumps:
        time.time = lambda: clock() + jumps[number]
      index = spec.get("process", jax.process_index())
      if number == spec.get("at") and index == jax.process_index():
        saved = pathlib.Path(spec["workdir"], "checkpoints", str(spec["after"]))
        while spec["after"] and not saved.exists():
          time.sleep(0.01)
        os.kill(os.getpid(), spec["signal"])
      return next(self.made)

    def __getattr__(self, name):
      return getattr(self.made, name)

  batches.train_batches = Batches
  try:
    trainer.train(experiment(**spec.get("changes", {})), spec["workdir"])
  except preemption.PreemptedError as notice:
    print(notice)
    return EXIT_CODE
  return 0


if __name__ == "__main__":
  sys.exit(_main(json.loads(sys.argv[1])))
