"""Machines to compile for, by name, without having one."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from mattt_jax import registry
from mattt_jax.config import require, require_choice

GIB = 2**30

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8",
          "8x8x8", "8x8x16", "8x16x16")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of a chip, and the shapes that slices of it come in.

  FLOP/s (bf16) and bandwidth: cloud.google.com/tpu/docs; v4 and tpu7x: JAX
  (`pltpu.get_tpu_info_for_chip`). `usable_gib`: of a device, by libtpu 0.0.42.
  """

  flops: float
  bandwidth: float  # of its HBM, bytes a second
  usable_gib: float
  shapes: tuple[str, ...]
  devices: int = 1  # JAX devices a chip
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CHIPS = {
  "v4": Chip(275e12, 1230e9, 30.75, _CUBES,
             options={"chip_config_name": "megacore"}),
  "v5e": Chip(197e12, 819e9, 15.75, _FLAT),
  "v5p": Chip(459e12, 2765e9, 95.74, _CUBES),
  "v6e": Chip(918e12, 1600e9, 31.25, _FLAT),
  "tpu7x": Chip(2310e12, 7400e9, 94.75, _CUBES, devices=2),
}  # fmt: skip

_LIBTPU = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_LOG_DIR": "disabled",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """`slices` slices of `shape` chips; `chip` None: that many CPU devices."""

  name: str
  chip: Chip | None
  shape: str
  slices: int = 1

  @property
  def num_chips(self) -> int:
    return self.slices * math.prod(map(int, self.shape.split("x")))

  @property
  def num_devices(self) -> int:
    return self.num_chips * (self.chip.devices if self.chip else 1)


def parse(text: str) -> Topology:
  """Reads "v5e:4x4", "2*v5e:4x4" (two slices) or "cpu:8".

  Raises:
    ValueError: there is no such topology.
  """
  match = re.fullmatch(r"(?:(\d+)\*)?(\w+):([\dx]+)", text)
  if match is None:
    raise ValueError(
      f"--topology={text!r} must be CHIP:SHAPE, as v5e:4x4, 2*v5e:4x4 (slices) "
      f"or cpu:8; chips: {', '.join(CHIPS)}"
    )
  slices, name, shape = int(match[1] or 1), match[2], match[3]
  require(slices >= 1, f"--topology={text!r}: at least 1 slice is needed")
  if name == "cpu":
    require(
      shape.isdecimal() and int(shape) >= 1 and slices == 1,
      f"--topology={text!r} must be cpu:NUMBER, as cpu:8",
    )
    return Topology(text, None, shape)
  known = [*CHIPS, "cpu"]
  what = f"unknown chip {name!r}{registry.suggest(name, known)}"
  require(name in known, f"--topology={text!r}: {what}")
  require_choice(f"--topology={text!r}: shape", shape, CHIPS[name].shapes)
  return Topology(text, CHIPS[name], shape, slices)


def prepare(topology: Topology) -> None:
  """Makes this a process that only plans; before JAX has any devices."""
  import jax

  jax.config.update("jax_platforms", "cpu")
  if topology.chip is not None:
    # Programs for a TPU cannot be read back from the cache without one.
    jax.config.update("jax_enable_compilation_cache", False)
    # Else libtpu asks the machine which TPU it is, and takes its lock.
    os.environ.update(_LIBTPU)
  elif "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", topology.num_devices)


def devices(topology: Topology) -> list:
  """Devices to compile programs for, not to run them.

  Raises:
    ValueError: libtpu is missing or does not know the topology, or there are
      fewer CPU devices.
  """
  import jax
  from jax.experimental import topologies

  flag = f"--topology={topology.name}"
  if topology.chip is None:
    here = jax.devices("cpu")
    require(
      topology.num_devices <= len(here),
      f"{flag}: JAX has {len(here)} CPU devices here: set "
      f"JAX_NUM_CPU_DEVICES={topology.num_devices}",
    )
    return here[: topology.num_devices]
  options: dict[str, Any] = dict(topology.chip.options)
  if topology.num_chips == topology.slices:  # libtpu expects hosts of four
    options["chips_per_host_bounds"] = (1, 1, 1)
  if topology.slices > 1:
    options["num_slices"] = topology.slices
  name = topology.name.rpartition("*")[-1]
  try:
    return topologies.get_topology_desc(name, "tpu", **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"{flag}: libtpu refuses it: {error}") from error
  except RuntimeError as error:
    raise ValueError(
      f"{flag} needs libtpu, the compiler for TPUs (no TPU is needed): "
      'pip install "mattt-jax[tpu]"'
    ) from error
