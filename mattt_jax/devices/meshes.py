"""The mesh: the devices, and their arrangement on axes.

`sharding.py` says which arrays are split over which axis.
"""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from mattt_jax.config import MeshConfig, require

DATA, FSDP, TENSOR, CONTEXT = AXES = ("data", "fsdp", "tensor", "context")
AnyMesh = Mesh | AbstractMesh  # shapes are placed on an abstract one, too
_AUTO = (AxisType.Auto,) * 4


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  context: int = 1,
  *,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Makes a mesh with that many devices on each axis.

  Args:
    data: sequences; -1: all other devices.
    fsdp: sequences, parameters and optimiser state.
    tensor: heads, hidden units, vocabulary.
    context: tokens of a chunk, slots of a memory.
    devices: candidates; default: the devices of all processes.

  Raises:
    ValueError: there are not so many devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  here = len(devices)
  shape = data, *_ = _shape(here, data, fsdp, tensor, context)
  count = math.prod(shape)
  require(
    count == here or jax.process_count() == 1,
    f"mesh of fsdp={fsdp} x tensor={tensor} x context={context} x data={data} "
    f"is {count} of {here} devices, but every process must have its part: use "
    "mesh.data=-1",
  )
  devices = devices[:count]
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  # An axis of the mesh may be a part of one of the machine's: 128 x 2 of the
  # 16 x 16 chips of a v6e slice (`jax.make_mesh` allows it on a v5e alone).
  split = {"allow_split_physical_axes": True}
  if slices == 1:
    ordered = mesh_utils.create_device_mesh(shape, devices, **split)
    return Mesh(ordered, AXES, axis_types=_AUTO)
  # The network between slices is slow: only sequences are split over them, and
  # parameters over the slices that are left.
  outer = math.gcd(data, slices)
  require(
    fsdp % (slices // outer) == 0,
    f"{slices} slices must divide mesh axes data={data} x fsdp={fsdp}",
  )
  between = (outer, slices // outer, 1, 1)
  inside = tuple(n // k for n, k in zip(shape, between, strict=True))
  ordered = mesh_utils.create_hybrid_device_mesh(
    inside, between, devices, **split
  )
  return Mesh(ordered, AXES, axis_types=_AUTO)


def mesh_of(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """`make_mesh` as the settings say."""
  return make_mesh(
    config.data, config.fsdp, config.tensor, config.context, devices=devices
  )


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
  """The mesh that `mesh_of` makes of so many devices, without the devices."""
  c = config
  shape = _shape(devices, c.data, c.fsdp, c.tensor, c.context)
  return AbstractMesh(shape, AXES, axis_types=_AUTO)


def _shape(
  here: int, data: int, fsdp: int, tensor: int, context: int
) -> tuple[int, int, int, int]:
  """The shape of a mesh on `here` devices, `data` -1 resolved."""
  others = fsdp * tensor * context
  shape = f"mesh of fsdp={fsdp} x tensor={tensor} x context={context}"
  if data == -1:
    require(
      here % others == 0,
      f"{shape} = {others} devices must divide the {here} devices that are "
      "here: change one of them, or say mesh.data=NUMBER to use fewer",
    )
    data = here // others
  count = data * others
  require(
    1 <= count <= here,
    f"{shape} x data={data} devices is {count}, but {here} are here: "
    f"use 1 .. {here}",
  )
  return data, fsdp, tensor, context
