"""Needs of a run on a machine that one does not have.

The steps of training and evaluation are compiled as training would, with its
mesh and its placement, but for a described machine and for shapes instead of
arrays. Their compiler says whether they fit.
"""

import collections
import dataclasses
import functools
import re
import time
from collections.abc import Callable
from typing import Any

import jax

from mattt_jax.config import Experiment, require
from mattt_jax.devices import meshes, sharding
from mattt_jax.evaluation.reader import Reader
from mattt_jax.learners import build
from mattt_jax.planning import cost_model, memory_model, topology
from mattt_jax.planning.topology import GIB, Topology
from mattt_jax.tasks import batches
from mattt_jax.training.train_step import abstract_training, jit_train_step
from mattt_jax.ttt.coordination import parts_on
from mattt_jax.ttt.parts import Parts, eval_parts
from mattt_jax.ttt.tokens import tokens_of

_MOST = 2**16  # batches of one a device, or chunks, that a search tries
# Programs that run slower but are made several times sooner (`quick`).
_QUICK = {"exec_time_optimization_effort": -1.0}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program, of one device. Bytes are the compiler's; None where it
  gave up, needing more than the usable bytes."""

  sequences: int  # on all devices
  length: int  # tokens
  inner: bool
  memory: bool
  fits: bool | None  # None: nobody knows how much memory there is
  compile_seconds: float
  argument_bytes: int | None = None
  output_bytes: int | None = None
  temporary_bytes: int | None = None
  peak_bytes: int | None = None
  compiler: str = ""  # what it said when it gave up


def plan(
  experiment: Experiment,
  machine: Topology,
  *,
  mfu: float = 0.3,
  search: str | None = None,
  usable_bytes: float | None = None,
  quick: bool = False,
  report: Callable[[Program], object] = lambda program: None,
) -> dict[str, Any]:
  """Compiles an experiment's steps for `machine`, and counts what they cost.

  Args:
    experiment: as it would be trained; the dearest of its kinds of steps
      (lengths, parts switched off) is compiled.
    machine: to compile for.
    mfu: share of the peak FLOP/s that the estimates of time assume.
    search: "batch" or "length": also finds the largest that fits.
    usable_bytes: memory of a device; default: what the compiler allows.
    quick: compiles with the compiler's least effort, several times sooner, for
      2 to 15 % more memory (results/plan/plan.md): what fits so fits, what
      does not may still.
    report: gets each compiled train step of a search.

  Returns:
    JSON-ready: `train` and `evaluation` (a `Program` each), `predicted` (bytes
    by term of `memory_model.train_step_bytes`, or None), `cost` (a `StepCost`
    of the dearest step), `step` (bounds in seconds), `run` (estimates, None
    without known peaks), `search` and `quick`.

  Raises:
    ValueError: settings that do not fit the machine.
  """
  steps = Steps(experiment, machine, usable_bytes, quick)
  require(
    search is None or steps.usable_bytes is not None,
    f"--search={search}: the memory of {machine.name} is not known: say it "
    "with --memory=GIB",
  )
  mesh = steps.mesh
  if search != "batch":
    sharding.check_batch("batch_size", experiment.batch_size, mesh)
  sharding.check_batch("train.micro_batch", experiment.train.micro_batch, mesh)
  sharding.check_batch("eval.batch_size", experiment.eval.batch_size, mesh)
  kinds = collections.Counter(
    (parts_on(experiment, step),
     batches.train_length(steps.task, experiment, step))
    for step in range(experiment.train.steps)
  )  # fmt: skip
  vocab = steps.task.vocab_size
  costs = {
    kind: cost_model.step_cost(experiment, vocab, kind[0], length=kind[1])
    for kind in kinds
  }
  dearest = max(costs, key=lambda kind: costs[kind].hardware_flops)
  parts, length = dearest
  size = experiment.batch_size
  searched = None
  if search is not None:
    by_batch = search == "batch"
    unit = steps.sharing if by_batch else experiment.chunk

    def fits(number: int) -> bool:
      tried = (number * unit, length) if by_batch else (size, number * unit)
      program = steps.train(*tried, parts)
      report(program)
      return bool(program.fits)

    start = max(1, (size if by_batch else length) // unit)
    searched = {"of": search, "largest": unit * largest(fits, start, _MOST)}
  train = None if size % steps.sharing else steps.train(size, length, parts)
  return {
    "topology": machine.name,
    "chips": machine.num_chips,
    "devices": machine.num_devices,
    "usable_bytes": steps.usable_bytes,
    "train": train and dataclasses.asdict(train),
    "evaluation": dataclasses.asdict(steps.evaluation()),
    "predicted": steps.predicted(size, length, parts),
    "cost": dataclasses.asdict(costs[dearest]),
    "step": _bounds(machine, costs[dearest].hardware_flops, train),
    "run": _run(machine, mfu, [(costs[kind], n) for kind, n in kinds.items()]),
    "search": searched,
    "quick": quick,
  }


def largest(fits: Callable[[int], bool], start: int, most: int) -> int:
  """Largest of 1 .. `most` that `fits`, if all smaller ones do; 0: none.
  Doubles or halves from `start`, then bisects."""
  low, high = 0, start  # low fits, high is tried
  while high <= most and fits(high):
    low, high = high, 2 * high
  high = min(high, most + 1)
  while low == 0 and high > 1:
    half = high // 2
    low, high = (half, high) if fits(half) else (0, half)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low


class Steps:
  """Programs of an experiment on a machine."""

  def __init__(
    self,
    experiment: Experiment,
    machine: Topology,
    usable_bytes: float | None,
    quick: bool = False,
  ):
    self.experiment = experiment
    self.task = build.make_task(experiment)
    self.mesh = meshes.mesh_of(experiment.mesh, topology.devices(machine))
    self.sharing = sharding.batch_devices(self.mesh)
    self.on_cpu = machine.chip is None
    if usable_bytes is None and machine.chip is not None:
      usable_bytes = machine.chip.usable_gib * GIB
    self.usable_bytes = usable_bytes
    self.graphdef, self.optimizer, self.state = abstract_training(
      experiment, self.task.vocab_size, self.mesh
    )
    self.train = functools.cache(self._train)
    self.compiler_options = _QUICK if quick else {}

  def _train(self, sequences: int, length: int, parts: Parts) -> Program:
    lowered = self.lower_train(sequences, length, parts)
    return self._compile(lowered, sequences, length, parts)

  def lower_train(
    self, sequences: int, length: int, parts: Parts
  ) -> jax.stages.Lowered:
    """Lowers the train step, as the trainer makes it."""
    step = jit_train_step(
      self.graphdef, self.optimizer, self.experiment, self.state, self.mesh
    )
    batch = sharding.abstract(
      build.abstract_batch(sequences, length), sharding.split_batch(self.mesh)
    )
    return step.lower(self.state, batch, parts)

  def predicted(
    self, sequences: int, length: int, parts: Parts
  ) -> dict[str, int] | None:
    """Bytes of a train step without compiling it; None for steps and machines
    that the memory model does not cover."""
    made = self.experiment
    covered = parts.inner and memory_model.covers(made)
    if self.on_cpu or not covered or sequences % self.sharing:
      return None
    return memory_model.train_step_bytes(
      made, self.task.vocab_size, self.mesh, sequences=sequences, length=length
    )

  def evaluation(self) -> Program:
    """Compiles the step of evaluation, of the longest sequences."""
    config = self.experiment.eval
    length = max(config.lengths or (self.experiment.length,))
    parts = eval_parts(self.experiment)
    lowered = self.lower_evaluation(length, parts)
    return self._compile(lowered, config.batch_size, length, parts)

  def lower_evaluation(self, length: int, parts: Parts) -> jax.stages.Lowered:
    """Lowers what reads sequences of `length` tokens, or a segment of them."""
    learner = self.graphdef, self.state.params
    batch = build.abstract_batch(self.experiment.eval.batch_size, length)
    reader = Reader(learner, self.experiment, self.mesh, parts)
    return reader.lower(tokens_of(batch))

  def _compile(
    self, lowered, sequences: int, length: int, parts: Parts
  ) -> Program:
    about = dict(sequences=sequences, length=length, **parts._asdict())
    start = time.perf_counter()
    try:
      compiled = lowered.compile(compiler_options=self.compiler_options)
    except jax.errors.JaxRuntimeError as error:
      text, seconds = str(error), time.perf_counter() - start
      if "RESOURCE_EXHAUSTED" not in text:
        raise
      return Program(
        **about, fits=False, compile_seconds=seconds, compiler=shortage(text)
      )
    seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    peak, usable = memory.peak_memory_in_bytes, self.usable_bytes
    if self.on_cpu:  # that backend's peak leaves temporaries out
      peak = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes + memory.temp_size_in_bytes
      )  # fmt: skip
    return Program(
      **about,
      fits=None if usable is None else peak <= usable,
      compile_seconds=seconds,
      argument_bytes=memory.argument_size_in_bytes,
      output_bytes=memory.output_size_in_bytes,
      temporary_bytes=memory.temp_size_in_bytes,
      peak_bytes=peak,
    )


def shortage(message: str) -> str:
  """Finds the sentence of a compiler's message on how much was needed."""
  match = re.search(r"Used \S+ of \S+ hbm[^.]*", message)
  first = message.splitlines()[0]
  return match[0] if match else first.removeprefix("RESOURCE_EXHAUSTED: ")


def _bounds(
  machine: Topology, flops: float, train: Program | None
) -> dict[str, float] | None:
  """Least seconds of the step: all matrix products at the peak of the chips, or
  all arguments read and all results written once."""
  if machine.chip is None:
    return None
  bounds = {"compute_seconds": flops / (machine.num_chips * machine.chip.flops)}
  if train is not None and train.argument_bytes and train.output_bytes:
    moved = train.argument_bytes + train.output_bytes
    bandwidth = machine.chip.bandwidth / machine.chip.devices
    bounds["memory_seconds"] = moved / bandwidth
  return bounds | {"at_least_seconds": max(bounds.values())}


def _run(
  machine: Topology, mfu: float, steps: list[tuple[cost_model.StepCost, int]]
) -> dict[str, float | None]:
  flops = sum(cost.model_flops * number for cost, number in steps)
  tokens = sum(cost.tokens * number for cost, number in steps)
  seconds = None
  if machine.chip is not None:
    seconds = flops / (mfu * machine.num_chips * machine.chip.flops)
  return {
    "steps": sum(number for _, number in steps),
    "tokens": tokens,
    "model_flops": flops,
    "mfu": mfu,
    "tokens_per_second": seconds and tokens / seconds,
    "seconds": seconds,
    "chip_hours": seconds and machine.num_chips * seconds / 3600,
  }
