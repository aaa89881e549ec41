"""Plans on CPU devices: the programs of training, and what is said of them."""

import types

import jax
import pytest
import tiny
from flax import nnx

from mattt_jax.commands import plan
from mattt_jax.devices import meshes, sharding
from mattt_jax.evaluation import reader
from mattt_jax.learners import build
from mattt_jax.learners.build import build_learner
from mattt_jax.planning import planner, topology
from mattt_jax.tasks import batches
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.training.train_step import init_state, jit_train_step
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.read_batch import start_states
from mattt_jax.ttt.tokens import tokens_of

CPUS = topology.parse("cpu:2")
ABOUT = dict(sequences=2, length=32, parts=ALL)
V5E = topology.parse("v5e:2x2")


@pytest.fixture(scope="module")
def experiment():
  """Inner loop off in half of the 14 steps."""
  return tiny.experiment(eval__lengths=(32, 64))


@pytest.fixture(scope="module")
def remembering():
  """With a memory that grows with the length."""
  return tiny.experiment("episodic", eval__segment=32)


@pytest.fixture(scope="module")
def steps(remembering):
  return planner.Steps(remembering, CPUS, None)


@pytest.fixture(scope="module")
def real(remembering):
  """Graphdef, parameters, and a state and a batch as the trainer has them."""
  task = build.make_task(remembering)
  graphdef, params = nnx.split(build_learner(remembering, task.vocab_size))
  optimizer = make_optimizer(remembering.outer, remembering.train.steps)
  mesh = meshes.make_mesh(2)
  state = init_state(params, optimizer, mesh)
  step = jit_train_step(graphdef, optimizer, remembering, state, mesh)
  return graphdef, state, step, mesh, task


def test_the_train_step_is_that_of_the_trainer(remembering, steps, real):
  _, state, step, mesh, task = real
  batch = sharding.put_batch(
    next(batches.train_batches(task, remembering)), mesh
  )
  wanted = step.lower(state, batch, ALL).as_text()
  assert steps.lower_train(2, 32, ALL).as_text() == wanted


@pytest.mark.parametrize("length, streamed", [(32, False), (64, True)])
def test_the_evaluation_step_is_that_of_the_reader(
  steps, real, length, streamed
):
  graphdef, state, _, mesh, task = real
  batch = next(batches.eval_batches(task, "tune", length, 2, 2))
  first = jax.tree.map(lambda x: x[:, :32], tokens_of(batch))
  placed = sharding.put_batch(first, mesh)
  if streamed:
    carried = start_states(graphdef, state.params, 2, length, mesh)
    wanted = reader._read_on.lower(
      graphdef, state.params, carried, placed, 1.0, mesh, ALL
    )
  else:
    wanted = reader._read.lower(graphdef, state.params, placed, 1.0, mesh, ALL)
  found = steps.lower_evaluation(length, ALL)
  assert found.as_text() == wanted.as_text()


def test_plan_on_cpu_devices(experiment):
  found = planner.plan(experiment, CPUS, usable_bytes=1e9)
  train, cost = found["train"], found["cost"]
  assert (train["sequences"], train["length"], train["inner"]) == (2, 32, True)
  assert train["fits"] and found["evaluation"]["fits"]
  assert found["evaluation"]["length"] == 64
  # Parameters and two moments lie on each device, of the batch its half: five
  # arrays of one sequence are read (and two counters).
  numbers = 3 * sum(cost["parameters"].values()) + 5 * 32
  assert train["argument_bytes"] == pytest.approx(4 * numbers, rel=0.02)
  run = found["run"]
  assert (run["steps"], run["tokens"]) == (14, 14 * 2 * 32)
  # The inner loop is on in 7 of 14 steps.
  assert 7 < run["model_flops"] / cost["model_flops"] < 14
  assert found["step"] is None and run["chip_hours"] is None
  text = plan.text(found)
  assert "fits" in text and "953.7 MiB usable" in text


def test_plan_on_the_mesh_of_the_experiment():
  """Parameters and moments are split over "fsdp": half of them a device."""
  sizes = []
  for fsdp in (1, 2):
    steps = planner.Steps(tiny.experiment(mesh__fsdp=fsdp), CPUS, None)
    program = steps.train(2, 32, Parts(inner=False, memory=False))
    sizes.append(program.argument_bytes - 4 * 5 * 32)
  assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
  with pytest.raises(ValueError, match="fsdp=4 .* the 2 devices"):
    planner.plan(tiny.experiment(mesh__fsdp=4), CPUS)


class _Lowered:
  """Compiles to something of the sizes `memory`, or fails."""

  def __init__(self, message="", **memory):
    self.message, self.memory = message, memory

  def compile(self, compiler_options):
    self.compiler_options = compiler_options
    if self.message:
      raise jax.errors.JaxRuntimeError(self.message)
    return self

  def memory_analysis(self):
    return types.SimpleNamespace(
      **{f"{k}_in_bytes": v for k, v in self.memory.items()}
    )


@pytest.mark.parametrize(
  "usable, fits", [(None, None), (25, True), (24, False)]
)
def test_memory_on_cpu(experiment, usable, fits):
  """10 come in, 8 go out, 3 of them in their place, 10 between."""
  steps = planner.Steps(experiment, CPUS, usable)
  lowered = _Lowered(
    argument_size=10, output_size=8, alias_size=3, temp_size=10, peak_memory=9
  )
  program = steps._compile(lowered, **ABOUT)
  assert (program.peak_bytes, program.fits) == (25, fits)


@pytest.mark.parametrize(
  "said, message",
  [
    (
      "Used 21.20G of 15.75G hbm",
      "XLA:TPU. Used 21.20G of 15.75G hbm. Exceeds",
    ),
    (
      "Out: (83.25G) exceeds (15.75G).",
      "Out: (83.25G) exceeds (15.75G).\nMore",
    ),
  ],
)
def test_a_compiler_that_runs_out_of_memory(steps, said, message):
  lowered = _Lowered(f"RESOURCE_EXHAUSTED: {message}")
  program = steps._compile(lowered, **ABOUT)
  assert program.fits is False and program.compiler == said


def test_other_failures_of_the_compiler_are_not_hidden(steps):
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    steps._compile(_Lowered("INTERNAL: a bug"), **ABOUT)


@pytest.mark.parametrize("quick", [False, True])
def test_quick_asks_the_compiler_for_its_least_effort(experiment, quick):
  lowered = _Lowered(
    argument_size=1, output_size=1, alias_size=1, temp_size=1, peak_memory=1
  )
  planner.Steps(experiment, CPUS, None, quick)._compile(lowered, **ABOUT)
  least = {"exec_time_optimization_effort": -1.0}
  assert lowered.compiler_options == (least if quick else {})


@pytest.mark.parametrize("start", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("limit", [0, 1, 2, 5, 6, 7, 31, 32])
def test_largest(start, limit):
  asked = []

  def fits(number):
    asked.append(number)
    return number <= limit

  assert planner.largest(fits, start, 32) == min(limit, 32)
  assert len(asked) == len(set(asked)) <= 12


@pytest.mark.parametrize(
  "search, largest", [("batch", 10), ("length", 5 * 32 - 8)]
)
def test_search(experiment, monkeypatch, search, largest):
  """What fits is 10 sequences of 32 tokens, or 2 of a chunk less than 160."""

  def train(self, sequences, length, parts):
    assert sequences % 2 == 0 and length % 8 == 0
    fits = sequences * length <= (320 if search == "batch" else 2 * 158)
    return planner.Program(sequences, length, *parts, fits=fits,
                           compile_seconds=0.0)  # fmt: skip

  monkeypatch.setattr(planner.Steps, "_train", train)
  monkeypatch.setattr(planner.Steps, "evaluation", lambda self: train(
    self, 2, 32, Parts(memory=False)))  # fmt: skip
  tried = []
  found = planner.plan(
    experiment, CPUS, search=search, usable_bytes=1.0, report=tried.append
  )
  assert found["search"] == {"of": search, "largest": largest}
  assert len(tried) > 3
  assert f"Largest {search} that fits: {largest}" in plan.text(found)


def test_times_by_hand():
  """Four chips of 197 TFLOP/s and 819 GB/s each."""
  program = planner.Program(4, 32, True, True, True, 1.0, int(1e9), int(638e6))
  bounds = planner._bounds(V5E, 4 * 197e12 / 1000, program)
  assert bounds["compute_seconds"] == pytest.approx(1e-3)
  assert bounds["memory_seconds"] == pytest.approx(2e-3)
  assert bounds["at_least_seconds"] == bounds["memory_seconds"]
  cost = planner.cost_model.StepCost(
    1000, {}, {}, 0.0, 4 * 197e12, 5 * 197e12, 0.0
  )
  run = planner._run(V5E, 0.5, [(cost, 1800)])  # 2 s a step
  assert run["tokens_per_second"] == pytest.approx(500)
  assert run["seconds"] == pytest.approx(3600)
  assert run["chip_hours"] == pytest.approx(4)


def test_settings_that_do_not_fit_the_machine(experiment):
  with pytest.raises(ValueError, match="batch_size=2 .* the 4 devices"):
    planner.plan(experiment, topology.parse("cpu:4"))
  with pytest.raises(ValueError, match="--search=batch.*--memory=GIB"):
    planner.plan(experiment, CPUS, search="batch")
