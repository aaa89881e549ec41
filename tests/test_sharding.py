"""Placement by path, and the sizes that a mesh accepts."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mattt_jax import sharding


def test_rules_place_by_path_and_default_to_replicated():
  mesh = sharding.make_mesh(4)
  tree = {"suffix": {"w": np.zeros((8, 2))}, "head": np.zeros((8, 2))}
  placed = sharding.shardings(mesh, tree, [(r"suffix/w$", P("data", None))])
  assert placed["suffix"]["w"].spec == P("data", None)
  assert placed["head"].spec == P()
  array = jax.device_put(tree["suffix"]["w"], placed["suffix"]["w"])
  assert {s.data.shape for s in array.addressable_shards} == {(2, 2)}


def test_first_rule_wins():
  mesh = sharding.make_mesh(2)
  rules = [("a", P("data")), ("a|b", P())]
  placed = sharding.shardings(mesh, {"a": np.ones(2), "b": np.ones(2)}, rules)
  assert (placed["a"].spec, placed["b"].spec) == (P("data"), P())


def test_rule_that_matches_nothing_is_an_error():
  with pytest.raises(ValueError, match="'heda' matches no array"):
    sharding.shardings(
      sharding.make_mesh(1), {"head": np.ones(2)}, [("heda", P())]
    )


def test_batch_is_split_over_sequences():
  mesh = sharding.make_mesh(8)
  tokens = np.arange(32, dtype=np.int32).reshape(16, 2)
  batch = {"tokens": tokens, "relevant": tokens[:, 0] > 3}
  out = sharding.put_batch(batch, mesh)
  assert out.keys() == batch.keys()
  for key, rows in (("tokens", (2, 2)), ("relevant", (2,))):
    assert {s.data.shape for s in out[key].addressable_shards} == {rows}
    assert out[key].dtype == batch[key].dtype
    np.testing.assert_array_equal(out[key], batch[key])


def test_batch_size_must_be_divisible_by_the_devices():
  mesh = sharding.make_mesh(8)
  sharding.check_batch("batch_size", 16, mesh)
  with pytest.raises(ValueError, match="eval.batch_size=12 .* multiple of 8"):
    sharding.check_batch("eval.batch_size", 12, mesh)


@pytest.mark.parametrize("data", [0, 9])
def test_mesh_of_devices_that_are_not_here(data):
  with pytest.raises(ValueError, match=f"data={data} .* use 1 .. 8"):
    sharding.make_mesh(data)


def test_neighbours_on_the_axis_are_neighbours_in_a_slice():
  class Device(types.SimpleNamespace):
    __hash__ = object.__hash__

  devices = [
    Device(id=i, slice_index=i % 2, platform="cpu", device_kind="cpu",
           process_index=0)
    for i in range(8)
  ]  # fmt: skip
  mesh = sharding.make_mesh(devices=devices)
  assert mesh.shape == {"data": 8}
  assert [d.slice_index for d in mesh.devices] == [0] * 4 + [1] * 4
