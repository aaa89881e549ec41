"""Weights & Biases, as a stand-in: no network, no account."""

import json
import logging
import sys
import types

import pytest
from tiny import experiment

from mattt_jax.commands import cli
from mattt_jax.devices import processes
from mattt_jax.training import metrics, trackers
from mattt_jax.training import workdir as workdir_lib


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
  monkeypatch.setenv(trackers.VARIABLE, "")


@pytest.fixture
def wandb(monkeypatch):
  """The part of wandb that is used; `calls` says how."""
  fake = types.ModuleType("wandb")
  fake.calls = []
  fake.fails = {}

  class Run:
    def __getattr__(self, name):
      def call(*args, **kwargs):
        if name in fake.fails:
          raise fake.fails[name]
        fake.calls.append((name, args, kwargs))

      return call

  def init(**kwargs):
    if "init" in fake.fails:
      raise fake.fails["init"]
    fake.calls.append(("init", (), kwargs))
    return Run()

  fake.init = init
  monkeypatch.setitem(sys.modules, "wandb", fake)
  return fake


def test_off_by_default_and_not_even_imported(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an error
  writer = metrics.MetricsWriter(tmp_path, 0)
  writer.write(1, "train", {"loss": 2.0})
  writer.close()
  assert list((tmp_path / "tensorboard").iterdir())
  assert not (tmp_path / trackers.ID_FILE).exists()


def test_it_gets_what_tensorboard_gets(tmp_path, monkeypatch, wandb):
  monkeypatch.setenv("WANDB_PROJECT", "")
  workdir_lib.bind(tmp_path / "a" / "b", experiment())
  trackers.choose("wandb")
  for step in (3, 2):  # resumed from an earlier checkpoint
    writer = metrics.MetricsWriter(tmp_path / "a" / "b", 0)
    writer.write(
      step, "evaluation", {"lengths": {"32": {"loss": 2, "n": None}}}
    )
    writer.close()
  inits = [kwargs for name, _, kwargs in wandb.calls if name == "init"]
  assert inits[0] == inits[1]  # one run there
  assert len(inits[0]["id"]) == 16 and inits[0]["resume"] == "allow"
  assert inits[0]["name"] == "a/b" and inits[0]["project"] == "mattt"
  assert inits[0]["config"]["length"] == 32
  logged = [args for name, args, _ in wandb.calls if name == "log"]
  assert logged == [
    ({"outer_step": step, "evaluation/lengths/32/loss": 2.0},)
    for step in (3, 2)
  ]
  defined = [a for a in wandb.calls if a[0] == "define_metric"]
  assert ("define_metric", ("*",), {"step_metric": "outer_step"}) in defined
  finished = [kwargs for name, _, kwargs in wandb.calls if name == "finish"]
  assert finished == [{"exit_code": 0}] * 2


def test_one_process_of_many_tracks(tmp_path, wandb, monkeypatch):
  trackers.choose("wandb")
  monkeypatch.setattr(processes, "is_first", lambda: False)
  writer = metrics.MetricsWriter(tmp_path, 0)
  writer.write(1, "train", {"loss": 1.0})
  writer.close()
  assert wandb.calls == []


def test_a_run_that_fails_is_marked_so(tmp_path, wandb):
  trackers.choose("wandb")
  writer = metrics.MetricsWriter(tmp_path, 0)
  with pytest.raises(ZeroDivisionError):
    try:
      raise ZeroDivisionError
    finally:
      writer.close()
  assert wandb.calls[-1] == ("finish", (), {"exit_code": 1})


def test_a_network_that_fails_does_not_end_the_run(tmp_path, wandb, caplog):
  trackers.choose("wandb")
  writer = metrics.MetricsWriter(tmp_path, 0)
  writer.write(1, "train", {"loss": 3.0})
  wandb.fails["log"] = OSError("no route")
  wandb.fails["finish"] = OSError("no route still")
  with caplog.at_level(logging.WARNING):
    for step in (2, 3):
      writer.write(step, "train", {"loss": 2.0})
    writer.close()
  assert caplog.messages == [
    "wandb is left out from step 2 on: no route",
    "wandb did not end well: no route still",
  ]
  rows = metrics.read_rows(tmp_path / metrics.METRICS_FILE)
  assert [row["step"] for row in rows] == [1, 2, 3]


def test_secrets_are_not_shown(tmp_path, monkeypatch, wandb, capsys, caplog):
  monkeypatch.setenv("WANDB_API_KEY", "hunter22")
  monkeypatch.setenv("HF_TOKEN", "tok-123456")
  wandb.fails["init"] = ValueError("key hunter22 refused, nor tok-123456")
  trackers.choose("wandb")
  with pytest.raises(RuntimeError) as caught:
    metrics.MetricsWriter(tmp_path, 0)
  text = str(caught.value)
  assert "key <WANDB_API_KEY> refused, nor <HF_TOKEN>" in text
  assert "hunter22" not in text and caught.value.__suppress_context__
  del wandb.fails["init"]
  writer = metrics.MetricsWriter(tmp_path, 0)
  wandb.fails["log"] = ValueError("hunter22")
  writer.write(1, "train", {"loss": 1.0})
  out = "".join(capsys.readouterr()) + caplog.text + json.dumps(wandb.calls)
  assert "hunter22" not in out


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(
  "tracker, message",
  [
    ("wandb", "needs the package wandb: pip install 'mattt-jax[wandb]'"),
    ("tensorbored", "tracker='tensorbored' is not known: use one of none, w"),
  ],
)
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_mistakes_come_before_training(
  tmp_path, monkeypatch, capsys, command, tracker, message, how
):
  monkeypatch.setitem(sys.modules, "wandb", None)
  argv = {
    "train": ["--config=recall:tiny", f"--workdir={tmp_path}/w"],
    "sweep": ["--config=recall:tiny", f"--out={tmp_path}/w"],
  }[command]
  if how == "flag":
    argv.append(f"--tracker={tracker}")
  else:
    monkeypatch.setenv(trackers.VARIABLE, tracker)
  assert cli.main([command, *argv]) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "w").exists()


def test_the_choice_reaches_the_workers_of_a_sweep(monkeypatch, wandb):
  from mattt_jax.sweeps import runner

  trackers.choose("wandb")
  assert runner._environment(0, 2)[trackers.VARIABLE] == "wandb"
  trackers.choose("none")
  assert runner._environment(0, 2)[trackers.VARIABLE] == "none"
