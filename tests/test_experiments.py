"""Every experiment's `tiny` takes one step; every system of it builds."""

import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry, sharding
from mattt_jax.main import load_config
from mattt_jax.training import trainer
from mattt_jax.training.build import build_learner

EXPERIMENTS = sorted(registry.experiments())


def systems():
  """(experiment, system) of all; the file lists its SYSTEMS."""
  for name in EXPERIMENTS:
    text = registry.experiments()[name].read_text()
    scope: dict = {}
    exec(compile(text, name, "exec"), scope)
    for system in scope.get("SYSTEMS", ()):
      yield name, system


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tiny_takes_one_step(name, tmp_path):
  config = load_config(f"{name}:tiny")
  config.train.steps = 1
  config.eval.lengths = ()
  experiment = config_lib.from_config_dict(config)
  mesh = sharding.make_mesh(1)
  result = trainer.train(experiment, tmp_path / "run", mesh=mesh)
  assert result["step"] == 1
  loss = result["evaluation"]["lengths"][str(experiment.length)]["loss"]
  assert 0 < loss < 20
  # The same command again finds nothing left to do.
  assert trainer.train(experiment, tmp_path / "run", mesh=mesh) == result


@pytest.mark.parametrize(("name", "system"), systems())
def test_every_system_builds(name, system):
  for arg in (f"tiny,system={system}", f"system={system},seed=3"):
    experiment = config_lib.from_config_dict(load_config(f"{name}:{arg}"))
    attention, _, memory = system.partition("_")
    assert experiment.inner.enabled == (attention == "ttt")
    learner = build_learner(experiment, 200)
    state_bytes = learner.state_bytes(experiment.length)
    assert (state_bytes["memory"] > 0) == bool(memory)
    assert (state_bytes["fast_weights"] > 0) == experiment.inner.enabled
