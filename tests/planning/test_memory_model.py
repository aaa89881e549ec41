"""The predicted memory: against exact counts, and against compiled programs."""

import functools
import json
import math
import pathlib

import jax
import pytest
import tiny

from benchmarks import memory_model as small
from benchmarks import plan as published
from mattt_jax import config, registry
from mattt_jax.commands import plan
from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.memory.base import tree_bytes
from mattt_jax.planning import memory_model, planner, topology
from mattt_jax.ttt.parts import ALL, Parts

RESULTS = pathlib.Path(__file__).parents[2] / "results" / "plan"


def rows(name):
  return [json.loads(line) for line in (RESULTS / name).open()]


def terms(experiment, devices=1):
  return memory_model.train_step_bytes(
    experiment,
    build.make_task(experiment).vocab_size,
    meshes.abstract_mesh(experiment.mesh, devices),
  )


def _state(experiment, streaming):
  vocab = build.make_task(experiment).vocab_size
  return build.build_learner(experiment, vocab).init_state(128, streaming)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_arguments_are_those_of_the_program(fsdp):
  """Of parameters that are split, each device has half."""
  made = tiny.experiment(
    mesh__fsdp=fsdp, coordination__inner_off_share=0.0, model__dim=32
  )
  steps = planner.Steps(made, topology.parse("cpu:2"), None)
  program = steps.train(2, 32, Parts(memory=False))
  found = terms(made, 2)["arguments"]
  # The program leaves out two arrays, [1, 32], that nothing reads.
  assert found == program.argument_bytes + (4 + 1) * 32


def test_counts_by_hand():
  """One block, vocabulary 25, four chunks of 8 tokens of one sequence."""
  made = tiny.experiment(inner__remat_levels=1)
  found = terms(made, devices=2)
  vocab = build.make_task(made).vocab_size
  norms = 6 * 16 + 2 * 8 + 16  # of three parts, of heads, of the end
  fast = 3 * 16 * 16
  slow = vocab * 16 + 4 * 16 * 16 + 3 * 16 * 16 + norms
  counters = 4 * 3  # steps: this state's and two of the optimiser
  batch = sum(
    math.prod(x.shape[1:]) * x.dtype.itemsize
    for x in build.abstract_batch(1, 32).values()
  )
  assert found["arguments"] == 3 * 4 * (slow + fast) + counters + batch
  cache = 2 * 4 * 8 * 16
  assert found["states"] == 4 * (4 * fast + cache + 4)
  assert found["gradients_kept"] == 4 * 4 * fast
  assert found["slow_gradients"] == 4 * slow
  assert found["gathered"] == found["accumulated"] == 0
  assert found["prefix"] == (0 + 2) * 32 * 16 * 4


def test_what_is_frozen():
  """No moments, no gradients, and of the prefix its output alone."""
  changes = dict(model__num_layers=2, batch_size=4, train__micro_batch=2)
  a, b = (
    terms(tiny.experiment(train__trainable=trainable, **changes))
    for trainable in (("*",), ("suffix/*",))
  )
  vocab = build.make_task(tiny.experiment()).vocab_size
  block = 4 * 16 * 16 + 3 * 16 * 16 + 4 * 16 + 2 * 8  # numbers
  frozen = 4 * (vocab * 16 + block + 16)  # embedding, prefix, last norm
  assert a["arguments"] - b["arguments"] == 2 * frozen
  assert a["accumulated"] - b["accumulated"] == frozen
  assert a["slow_gradients"] - b["slow_gradients"] == frozen - 4 * block
  assert a["prefix"] == 3 * b["prefix"] == 2 * 3 * 32 * 16 * 4
  assert a["working"] > b["working"]  # no gradient of the head's matrix
  same = a.keys() - {"arguments", "accumulated", "slow_gradients", "prefix",
                     "working", "on_chip"}  # fmt: skip
  assert {k: a[k] for k in same} == {k: b[k] for k in same}


@pytest.mark.parametrize("memory", registry.names(config.MEMORIES))
def test_levels_and_the_memory(memory):
  """16 chunks: 16 states, or 4 of segments and 4 of chunks; a memory is a part
  of each of them."""
  changes = dict(length=128, model__num_layers=2)
  one, two = (
    tiny.experiment(memory, inner__remat_levels=n, **changes) for n in (1, 2)
  )
  states = [
    tree_bytes(jax.eval_shape(functools.partial(_state, one, streaming)))
    for streaming in (False, True)
  ]
  of_one, of_two = terms(one, 2), terms(two, 2)
  assert of_one["states"] == 16 * states[0]
  assert of_two["states"] == 4 * states[0] + 4 * states[1]
  assert of_two["gradients_kept"] == of_one["gradients_kept"] / 4


def test_what_the_mesh_splits():
  changes = dict(model__num_layers=2, batch_size=4, task__num_fillers=9)
  whole = tiny.experiment(**changes)
  split = tiny.experiment(mesh__tensor=2, mesh__context=2, **changes)
  a, b = terms(whole), terms(split, 4)  # 4 sequences on one device; on four
  assert b["gradients_kept"] == a["gradients_kept"] / 2
  assert b["window"] == a["window"] / 2
  # Of each of four sequences: the gradient of the head's matrix, which "tensor"
  # splits, and twice the logits of a chunk, which "context" splits too.
  matrix = 4 * build.make_task(whole).vocab_size * 16
  logits = matrix / 16 * 8
  assert a["working"] == 4 * (matrix + 2 * logits)
  assert b["working"] == 4 * (matrix / 2 + 2 * logits / 4)
  assert b["prefix"] == a["prefix"] / 2
  c = terms(tiny.experiment(train__micro_batch=2, **changes))
  assert c["states"] == a["states"] / 2
  assert a["accumulated"] == 0 < c["accumulated"]


@pytest.mark.parametrize(
  "row", rows("plan.jsonl"), ids=lambda r: r["command"].partition("made,")[2]
)
def test_published_shapes(row):
  """Within 10 % of the compiler, if that does all it can, else within 20 %;
  what does not fit is not said to."""
  found = sum(published.predicted(row).values())
  peak = row["train"]["peak_bytes"]
  if peak is None:
    assert found > row["usable_bytes"]
  else:
    assert found == pytest.approx(peak, rel=0.2 if row["quick"] else 0.1)


def test_what_fits_with_the_least_effort_fits():
  """As `mattt plan --quick` says: with all of it, less is needed."""
  peaks = {
    (r["size"], r["length"], r["system"], r["topology"], r["quick"]): r["train"]
    for r in rows("plan.jsonl")
  }
  both = [key for key in peaks if not key[-1]]
  assert len(both) >= 3
  for *shape, _ in both:
    full, quick = (peaks[*shape, quick] for quick in (False, True))
    more = quick["peak_bytes"] / full["peak_bytes"]
    assert 1 < more < 1.16


@pytest.mark.parametrize("row", rows("small.jsonl"), ids=lambda r: r["name"])
def test_small_shapes(row):
  found = sum(small.predicted(row["name"]).values())
  # On this one the terms were not chosen: with the least effort the compiler
  # needs 2.81 GiB, as is said, with all of it 2.41.
  known = row["name"] == "wide fast weights"
  assert found == pytest.approx(row["peak_bytes"], rel=0.2 if known else 0.1)


def test_what_it_does_not_cover():
  """No figure is better than one of another program."""
  for changes in (
    dict(inner__second_order=False),
    dict(inner__remat_levels=0),
    dict(inner__differentiation="reverse"),
  ):
    assert not memory_model.covers(tiny.experiment(**changes))
  made = tiny.experiment()
  assert memory_model.covers(made)
  steps = planner.Steps(made, topology.parse("cpu:2"), None)
  assert steps.predicted(2, 32, ALL) is None
  steps.on_cpu = False
  assert steps.predicted(2, 32, Parts(inner=False)) is None
  assert steps.predicted(3, 32, ALL) is None  # on two devices
  assert steps.predicted(2, 32, ALL) == terms(made, 2)


def test_it_is_said_with_the_plan():
  made = tiny.experiment(eval__lengths=(32,))
  found = planner.plan(made, topology.parse("cpu:2"))
  assert "Predicted" not in plan.text(found)
  found["predicted"] = {
    "states": 3 * 2**20,
    "batch": 2**20,
    "on_chip": -(2**20),
  }
  text = plan.text(found)
  assert "Predicted peak of train: 3 MiB (states 3 MiB, batch 1 MiB" in text
