"""What travels between devices while a train step runs, read in its HLO."""

import math
import re

import pytest
from tiny import experiment

from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.training import train_step
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.ttt.parts import Parts

MOVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
LENGTH, CHUNK, WINDOW, DIM = 256, 8, 8, 16


def computations(program: str) -> dict[str, list[str]]:
  """The lines of each computation of an HLO."""
  found, lines = {}, []
  for line in program.splitlines():
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
    if head:
      lines = found[head[1]] = []
    lines.append(line)
  return found


def in_loops(program: str) -> list[str]:
  """The lines of all loop bodies and of what they call."""
  parts = computations(program)
  called = {
    name: re.findall(
      r"(?:body|condition|calls|to_apply|_computations?)=\{?%?([\w.\-]+)",
      "\n".join(lines),
    )
    for name, lines in parts.items()
  }
  queue = re.findall(r"body=%?([\w.\-]+)", program)
  seen = set()
  while queue:
    name = queue.pop()
    if name not in seen:
      seen.add(name)
      queue += called[name]
  return [line for name in seen for line in parts[name]]


def moved(lines: list[str], kinds=MOVES) -> list[int]:
  """Elements of what each collective makes."""
  sizes = []
  for line in lines:
    made = re.search(rf"= (.*?) ({'|'.join(kinds)})(?:-start)?\(", line)
    if made:
      shapes = re.findall(r"\[([\d,]*)\]", made[1])
      sizes += [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
  return sizes


def program(memory, shape, inner=True, **changes):
  """The compiled train step, for sequences of 256 tokens: 32 chunks."""
  settings = experiment(memory, batch_size=8, length=LENGTH, **changes)
  task = build.make_task(settings)
  graphdef, params = build.abstract_learner(settings, task.vocab_size)
  optimizer = make_optimizer(settings.outer, 10)
  mesh = meshes.make_mesh(*shape)
  state = train_step.abstract_state(params, optimizer, mesh)
  step = train_step.jit_train_step(graphdef, optimizer, settings, state, mesh)
  batch = sharding.abstract(
    build.abstract_batch(8, LENGTH), sharding.split_batch(mesh)
  )
  lowered = step.lower(state, batch, Parts(inner, memory != "none"))
  return lowered.compile().as_text()


@pytest.mark.parametrize("memory", ["none", "episodic"])
def test_no_sequence_travels_in_the_loop_over_chunks(memory):
  """With the tokens of a chunk split over 4 devices, what a loop step gathers
  is of a chunk and the window before it, whatever the length; of slots, only
  the best."""
  changes = {}
  if memory == "episodic":
    changes = dict(memory__shards=4, memory__top_k=2, memory__num_heads=2,
                   memory__head_dim=8, memory__capacity=4 * 48)  # fmt: skip
  found = program(memory, (2, 1, 1, 4), **changes)
  sequences = 8 // 2
  sizes = moved(in_loops(found))
  assert sizes  # keys and values do
  most = sequences * (WINDOW + CHUNK) * 2 * DIM
  assert most < sequences * LENGTH * DIM / 4  # a sequence is more by far
  assert max(sizes) <= most
  assert moved(in_loops(found), ["all-reduce"])  # gradients of the inner loop
  if memory == "episodic":  # a device has a quarter of the slots, ever
    assert "[4,2,48,8]" in found and not re.search(r"[\[,]192[\],]", found)


def test_of_an_index_what_travels_is_what_tokens_look_at():
  """Which slots, and their keys; of what grows with the slots, how full each
  cell is."""
  slots, cells, seen = 512, 16**2, 3 * 8
  found = program(
    "episodic", (2, 1, 1, 4), memory__search="landmarks", memory__top_k=2,
    memory__num_heads=2, memory__head_dim=8, memory__capacity=slots,
    memory__cell=8, memory__probes=3,
  )  # fmt: skip
  # A device has a quarter of each cell, and of the slots' places.
  assert f"[4,1,{cells},2]" in found and f"[4,1,{slots // 4}]" in found
  kinds = (*MOVES, "all-reduce")
  lines = in_loops(found)
  assert max(moved(lines, kinds)) == (8 // 2) * CHUNK * seen * DIM
  of_all = re.compile(rf"[\[,]({slots}|{cells})[\],]")
  big = [x for x in lines if moved([x], kinds) and of_all.search(x)]
  assert len(big) == 1 and f"s32[4,1,{cells}]" in big[0]


def test_fsdp_gathers_a_layer_at_a_time():
  """Of four prefix blocks no array is gathered whole."""
  found = program(
    "none", (1, 8), inner=False, model__num_layers=5, model__mlp_dim=64,
  )  # fmt: skip
  sizes = moved(found.splitlines(), ["all-gather"])
  assert max(sizes) == DIM * 64 and DIM * DIM in sizes
