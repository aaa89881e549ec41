"""Placement by path, and the sizes that a mesh accepts."""

import functools
import math
import pathlib
import re
import types

import jax
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec as P

from mattt_jax import config
from mattt_jax.devices import meshes, sharding
from mattt_jax.learners import build
from mattt_jax.training import train_step
from mattt_jax.training.optimizer import make_optimizer
from mattt_jax.ttt import read_batch


def test_rules_place_by_path_and_the_first_one_wins():
  mesh = meshes.make_mesh(2, 2, 2)
  rules = [(r"suffix/w$", ("fsdp", "tensor")), ("w|b", ("context", None))]
  tree = {
    "suffix": {"w": np.zeros((3, 8, 2))},  # stacked
    "w": np.zeros((4, 4)),
    "b": np.zeros(4),
    "head": np.zeros((8, 2)),
  }
  placed = sharding.shardings(mesh, tree, rules)
  assert placed["suffix"]["w"].spec == P(None, "fsdp", "tensor")
  # An axis of one device is none, and what has fewer axes has the last ones.
  assert placed["w"].spec == P(None, None)
  assert placed["b"].spec == P(None)
  assert placed["head"].spec == P()
  array = jax.device_put(tree["suffix"]["w"], placed["suffix"]["w"])
  assert {s.data.shape for s in array.addressable_shards} == {(3, 4, 1)}


def test_what_is_large_and_has_no_rule_is_split_along_its_longest_axis():
  mesh = meshes.make_mesh(1, 8)
  sizes = {"a": (512, 4096), "odd": (1001, 520), "prime": (521, 523),
           "small": (8, 64)}  # fmt: skip
  tree = {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in sizes.items()}
  placed = sharding.shardings(mesh, tree)
  assert {k: x.spec for k, x in placed.items()} == {
    "a": P(None, "fsdp"), "odd": P(None, "fsdp"), "prime": P(), "small": P()
  }  # fmt: skip


def test_an_axis_that_does_not_fit_is_named():
  with pytest.raises(ValueError) as error:
    sharding.shardings(
      meshes.make_mesh(1, 1, 8), {"model": {"embedding": np.zeros((12, 4))}}
    )
  text = str(error.value)
  for part in (
    "model/embedding of shape (12, 4)", "8 devices", "'tensor'", "divide 12",
    "embedding$", "change mesh.tensor",
  ):  # fmt: skip
    assert part in text, part


SYSTEMS = [
  *((name, read, {}) for name, read in small.SYSTEMS),
  ("none", None, dict(model__suffix_mixer="gated_delta")),
  ("none", None, dict(model__tie_embeddings=False)),
]


@pytest.mark.parametrize("memory, read, changes", SYSTEMS)
def test_nearly_all_parameters_are_split(memory, read, changes):
  """And their moments: 8 devices hold about an eighth each, or, of a mesh that
  splits heads too, what two axes leave."""
  made = small.experiment(
    memory, read, model__dim=256, model__mlp_dim=512, model__fast_mlp_dim=512,
    **changes,
  )  # fmt: skip
  params = build.abstract_learner(made, 512)[1]
  optimizer = make_optimizer(made.outer, 10)
  for shape in ((1, 8), (1, 4, 2)):
    mesh = meshes.make_mesh(*shape)
    state = train_step.abstract_state(params, optimizer, mesh)
    whole = part = 0
    for x in jax.tree.leaves(state):
      whole += x.size
      part += math.prod(x.sharding.shard_shape(x.shape))
    assert whole > 10**6
    assert part < 1.15 * whole / 8


def test_fast_weights_and_slots_are_placed_by_sequence():
  """[B, ...]: sequences over data and fsdp, the rest by the state's rules."""
  mesh = meshes.make_mesh(1, 2, 2, 2)
  made = small.experiment("episodic", inner__optimizer="momentum")
  graphdef, params = build.abstract_learner(made, 40)
  states = jax.eval_shape(read_batch._starter(graphdef, 4, 16), params)
  placed = sharding.split_states(mesh, states)
  both = ("data", "fsdp")
  found = {
    jax.tree_util.keystr(path, simple=True, separator="/"): x.spec
    for path, x in jax.tree_util.tree_leaves_with_path(placed)
  }
  for name, spec in (
    ("fast/suffix/fast_mlp/w1/value", P(both, None, None, "tensor")),
    ("fast/suffix/fast_mlp/w2/value", P(both, None, "tensor", None)),
    ("inner_opt/2/trace/suffix/fast_mlp/w2/value",
     P(both, None, "tensor", None)),
    ("memory/key_HxMxK", P(both, "tensor", "context", None)),
    ("memory/token_M", P(both, "context")),
    ("memory/written", P(both)),
    ("cache/suffix/k_HxPxK", P(both, None, "tensor", None, None)),
    ("position", P(both)),
  ):  # fmt: skip
    assert found[name] == spec, name


@pytest.mark.parametrize("memory, read", small.SYSTEMS)
def test_every_rule_of_a_state_has_something_to_say(memory, read):
  """A field that is renamed must not lose its rule in silence: all state that
  grows with heads or with the context is split."""
  made = small.experiment(memory, read, coordination__replay=1)
  graphdef, params = build.abstract_learner(made, 40)
  states = jax.eval_shape(read_batch._starter(graphdef, 1, 16), params)
  placed = sharding.split_states(meshes.make_mesh(1, 1, 2, 2), states)
  whole = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree_util.tree_leaves_with_path(placed)
    if not {"tensor", "context"} & set(x.spec)
  }
  left = {"position", "written", "key_NxD", "query_D", "embedding_NxE",
          "token_NxT", "valid_NxT", "slot_MxP", "usage_M", "count"}  # fmt: skip
  assert {name.split("/")[-1] for name in whole} <= left


# Rows of the table of docs/meshes.md, and of each some arrays: the system that
# has it, its name, and what its axes are, in the words of the row.
_INDEX = dict(memory__search="landmarks", memory__cell=4, memory__top_k=2)
_UNTIED = dict(model__suffix_mixer="gated_delta", model__tie_embeddings=False,
               inner__optimizer="momentum")  # fmt: skip
_S = "sequences"
ROWS = {
  "batch": [((), "batch", (_S,))],
  "embedding, head": [
    (("none", None, _UNTIED), "model/embedding", ("vocabulary", "width")),
    (("none", None, _UNTIED), "model/head", ("width", "vocabulary")),
  ],
  "attention, gated delta net, memory projections": [
    (("none", None, _UNTIED), f"model/{block}/attention/{name}", axes)
    for block in ("prefix", "suffix")
    for name, axes in (
      ("wq", (None, "width", "heads")),
      ("wk", (None, "width", "heads")),
      ("wv", (None, "width", "heads")),
      ("wo", (None, "heads", "width")),
    )
  ]
  + [
    (("none", None, _UNTIED), "model/suffix/attention/wg",
     (None, "width", "heads")),
    (("episodic", "pointer", {}), "model/pointer/wk", ("width", "heads")),
  ]
  + [
    ((memory, "residual", {}), f"model/suffix/memory/{name}", axes)
    for memory in ("episodic", "associative", "neural", "slots", "chunk_store")
    for name, axes in (
      ("wq", (None, "width", "heads")),
      ("wk", (None, "width", "heads")),
      ("wv", (None, "width", "heads")),
      ("wo", (None, "heads", "width")),
    )
  ],
  "MLPs (static, fast W_0)": [
    (("none", None, {}), f"model/{mlp}/{name}", axes)
    for mlp in ("prefix/mlp", "suffix/mlp", "suffix/fast_mlp")
    for name, axes in (
      ("w1", (None, "width", "hidden")),
      ("w3", (None, "width", "hidden")),
      ("w2", (None, "hidden", "width")),
    )
  ],
  "fast weights W_i and inner optimiser": [
    (("none", None, _UNTIED), f"{tree}/suffix/fast_mlp/{name}/value", axes)
    for tree in ("fast", "inner_opt/2/trace")
    for name, axes in (
      ("w1", (_S, None, None, "hidden")),
      ("w2", (_S, None, "hidden", None)),
    )
  ],
  "KV cache, matrices of linear attention": [
    (("none", None, {}), "cache/suffix/k_HxPxK", (_S, None, "heads", None,
                                                  None)),
    (("none", None, {}), "cache/prefix/v_HxPxK", (_S, None, "heads", None,
                                                  None)),
    (("none", None, _UNTIED), "cache/suffix/matrix_HxKxK",
     (_S, None, "heads", None, None)),
  ],
  "`episodic`: slots": [
    (("episodic", "pointer", {}), "memory/key_HxMxK",
     (_S, "heads", "slots", None)),
    (("episodic", "pointer", {}), "memory/token_M", (_S, "slots")),
    (("episodic", "residual", {}), "memory/value_HxMxK",
     (_S, None, "heads", "slots", None)),
    (("episodic", "residual", {}), "memory/valid_M",
     (_S, None, "slots")),
  ],
  "`episodic`: index of landmarks": [
    (("episodic", "pointer", _INDEX), "memory/index/slot_NxS",
     (_S, None, None, "places")),
    (("episodic", "pointer", _INDEX), "memory/index/place_M",
     (_S, None, "slots")),
    (("episodic", "pointer", _INDEX), "memory/index/load_N", (_S,)),
    (("episodic", "residual", _INDEX), "memory/index/slot_NxS",
     (_S, None, "heads", None, "places")),
    (("episodic", "residual", _INDEX), "memory/index/place_M",
     (_S, None, "heads", "slots")),
    (("episodic", "residual", _INDEX), "memory/index/keys",
     (_S, None, "heads")),
    (("episodic", "residual", _INDEX), "memory/index/load_N",
     (_S, None, "heads", None)),
    (("episodic", "residual", _INDEX), "memory/index/sum_2xnxE",
     (_S, None, "heads", None, None, None)),
  ],
  "`associative`, `neural`: state": [
    (("associative", "residual", {}), "memory/matrix_HxFxE",
     (_S, None, "heads", None, None)),
    (("neural", "residual", {}), "memory/momentum/1",
     (_S, None, "heads", None, None)),
  ],
  "`chunk_store`": [
    (("chunk_store", "residual", {}), "memory/key_NxTxHxK",
     (_S, None, None, None, "heads", None)),
  ],
  "`slots`": [(("slots", "residual", {}), "memory/slot_MxP", (_S,))],
  "replay": [
    (("none", None, dict(coordination__replay=1)), "replay/x_NxCxD",
     (_S, None, "tokens", None)),
    (("none", None, dict(coordination__replay=1)), "replay/target_NxC",
     (_S, None, "tokens")),
  ],
}  # fmt: skip
# What these say is tested above, and in training/test_collectives.py.
OTHER_ROWS = {"activations", "optimiser state",
              "other large parameters (adapters of `perk`)"}  # fmt: skip


def documented() -> dict[str, dict[str, str]]:
  """What docs/meshes.md says that each mesh axis splits of each row."""
  text = (pathlib.Path(__file__).parents[2] / "docs/meshes.md").read_text()
  lines = [x.strip("|").split("|") for x in text.splitlines() if x[:1] == "|"]
  (_, *axes), _, *rows = [[cell.strip(" `") for cell in x] for x in lines]
  assert tuple(axes) == meshes.AXES
  labels = [x[0].strip() for x in lines[2:]]
  return {
    label: dict(zip(axes, cells[1:], strict=True))
    for label, cells in zip(labels, rows, strict=True)
  }


@functools.cache
def placed_arrays(memory=None, read=None, changes=()) -> dict[str, P]:
  """Of all parameters, and of a batch of states; on no devices."""
  mesh = meshes.abstract_mesh(config.MeshConfig(2, 2, 2, 2), 16)
  if memory is None:
    return {"batch": sharding.split_batch(mesh).spec}
  made = small.experiment(memory, read, **dict(changes))
  graphdef, params = build.abstract_learner(made, 40)
  states = jax.eval_shape(read_batch._starter(graphdef, 4, 16), params)
  found = {}
  for path, x in jax.tree_util.tree_leaves_with_path(
    sharding.split_states(mesh, states)
  ):
    found[jax.tree_util.keystr(path, simple=True, separator="/")] = x.spec
  for path, x in jax.tree_util.tree_leaves_with_path(
    sharding.shardings(mesh, params)
  ):
    found[sharding.path_name(path)] = x.spec
  return found


def test_the_documented_table_has_these_rows():
  assert set(documented()) == set(ROWS) | OTHER_ROWS


@pytest.mark.parametrize("label", ROWS)
def test_the_documented_table_is_true(label):
  cells = documented()[label]
  words = {axis: set(re.findall(r"\w+", cell)) for axis, cell in cells.items()}
  said = set()
  for system, name, axes in ROWS[label]:
    system = (*system[:2], *(tuple(x.items()) for x in system[2:]))
    by = [tuple(a for a in words if word in words[a]) for word in axes]
    wanted = [x[0] if len(x) == 1 else x or None for x in by]
    assert placed_arrays(*system)[name] == P(*wanted), name
    said |= {axis for x in by for axis in x}
  assert said == {axis for axis, cell in cells.items() if cell}


@pytest.mark.parametrize("shape", [(8,), (4, 2), (1, 8)])
def test_batch_is_split_over_sequences(shape):
  mesh = meshes.make_mesh(*shape)
  tokens = np.arange(32, dtype=np.int32).reshape(16, 2)
  batch = {"tokens": tokens, "relevant": tokens[:, 0] > 3}
  out = sharding.put_batch(batch, mesh)
  assert out.keys() == batch.keys()
  for key, rows in (("tokens", (2, 2)), ("relevant", (2,))):
    assert {s.data.shape for s in out[key].addressable_shards} == {rows}
    assert out[key].dtype == batch[key].dtype
    np.testing.assert_array_equal(out[key], batch[key])


def test_batch_size_must_be_divisible_by_the_devices():
  mesh = meshes.make_mesh(8)
  sharding.check_batch("batch_size", 16, mesh)
  with pytest.raises(ValueError, match="eval.batch_size=12 .* multiple of 8"):
    sharding.check_batch("eval.batch_size", 12, mesh)


@pytest.mark.parametrize("data", [0, 9])
def test_mesh_of_devices_that_are_not_here(data):
  with pytest.raises(ValueError, match=f"data={data} .* use 1 .. 8"):
    meshes.make_mesh(data)


def test_mesh_of_the_settings():
  for given, shape in (
    (dict(), (8, 1, 1, 1)),
    (dict(fsdp=2, context=2), (2, 2, 1, 2)),
    (dict(data=1, tensor=4), (1, 1, 4, 1)),  # fewer than there are
  ):
    mesh = meshes.mesh_of(config.MeshConfig(**given))
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor", "context")
  with pytest.raises(ValueError, match="fsdp=3 .* = 3 .* the 8 devices"):
    meshes.mesh_of(config.MeshConfig(fsdp=3))
  with pytest.raises(ValueError, match="is 16, but 8 are here: use 1 .. 8"):
    meshes.mesh_of(config.MeshConfig(data=4, fsdp=4))


class Device(types.SimpleNamespace):
  """A description of a device."""

  __hash__ = object.__hash__


def test_an_axis_may_be_a_part_of_one_of_the_machine():
  """8 x 2 of the 4 x 4 chips of a v6e slice, which have two axes of 4."""
  devices = [
    Device(id=4 * y + x, coords=[x, y, 0], core_on_chip=0, platform="tpu",
           device_kind="TPU v6 lite", process_index=0)
    for y in range(4)
    for x in range(4)
  ]  # fmt: skip
  mesh = meshes.make_mesh(1, 8, 2, 1, devices=devices)
  assert tuple(mesh.shape.values()) == (1, 8, 2, 1)
  for a, b in mesh.devices.reshape(8, 2):  # "tensor": next to each other
    apart = sum(abs(m - n) for m, n in zip(a.coords, b.coords, strict=True))
    assert apart == 1


def test_neighbours_on_the_axis_are_neighbours_in_a_slice():
  devices = [
    Device(id=i, slice_index=i % 2, platform="cpu", device_kind="cpu",
           process_index=0)
    for i in range(8)
  ]  # fmt: skip
  for shape in ((8, 1, 1, 1), (2, 2, 2, 1), (1, 4, 1, 2)):
    mesh = meshes.make_mesh(-1, *shape[1:], devices=devices)
    assert tuple(mesh.shape.values()) == shape
    slices = [d.slice_index for d in mesh.devices.flat]
    assert slices == [0] * 4 + [1] * 4  # and not within tensor or context
  with pytest.raises(
    ValueError, match="2 slices must divide .*data=1 x fsdp=1"
  ):
    meshes.make_mesh(1, 1, 8, devices=devices)
