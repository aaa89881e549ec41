"""Model FLOPs utilisation: how close a run comes to the machine's peak."""

import functools
from collections.abc import Callable

import jax

from mattt_jax.config import Experiment
from mattt_jax.planning import cost_model, topology
from mattt_jax.planning.topology import Chip
from mattt_jax.ttt.parts import Parts

# By the `device_kind` of JAX.
_KINDS = {
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
  "TPU7x": "tpu7x",
}


def chip_of(device_kind: str) -> Chip | None:
  """Chip of a device, or None if its peak is not known."""
  return topology.CHIPS.get(_KINDS.get(device_kind, ""))


def ideal(
  experiment: Experiment, chip: Chip | None = None, num_devices: int = 0
) -> Callable[[int], Callable[[Parts, int], float]] | None:
  """vocab_size -> (parts, length) -> seconds of an outer step's model FLOPs at
  the peak of all devices (default: those of JAX); None if no peak is known."""
  chip = chip or chip_of(jax.devices()[0].device_kind)
  if chip is None:
    return None
  peak = chip.flops / chip.devices * (num_devices or jax.device_count())

  def of_vocabulary(vocab_size: int):
    @functools.cache
    def seconds(parts: Parts, length: int) -> float:
      cost = cost_model.step_cost(experiment, vocab_size, parts, length=length)
      return cost.model_flops / peak

    return seconds

  return of_vocabulary
