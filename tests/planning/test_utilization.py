"""Peaks of devices, and the seconds of a step at them."""

import pytest
from tiny import experiment

from mattt_jax.planning import cost_model, topology, utilization
from mattt_jax.ttt.parts import Parts


def test_seconds_at_the_peak():
  settings, chip = experiment(), topology.CHIPS["tpu7x"]
  ideal = utilization.ideal(settings, chip, num_devices=4)
  off, on = Parts(inner=False, memory=False), Parts(memory=False)
  cost = cost_model.step_cost(settings, 26, off)
  # A chip of it is two devices, so that four are two chips.
  seconds = ideal(26)(off, settings.length)
  assert seconds == pytest.approx(cost.model_flops / (2 * chip.flops))
  assert ideal(26)(on, settings.length) > 2 * seconds


def test_no_peak_is_made_up():
  assert utilization.ideal(experiment()) is None  # a CPU
  assert utilization.chip_of("TPU v5 lite") is topology.CHIPS["v5e"]
  assert utilization.chip_of("NVIDIA H100") is None
