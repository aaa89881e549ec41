"""Names of machines, and what is said where there is no such machine."""

import pytest
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from mattt_jax.planning import topology


@pytest.mark.parametrize(
  "text, chips, devices",
  [
    ("v5e:4x4", 16, 16),
    ("v5e:1x1", 1, 1),
    ("2*v6e:2x4", 16, 16),
    ("v5p:2x2x2", 8, 8),
    ("tpu7x:2x2x1", 4, 8),  # two devices a chip
    ("cpu:8", 8, 8),
  ],
)
def test_sizes(text, chips, devices):
  found = topology.parse(text)
  assert (found.num_chips, found.num_devices) == (chips, devices)


@pytest.mark.parametrize(
  "text, message",
  [
    ("v9:2x2", "--topology='v9:2x2': unknown chip 'v9': .* v4, v5e, v5p, v6e"),
    ("v5e:3x3", "shape='3x3' .* 1x1, 2x2, 2x4"),
    ("v5e:4x4x4", "shape='4x4x4' .* 16x16"),  # libtpu takes it
    ("v5e-16", "'v5e-16' must be CHIP:SHAPE"),
    ("0*v5e:4x4", "at least 1 slice"),
    ("cpu:0", "must be cpu:NUMBER"),
    ("cpu:2x2", "must be cpu:NUMBER"),
    ("2*cpu:2", "must be cpu:NUMBER"),
    ("", "must be CHIP:SHAPE"),
  ],
)
def test_unknown_machines(text, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(text)


@pytest.mark.parametrize(
  "name, version, cores",
  [
    ("v4", "TPU_V4", 2),
    ("v5e", "TPU_V5E", 1),
    ("v5p", "TPU_V5P", 2),
    ("v6e", "TPU_V6E", 1),
    ("tpu7x", "TPU_7X", 1),
  ],
)
def test_peaks_are_near_those_that_jax_knows(name, version, cores):
  """JAX rounds, and says less bandwidth of a v5p than its manual: 15 %."""
  known = pltpu.get_tpu_info_for_chip(
    getattr(pltpu.ChipVersion, version), cores
  )
  chip = topology.CHIPS[name]
  per_chip = cores * chip.devices
  for mine, theirs in (
    (chip.flops, per_chip * known.bf16_ops_per_second),
    (chip.bandwidth, per_chip * known.mem_bw_bytes_per_second),
  ):
    assert mine == pytest.approx(theirs, rel=0.15)
  total = cores * known.hbm_capacity_bytes / topology.GIB
  assert 0.9 * total < chip.usable_gib < total


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
  def absent(*_, **__):
    raise RuntimeError("JAX TPU support not installed")

  monkeypatch.setattr(topologies, "get_topology_desc", absent)
  with pytest.raises(
    ValueError, match=r'v5e:4x4 .*pip install "mattt-jax\[tpu\]"'
  ):
    topology.devices(topology.parse("v5e:4x4"))


def test_what_libtpu_is_asked_for(monkeypatch):
  asked = {}

  def answer(name, platform, **options):
    asked.update(name=name, platform=platform, **options)
    return topologies.TopologyDescription(["device"])

  monkeypatch.setattr(topologies, "get_topology_desc", answer)
  assert topology.devices(topology.parse("2*v4:2x2x1")) == ["device"]
  assert asked == {
    "name": "v4:2x2x1",
    "platform": "tpu",
    "chip_config_name": "megacore",
    "num_slices": 2,
  }
  asked.clear()
  topology.devices(topology.parse("v5e:1x1"))
  assert asked["chips_per_host_bounds"] == (1, 1, 1)


def test_more_cpu_devices_than_there_are():
  with pytest.raises(ValueError, match="cpu:9: JAX has 8 .*DEVICES=9"):
    topology.devices(topology.parse("cpu:9"))
