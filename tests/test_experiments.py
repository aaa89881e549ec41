"""Every experiment's `tiny` takes one step; every system of it builds."""

import collections
import importlib
import json
import pathlib

import jax
import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry, systems
from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.learners.build import abstract_learner, build_learner
from mattt_jax.registry import load_config
from mattt_jax.sweeps import sweep
from mattt_jax.training import trainer

EXPERIMENTS = sorted(registry.experiments())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tiny_takes_one_step(name, tmp_path):
  config = load_config(f"{name}:tiny")
  config.train.steps = 1
  config.eval.lengths = ()
  experiment = config_lib.from_config_dict(config)
  mesh = meshes.make_mesh(1)
  result = trainer.train(experiment, tmp_path / "run", mesh=mesh)
  assert result["step"] == 1
  loss = result["evaluation"]["lengths"][str(experiment.length)]["loss"]
  assert 0 < loss < 20
  # The same command again finds nothing left to do.
  assert trainer.train(experiment, tmp_path / "run", mesh=mesh) == result


def test_the_benchmark_of_the_input_knows_every_experiment(monkeypatch):
  folder = pathlib.Path(__file__).parents[1] / "benchmarks"
  monkeypatch.syspath_prepend(folder)
  benchmark = importlib.import_module("input_pipeline")
  for name in EXPERIMENTS:
    experiment = config_lib.from_config_dict(benchmark.shortest(name))
    assert not experiment.inner.enabled and experiment.memory.read is None
    assert experiment.train.steps == benchmark.ENDLESS


SWEPT = [
  name
  for name in EXPERIMENTS
  if hasattr(registry.load_experiment(name)[0], "sweep")
]


def test_these_have_sweeps():
  assert {"ablation", "books", "context_scaling", "recall"} <= set(SWEPT)


@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_says_what_it_costs_and_what_would_refute_it(name):
  module, _, _ = registry.load_experiment(name)
  assert f"mattt sweep --config={name}" in module.__doc__
  for word in ("Expected", "refute", "runs"):
    assert word in module.__doc__ or word.capitalize() in module.__doc__


def test_the_ablation_is_a_square_on_each_task():
  runs = sweep.runs("ablation")
  assert len(runs) == 3 * 4 * 3
  for run in runs:
    task = {"hard": "recall:hard,", "rule": "rule:", "plain": "recall:"}
    base = load_config(
      f"{task[run.settings['task']]}system=sliding_window,seed={run.settings['seed']}"
    )
    assert run.tree["inner"]["enabled"] == run.settings["inner"]
    has_memory = run.tree["memory"]["name"] == "episodic"
    assert has_memory == run.settings["memory"]
    tree = config_lib.to_dict(config_lib.from_config_dict(base))
    tree = json.loads(json.dumps(tree))
    for part in ("task", "model", "outer"):
      assert run.tree[part] == tree[part]


def test_context_scaling_has_as_many_tokens_a_step_at_every_length():
  for size in ("400k", "125m", "3b"):
    arg = f"context_scaling:size={size},data=made".removesuffix(
      ",data=made" * (size == "400k")
    )
    runs = sweep.runs(arg)
    assert len(runs) == 3 * 4 * (1 if size == "3b" else 3)
    tokens = {run.tree["batch_size"] * run.tree["length"] for run in runs}
    assert len(tokens) == 1
    same = {json.dumps(run.tree["model"] | {"attention": ""}) for run in runs}
    assert len(same) == 1  # of one shape, whatever the system


def test_context_scaling_on_a_cpu_has_one_axis_each_for_length_and_size():
  runs = sweep.runs("context_scaling")
  points = collections.Counter()
  for run in runs:
    said = run.settings
    points[said["size"], said["length"]] += 1
    experiment = config_lib.from_config_dict(load_config(run.config))
    _, params = abstract_learner(experiment, vocab_size=256)
    number = sum(x.size for x in jax.tree.leaves(params))
    unit = {"k": 1e3, "m": 1e6}[said["size"][-1]]
    # The memory adds a few thousand.
    assert number == pytest.approx(float(said["size"][:-1]) * unit, rel=0.15)
    assert said["length"] <= max(experiment.eval.lengths) <= 65536
  assert points == {
    ("400k", 256): 12, ("400k", 1024): 18, ("400k", 4096): 16,
    ("100k", 1024): 12, ("1m", 1024): 12, ("3m", 1024): 4,
  }  # fmt: skip


# Parameters of the models that these are called after, in millions.
@pytest.mark.parametrize(
  "size, millions",
  [("125m", 125), ("350m", 350), ("760m", 760), ("1b", 1300), ("3b", 2700)],
)
def test_context_scaling_has_the_published_models(size, millions):
  config = load_config(f"context_scaling:size={size},data=made")
  experiment = config_lib.from_config_dict(config)
  m = experiment.model
  assert (experiment.chunk, m.window) == (1024, 8192)
  assert m.num_suffix * 4 == m.num_layers
  # The fast MLPs take from the width of all MLPs, so that a model has as many
  # parameters as a plain one: 12 dim^2 a block. With GPT-2's vocabulary that
  # is the number it is called after.
  blocks = m.num_layers * (4 * m.dim**2 + 3 * m.dim * m.mlp_dim)
  blocks += m.num_suffix * 3 * m.dim * m.fast_mlp_dim
  assert blocks == pytest.approx(12 * m.num_layers * m.dim**2, rel=0.04)
  assert blocks + 50257 * m.dim == pytest.approx(millions * 1e6, rel=0.05)
  # Trained on 20 tokens a parameter (2203.15556).
  tokens = experiment.train.steps * experiment.batch_size * experiment.length
  assert tokens == pytest.approx(20 * millions * 1e6, rel=0.03)
  assert experiment.outer.warmup_steps * 10 == experiment.train.steps
  assert experiment.inner.warmup_steps * 10 == experiment.train.steps
  assert build.make_task(experiment).vocab_size == 128256


@pytest.mark.parametrize(
  "arg, message",
  [
    ("size=125m", "there is no tokenizer DIR.json"),
    ("size=125m,data=absent", r"data=absent: .* absent.json. Make it: mattt"),
    ("size=7b", "size='7b' is not known: use one of 100k, 400k"),
    ("length=500", "chunk=64 must divide length=500"),
  ],
)
def test_context_scaling_mistakes(arg, message):
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(load_config(f"context_scaling:{arg}"))


@pytest.mark.parametrize("size", ["tiny", ""])
@pytest.mark.parametrize("task", registry.names(config_lib.TASKS))
def test_any_task(task, size):
  arg = ",".join(filter(None, [size, f"task={task}"]))
  experiment = config_lib.from_config_dict(load_config(f"any_task:{arg}"))
  made = build.make_task(experiment)
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
  if config_lib.to_dict(experiment)["learner"]["name"] != "recurrence":
    assert sum(state_bytes.values()) > 0
    return
  has_memory = experiment.memory.read is not None
  assert (state_bytes["memory"] > 0) == has_memory
  assert (state_bytes["fast_weights"] > 0) == experiment.inner.enabled
  replays = experiment.coordination.replay > 0
  assert (state_bytes["replay"] > 0) == replays
