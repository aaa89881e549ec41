"""Every run that an experiment lists, placed on the machine that it is for."""

import importlib
import pathlib

import jax
import pytest
import tiny

from mattt_jax import registry
from mattt_jax.data import tokenizer
from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.planning import planner, topology
from mattt_jax.training import placement, trainer
from mattt_jax.ttt.parts import Parts

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
EXPERIMENTS = sorted(registry.experiments())


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
  """`plan_experiments`, which lists all runs, where there are books."""
  folder = tmp_path_factory.mktemp("here")
  text = "It is a truth universally acknowledged. " * 200
  (folder / "data/books").mkdir(parents=True)
  for number in range(8):
    (folder / f"data/books/{number}.txt").write_text(f"{number} {text}")
  content = tokenizer.train([text], 260).content
  (folder / "data/books.json").write_bytes(content)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("plan_experiments")


@pytest.fixture(scope="module")
def listed(benchmark):
  return list(benchmark.listed())


def evaluation_bytes(placed) -> int:
  """Bytes on a device: parameters and the largest state of evaluation."""
  states = map(placement.device_bytes, placed.reading.values())
  return placement.device_bytes(placed.train.params) + max(states, default=0)


def test_every_experiment_is_listed(benchmark):
  names = {text.partition(":")[0] for text, _ in benchmark.texts()}
  assert names == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_has_its_place_on_its_machine(benchmark, listed, name):
  """Each mesh axis divides what it splits, at every length, and what must be
  there at once has room: parameters, moments and gradients; parameters and the
  states of a batch of evaluation. (Whether the whole program fits is what its
  compiler says: results/plan.)"""
  for text, machine, experiment in listed:
    if text.partition(":")[0] != name:
      continue
    topo = topology.parse(machine)
    mesh = meshes.abstract_mesh(experiment.mesh, topo.num_devices)
    assert mesh.size == topo.num_devices, text
    task = build.make_task(experiment)
    placed = placement.place(experiment, task.vocab_size, mesh)
    gib = topo.chip.usable_gib if topo.chip else benchmark.CPU_GIB
    room = 0.9 * gib * 2**30
    gradients = placement.device_bytes(placed.train.params)
    assert placement.device_bytes(placed.train) + gradients < room, text
    assert evaluation_bytes(placed) < room, text


@pytest.mark.parametrize("trainable", ["*", "pointer/*"])
def test_bytes_are_those_of_the_compiled_programs(trainable):
  made = tiny.experiment(
    "episodic", mesh__fsdp=2, eval__segment=16, train__trainable=(trainable,)
  )
  steps = planner.Steps(made, topology.parse("cpu:2"), None)
  mesh = meshes.abstract_mesh(made.mesh, 2)
  placed = placement.place(made, steps.task.vocab_size, mesh)
  train = steps.train(2, 32, Parts(inner=False, memory=False))
  # More than that is what is read of one sequence: five arrays at most of 32
  # tokens to train, four of 16 to evaluate.
  more = train.argument_bytes - placement.device_bytes(placed.train)
  assert 0 < more <= 4 * 5 * 32
  # Evaluation has no use for W_0, which lies there all the same.
  w_0 = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(placed.train.params)
    if "fast_mlp/w" in sharding.path_name(path)
  ]
  more = steps.evaluation().argument_bytes - evaluation_bytes(placed)
  assert 0 < more + placement.device_bytes(w_0) <= 4 * 4 * 16


SLOTS = dict(memory__write_top=1, memory__top_k=2, mesh__context=4)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({**SLOTS, "memory__capacity": 10},
     "memory/key_HxMxK .* 4 devices .* 'context' must divide 10"),
    ({"mesh__tensor": 2, "task__num_fillers": 8},
     "embedding .* 2 devices .* 'tensor' must divide 27"),
    ({"batch_size": 12}, "^batch_size=12 .* the 8 devices"),
  ],
)  # fmt: skip
def test_what_a_mesh_does_not_divide_is_said_first(
  tmp_path, monkeypatch, changes, message
):
  monkeypatch.setattr(trainer, "build_learner", None)  # nothing is computed
  made = tiny.experiment(
    "episodic", **{"batch_size": 8, "eval__batch_size": 8, **changes}
  )
  with pytest.raises(ValueError, match=message):
    trainer.train(made, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_what_it_divides_has_a_place():
  made = tiny.experiment(
    "episodic", batch_size=8, **{**SLOTS, "memory__capacity": 8}
  )
  mesh = meshes.abstract_mesh(made.mesh, 8)
  assert mesh.shape == meshes.mesh_of(made.mesh).shape
  placed = placement.place(made, 30, mesh)
  token_M = placed.reading[32].memory.token_M
  assert token_M.sharding.shard_shape((2, 8)) == (1, 2)
