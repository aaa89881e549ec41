"""Every experiment's `tiny` takes one step; every system of it builds."""

import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry, sharding, systems
from mattt_jax.registry import load_config
from mattt_jax.training import trainer
from mattt_jax.training.build import build_learner

EXPERIMENTS = sorted(registry.experiments())


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


@pytest.mark.parametrize("size", ["tiny", ""])
@pytest.mark.parametrize("task", registry.names(config_lib.TASKS))
def test_any_task(task, size):
  arg = ",".join(filter(None, [size, f"task={task}"]))
  experiment = config_lib.from_config_dict(load_config(f"any_task:{arg}"))
  made = trainer.make_task(experiment)
  for _, length in experiment.lengths:
    example = made.example("test", 0, length)
    assert example["tokens"].shape == (length,)


@pytest.mark.parametrize("system", systems.names())
def test_every_system_builds(system):
  experiment = config_lib.from_config_dict(
    load_config(f"recall:tiny,system={system}")
  )
  learner = build_learner(experiment, 200)
  state_bytes = learner.state_bytes(experiment.length)
  if config_lib.to_dict(experiment)["baseline"]["name"] != "none":
    assert sum(state_bytes.values()) > 0
    return
  has_memory = experiment.memory.read is not None
  assert (state_bytes["memory"] > 0) == has_memory
  assert (state_bytes["fast_weights"] > 0) == experiment.inner.enabled
  replays = experiment.coordination.replay > 0
  assert (state_bytes["replay"] > 0) == replays
