"""Where arrays live: one mesh, and path rules that say how each is split.

Modules know nothing of devices. A rule is (regular expression, PartitionSpec);
the first one found in an array's path decides, and an array without a rule is
replicated. Optimiser moments carry their parameter's path inside their own, so
that one rule places all three.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mattt_jax.config import require

DATA = "data"  # the mesh axis over which the sequences of a batch are split

Rules = Iterable[tuple[str, PartitionSpec]]


def make_mesh(
  data: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Makes a mesh of `data` devices (default: all) on the axis "data".

  Args:
    data: number of devices.
    devices: to choose them from; default: those of this machine.

  Raises:
    ValueError: `data` is not a number of devices that there are.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices) if data is None else data
  require(
    1 <= count <= len(devices),
    f"data={data} devices were asked for, but {len(devices)} are here: "
    f"use 1 .. {len(devices)}",
  )
  devices = devices[:count]
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(
      (count,), (DATA,), axis_types=(AxisType.Auto,), devices=devices
    )
  # Neighbours on the axis are neighbours in a slice.
  ordered = mesh_utils.create_hybrid_device_mesh(
    (count // slices,), (slices,), devices
  )
  return Mesh(ordered, (DATA,), axis_types=(AxisType.Auto,))


def path_name(path: tuple[Any, ...]) -> str:
  """Returns a pytree path as "suffix/fast_mlp/up": no wrappers, no brackets."""
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  # An nnx.Variable is a node of its own, whose only child is its value.
  return name.removesuffix("/value")


def shardings(mesh: Mesh, tree: Any, rules: Rules = ()) -> Any:
  """Gives a tree like `tree` with the `NamedSharding` of each array.

  Raises:
    ValueError: a rule matches no array, so that it says nothing (a typo).
  """
  rules = tuple(rules)
  used = set()

  def place(path, _):
    name = path_name(path)
    for pattern, spec in rules:
      if re.search(pattern, name):
        used.add(pattern)
        return NamedSharding(mesh, spec)
    return NamedSharding(mesh, PartitionSpec())

  placed = jax.tree_util.tree_map_with_path(place, tree)
  unused = [pattern for pattern, _ in rules if pattern not in used]
  require(
    not unused,
    f"sharding rule {(unused or [''])[0]!r} matches no array: correct or "
    "remove it",
  )
  return placed


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch(field: str, batch_size: int, mesh: Mesh) -> None:
  """Raises `ValueError` unless the devices of "data" divide `batch_size`."""
  devices = mesh.shape[DATA]
  require(
    batch_size % devices == 0,
    f"{field}={batch_size} must be divisible by the {devices} devices of the "
    f"mesh axis {DATA!r}: use a multiple of {devices}, or a mesh of fewer "
    "devices",
  )


def abstract(tree: Any, placement: Any) -> Any:
  """Arrays (or shapes) as shapes, placed: what a program is compiled for.

  `placement` is one sharding, or a tree of them.
  """
  if isinstance(placement, NamedSharding):
    placement = jax.tree.map(lambda _: placement, tree)
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    placement,
  )


def split_batch(mesh: Mesh) -> NamedSharding:
  """B, the first axis, is split over "data"."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Places arrays [B, ...] with B split over "data".

  Each process passes the sequences that its own devices hold.
  """
  arrays = {name: np.asarray(array) for name, array in batch.items()}
  # All of them in one call: a call for each costs three times as much.
  return jax.make_array_from_process_local_data(split_batch(mesh), arrays)
