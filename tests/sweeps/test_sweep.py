"""The algebra of sweeps, and runs resolved from it."""

import itertools
import json

import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.commands import cli, train
from mattt_jax.sweeps import sweep
from mattt_jax.sweeps.sweep import chain, param, product, zip_

FILE = """
from ml_collections import ConfigDict
from mattt_jax.config import parse_arg
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import *

def get_config(arg=""):
  args = parse_arg(arg, tiny=False, seed=0, system="sliding_window")
  return load_config(f"recall:tiny,system={{args.system}},seed={{args.seed}}")

def sweep({arg}):
  {body}
"""


def experiment(tmp_path, body, arg="arg=''"):
  path = tmp_path / "mine.py"
  path.write_text(FILE.format(body=body, arg=arg))
  return str(path)


def test_the_algebra_is_that_of_nested_loops():
  a, b, c = [1, 2], ["x", "y", "z"], [True, False]
  found = product(param("a", a), zip_(param("b", b), param("c", "pqr")))
  expected = []
  for value in a:
    for letter, other in zip(b, "pqr", strict=True):
      expected.append({"a": value, "b": letter, "c": other})
  assert found == expected
  cube = product(param("a", a), param("b", b), param("c", c))
  assert [tuple(s.values()) for s in cube] == list(itertools.product(a, b, c))
  assert chain(param("a", a), param("b", b)) == [
    {"a": 1}, {"a": 2}, {"b": "x"}, {"b": "y"}, {"b": "z"}
  ]  # fmt: skip
  assert product() == [{}]
  assert product(chain(), param("a", a)) == []


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: param("a", []), "'a'.*no values"),
    (lambda: product(param("a", [1]), param("a", [2])), "a is set twice"),
    (lambda: zip_(param("a", [1]), param("a", [2])), "a is set twice"),
    (lambda: zip_(param("a", [1, 2]), param("b", [2])), "of 2, 1 runs"),
  ],
)
def test_sweeps_that_do_not_combine(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_run_is_what_its_command_trains(tmp_path, monkeypatch, capsys):
  """Through the real command line, with every kind of value."""
  text = experiment(
    tmp_path,
    "return [{'seed': 3, 'system': 'ttt_e2e', "
    "'config.outer.learning_rate': 3e-4,"
    " 'config.eval.lengths': (64,), 'config.model.pre_norm': False,"
    " 'config.inner.optimizer': 'adamw', 'config.train.steps': 9,"
    " 'config.model.fast': ('suffix/fast_mlp/w1',)}]",
  )
  [run] = sweep.runs(f"{text}:tiny")
  calls = []
  monkeypatch.setattr(train, "COMMAND", _recording(calls))
  assert cli.main(["train", *run.arguments]) == 0, capsys.readouterr().err
  [tree] = calls
  assert json.loads(json.dumps(tree)) == run.tree
  assert tree["seed"] == 3 and tree["inner"]["enabled"]
  assert tree["outer"]["learning_rate"] == 3e-4
  assert tree["eval"]["lengths"] == (64,)
  assert not tree["model"]["pre_norm"]
  assert tree["inner"]["optimizer"] == "adamw"
  assert run.config == f"{text}:tiny,seed=3,system=ttt_e2e"
  assert "'" in sweep.command(run, "a dir").split("--workdir=")[0]


def _recording(calls):
  import dataclasses

  def run(values):
    calls.append(config_lib.to_dict(config_lib.from_config_dict(values.config)))

  return dataclasses.replace(train.COMMAND, run=run)


def test_the_hash_is_of_the_resolved_settings(tmp_path):
  """Not of how they were said: the default said out loud is the same run."""
  a, b = (
    sweep.runs(experiment(tmp_path, body))[0].hash
    for body in ("return [{}]", "return [{'seed': 0, 'config.chunk': 8}]")
  )
  assert a == b
  c = sweep.runs(experiment(tmp_path, "return [{'seed': 1}]"))[0].hash
  assert c != a
  assert len(a) == 12 and int(a, 16) >= 0
  plain = sweep.config_hash({"x": 1, "y": {"z": 2}})
  assert plain == sweep.config_hash({"y": {"z": 2}, "x": 1})
  assert plain != sweep.config_hash({"y": {"z": 3}, "x": 1})


@pytest.mark.parametrize(
  "body, arg, message",
  [
    ("return []", "arg", "its sweep has no runs"),
    ("yield 3", "arg", "sweep gave 3: each run must be a dict"),
    ("return param('seed', [1, 1])", "", "two runs of its sweep are the same"
     r".*'seed=1' and 'seed=1'"),
    ("return [{'system': 'sliding_window'}, {'seed': 0}]", "",
     "'system=sliding_window' and 'seed=0'"),
    ("return param('sede', [1])", "", r"run \{'sede': 1\}.*unknown config arg"),
    ("return param('config.sede', [1])", "", "unknown field sede: .*'seed'"),
    ("return param('config.model.dimm', [1])", "", "Did you mean 'dim'"),
    ("return param('config.chunk.x', [1])", "", "unknown field chunk.x"),
    ("return param('config.chunk', [7])", "", "chunk=7 must divide length=64"),
    ("return param('config.chunk', ['a'])", "", "chunk='a'"),
    ("return param('system', ['a,b'])", "", "one value, without commas"),
    ("return param('seed', [None])", "", "None cannot be a setting"),
  ],
)  # fmt: skip
def test_bad_sweeps(tmp_path, body, arg, message):
  with pytest.raises(ValueError, match=message):
    sweep.runs(experiment(tmp_path, body, arg))


def test_no_such_experiment():
  with pytest.raises(ValueError, match="Did you mean 'recall'"):
    sweep.runs("recal")
  with pytest.raises(ValueError, match=r"any_task has no function sweep\(arg"):
    sweep.runs("any_task")


def test_shares_are_disjoint_and_complete():
  runs = list(range(11))
  shares = [sweep.share(runs, index, 3) for index in range(3)]
  assert sorted(sum(shares, [])) == runs
  assert max(map(len, shares)) - min(map(len, shares)) == 1
  assert sweep.share(runs, 12, 13) == []
  for index, of in ((3, 3), (-1, 3), (0, 0)):
    with pytest.raises(ValueError, match="must (lie in 0|be at least 1)"):
      sweep.share(runs, index, of)


@pytest.mark.parametrize("name", sorted(registry.experiments()))
def test_every_tiny_sweep_of_an_experiment(name):
  module, _, _ = registry.load_experiment(name)
  if hasattr(module, "sweep"):
    assert 2 <= len(sweep.runs(f"{name}:tiny")) <= 8
