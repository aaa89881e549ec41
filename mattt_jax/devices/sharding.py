"""Where arrays live: one mesh, and how each array is split over it.

Parameters and fast weights are placed by their paths. A rule is (regular
expression, the mesh axis of each of an array's last axes); the first one found
in a path decides. Optimiser moments have their parameter's path inside their
own, so that one rule places all three.

What else is carried from chunk to chunk says itself how it is split: the class
of a state has `AXES`, for each field the mesh axis of each of its last axes.
The rest follows from where parameters and batches lie, and from `constrain`
where a sequence is read. docs/meshes.md has a table.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mattt_jax.config import Experiment, require
from mattt_jax.devices import meshes
from mattt_jax.devices.meshes import CONTEXT, DATA, FSDP, TENSOR, AnyMesh

BATCH = (DATA, FSDP)  # the sequences of a batch are split over both

Axes = tuple[str | None, ...]
Rules = Sequence[tuple[str, Axes]]

# Matrices that read the residual stream, and those that write to it; stacks of
# blocks have one more axis in front.
PARAMETERS: Rules = (
  (r"\bembedding$", (TENSOR, FSDP)),
  (r"\bhead$", (FSDP, TENSOR)),
  (r"w[qkvg13]$", (FSDP, TENSOR)),
  (r"w[o2]$", (TENSOR, FSDP)),
)
# Numbers of a parameter without a rule from which on it is split over "fsdp",
# along its longest axis.
_LARGE = 2**18

# Inside a program, where the same axes split sequences: the loop over blocks
# gathers each in its turn; all tokens use these at once.
GATHERED: Rules = (
  (r"\bembedding$", (TENSOR, None)),
  (r"\bhead$", (None, TENSOR)),
)

# Inside a program, a sequence's devices on "fsdp" hold its fast weights whole.
FAST: Rules = (
  (r"^(fast|inner_opt)/.*w[qkvg13]/value$", (None, TENSOR)),
  (r"^(fast|inner_opt)/.*w[o2]/value$", (TENSOR, None)),
  (r"^(fast|inner_opt)/.*head/value$", (None, TENSOR)),
  (r"^(fast|inner_opt)/", ()),
)


def path_name(path: tuple[Any, ...]) -> str:
  """A pytree path as "suffix/fast_mlp/up", without wrappers and brackets."""
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  # An nnx.Variable is a node of its own, whose only child is its value.
  return name.removesuffix("/value")


def shardings(mesh: AnyMesh, tree: Any, rules: Rules = PARAMETERS) -> Any:
  """The `NamedSharding` of each array of a tree: by its rule; without one, over
  "fsdp" if it is large.

  Raises:
    ValueError: the devices of a mesh axis do not divide an array's axis.
  """

  def place(path, x):
    name, shape = path_name(path), tuple(x.shape)
    axes = _axes(name, shape, rules, mesh.shape)
    if axes is None:
      axes = _longest(shape, mesh.shape[FSDP])
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(place, tree)


def _axes(
  name: str, shape: tuple[int, ...], rules: Rules, sizes: Mapping[str, int]
) -> Axes | None:
  for pattern, last in rules:
    if re.search(pattern, name):
      return _fitted(name, shape, last, sizes, f"rule {pattern!r}")
  return None


def _fitted(
  name: str,
  shape: tuple[int, ...],
  last: Axes,
  sizes: Mapping[str, int],
  source: str,
) -> Axes:
  """The mesh axes of an array whose last ones are given; none for one device or
  one entry."""
  last = last[max(0, len(last) - len(shape)) :]
  axes: list[str | None] = [None] * len(shape)
  for i, axis in enumerate(last, start=len(shape) - len(last)):
    if axis is None or shape[i] == 1:
      continue
    require(
      shape[i] % sizes[axis] == 0,
      f"{name} of shape {shape}: the {sizes[axis]} devices of the mesh axis "
      f"{axis!r} must divide {shape[i]} ({source}: "
      f"{', '.join(map(str, last))}): change mesh.{axis} or that size",
    )
    if sizes[axis] > 1:
      axes[i] = axis
  return tuple(axes)


def _is_struct(x: Any) -> bool:
  return dataclasses.is_dataclass(x) and not isinstance(x, type)


def _split_state(
  split: Callable[[str, Any, Axes, str], Any], state: Any, above: str = ""
) -> Any:
  """Tree like `state` of split(name, array, its last axes, who says so)."""
  declared = getattr(state, "AXES", {})
  kind = f"{type(state).__module__}.{type(state).__name__}"
  unknown = declared.keys() - {f.name for f in dataclasses.fields(state)}
  require(not unknown, f"{kind}.AXES names no field of it: {sorted(unknown)}")

  def visit(path, x):
    # Inside a memory, `value` may be a name: not `path_name`.
    name = above + jax.tree_util.keystr(path, simple=True, separator="/")
    if _is_struct(x):
      return _split_state(split, x, f"{name}/")
    for pattern, last in FAST:
      if re.search(pattern, name):
        return split(name, x, last, f"rule {pattern!r}")
    field = path[0].name
    require(
      field in declared,
      f"{name}: {kind} does not say how {field!r} is split over the mesh: add "
      f"AXES: ClassVar = {{{field!r}: (...)}} to that class, with a mesh axis "
      f"({TENSOR!r}, {CONTEXT!r}) or None for each axis of the array, or () to "
      "have it whole on every device",
    )
    last, source = declared[field], f"{kind}.AXES[{field!r}]"
    require(
      set(last) <= {None, *meshes.AXES},
      f"{source}={last}: the axes of a mesh are {', '.join(meshes.AXES)}",
    )
    return split(name, x, last, source)

  return jax.tree_util.tree_map_with_path(
    visit, state, is_leaf=lambda x: x is not state and _is_struct(x)
  )


def _longest(shape: tuple[int, ...], devices: int) -> Axes:
  """The longest axis that the devices of "fsdp" divide is split, if large."""
  fitting = [n for n in shape if n % devices == 0]
  if devices == 1 or not fitting or math.prod(shape) < _LARGE:
    return ()
  at = shape.index(max(fitting))
  return (None,) * at + (FSDP,)


def replicated(mesh: AnyMesh) -> NamedSharding:
  """The placement of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_devices(mesh: AnyMesh) -> int:
  """Number of devices that share the sequences of a batch."""
  return mesh.shape[DATA] * mesh.shape[FSDP]


def check_batch(field: str, batch_size: int, mesh: AnyMesh) -> None:
  """Raises `ValueError` unless the devices that share a batch divide it."""
  data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
  devices = batch_devices(mesh)
  require(
    batch_size % devices == 0,
    f"{field}={batch_size} must be divisible by the {devices} devices of the "
    f"mesh axes data={data} x fsdp={fsdp}: use a multiple of {devices}, or a "
    "mesh of fewer devices",
  )


def check_batches(experiment: Experiment, mesh: AnyMesh) -> None:
  """`check_batch` of everything that is computed at once."""
  check_batch("batch_size", experiment.batch_size, mesh)
  check_batch("train.micro_batch", experiment.train.micro_batch, mesh)
  check_batch("eval.batch_size", experiment.eval.batch_size, mesh)


def abstract(tree: Any, placement: Any) -> Any:
  """Arrays (or shapes) as placed shapes, which a program is compiled for;
  `placement` is one sharding, or a tree of them."""
  if isinstance(placement, NamedSharding):
    placement = jax.tree.map(lambda _: placement, tree)
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    placement,
  )


def split_batch(mesh: AnyMesh) -> NamedSharding:
  """The placement of [B, ...], with B split over "data" and "fsdp"."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def rows_here(mesh: Mesh, size: int) -> range | list[int]:
  """Which of the `size` sequences of a batch this process's devices hold."""
  if jax.process_count() == 1:
    return range(size)
  where = split_batch(mesh).addressable_devices_indices_map((size,))
  slices = [index[0] for index in where.values() if index is not None]
  return sorted({i for rows in slices for i in range(size)[rows]})


def put_whole_batch(batch: Any, mesh: Mesh) -> Any:
  """`put_batch` of a batch that every process has all of."""
  size = len(jax.tree.leaves(batch)[0])
  rows = rows_here(mesh, size)
  if len(rows) < size:
    batch = jax.tree.map(lambda array: array[rows], batch)
  return put_batch(batch, mesh)


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Places a tree of arrays [B, ...] with B split over "data" and "fsdp"; each
  process passes the sequences of its own devices (`rows_here`)."""
  arrays = jax.tree.map(np.asarray, batch)
  # All of them in one call: a call for each costs three times as much.
  return jax.make_array_from_process_local_data(split_batch(mesh), arrays)


def on(mesh: Mesh) -> contextlib.AbstractContextManager:
  """What is traced in here runs on `mesh`: `constrain` has an effect."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def devices_on(axis: str) -> int:
  """How many devices the mesh of `on` has on an axis; 1 without a mesh."""
  return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Splits the axes of one sequence's array over those of the mesh, unless it
  is none or splits sequences only."""
  sizes = _sizes()
  if sizes is None:
    return x
  named = [a if a is not None and sizes[a] > 1 else None for a in axes]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*named))


def constrain_parameters(params: Any) -> Any:
  """Gathers, over "fsdp", what no loop over blocks gathers."""
  sizes = _sizes()
  if sizes is None:
    return params

  def place(path, x):
    axes = _axes(path_name(path), x.shape, GATHERED, sizes)
    return x if axes is None else constrain(x, *axes)

  return jax.tree_util.tree_map_with_path(place, params)


def constrain_state(state: Any) -> Any:
  """`constrain` of everything that is carried from chunk to chunk."""
  sizes = _sizes()
  if sizes is None:
    return state

  def split(name, x, last, source):
    return constrain(x, *_fitted(name, x.shape, last, sizes, source))

  return _split_state(split, state)


def split_states(mesh: AnyMesh, states: Any) -> Any:
  """The placement of the states of B sequences, each array [B, ...]."""

  def split(name, x, last, source):
    axes = _fitted(name, tuple(x.shape[1:]), last, mesh.shape, source)
    axes = axes if any(axes) else ()
    return NamedSharding(mesh, PartitionSpec(BATCH, *axes))

  return _split_state(split, states)


def _sizes() -> Mapping[str, int] | None:
  """The mesh of `on`, unless it splits sequences only."""
  sizes = jax.sharding.get_abstract_mesh().shape
  if all(sizes.get(axis, 1) == 1 for axis in (FSDP, TENSOR, CONTEXT)):
    return None
  return sizes
