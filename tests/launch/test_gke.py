"""JobSets: the manifest against a strict schema, xpk.sh against fakes."""

import copy
import json
import pathlib
import shlex
import subprocess
import sys

import jsonschema
import pytest
import yaml
from fakes import LAUNCH, Fakes

SCHEMA = json.loads(
  pathlib.Path(__file__).with_name("jobset_schema.json").read_text()
)
GIVEN = ["--name=sweep", "--topology=v5e:4x4", "--image=registry/mattt:1",
         "--config=recall:hard", "--out=/mnt/mattt/x"]  # fmt: skip


@pytest.fixture
def fakes(tmp_path):
  return Fakes(tmp_path / "fakes", jobsets={})


def render(*args, code=0):
  done = subprocess.run(
    [sys.executable, LAUNCH / "render_jobset.py", *args],
    capture_output=True,
    text=True,
  )
  assert done.returncode == code, done.stderr
  return done.stderr if code else yaml.safe_load(done.stdout)


def full(*args):
  return render(
    "--name=sweep", "--image=i:1", "--bucket=b", "--secret=wandb", "--spot",
    "--queue=lq", "--service-account=sa", *args, "--", "mattt", "sweep",
  )  # fmt: skip


@pytest.mark.parametrize(
  "topology, accelerator, shape, slices, hosts",
  [
    ("v5e:4x4", "tpu-v5-lite-podslice", "4x4", 1, 4),
    ("v5e:2x2", "tpu-v5-lite-podslice", "2x2", 1, 1),
    ("2*v6e:8x8", "tpu-v6e-slice", "8x8", 2, 16),
    ("v5p:2x2x2", "tpu-v5p-slice", "2x2x2", 1, 2),
    ("v4:2x2x4", "tpu-v4-podslice", "2x2x4", 1, 4),
    ("tpu7x:4x4x4", "tpu7x", "4x4x4", 1, 16),
  ],
)
def test_a_job_for_each_slice_and_a_pod_for_each_host(
  topology, accelerator, shape, slices, hosts
):
  found = full(f"--topology={topology}")
  jsonschema.validate(found, SCHEMA)
  [job] = found["spec"]["replicatedJobs"]
  assert job["replicas"] == slices
  spec = job["template"]["spec"]
  assert spec["parallelism"] == spec["completions"] == hosts
  pod = spec["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": accelerator,
    "cloud.google.com/gke-tpu-topology": shape,
    "cloud.google.com/gke-spot": "true",
  }
  [container] = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert container["command"] == ["mattt", "sweep"]


def test_exit_code_42_starts_again_and_2_does_not():
  spec = full("--max-restarts=7")["spec"]
  assert spec["failurePolicy"]["maxRestarts"] == 7
  # A Job that fails by its exit codes ends the set; otherwise it starts again.
  [rule] = spec["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  assert job["backoffLimit"] == 0
  [policy] = job["podFailurePolicy"]["rules"]
  codes = policy["onExitCodes"]
  assert policy["action"] == "FailJob" and codes["operator"] == "NotIn"
  assert codes["containerName"] == "mattt"
  assert {42, 137, 143, 255} <= set(codes["values"])
  assert not {0, 1, 2, 126} & set(codes["values"])


def test_without_what_is_optional():
  found = render("--name=s", "--image=i", "--", "true")
  jsonschema.validate(found, SCHEMA)
  pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
  assert pod["spec"]["volumes"] == []
  assert pod["metadata"] == {"labels": {"app": "mattt"}, "annotations": {}}
  assert "gke-spot" not in json.dumps(found)


def test_words_reach_the_container_as_they_are():
  words = ['it\'s "here"', "${name}", "$HOME", "a: b", "# no", "", "\n", "ü"]
  found = render("--name=s", "--image=i", "--", *words)
  pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
  assert pod["spec"]["containers"][0]["command"] == words


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda d: d.update(kind="Job"), "'JobSet' was expected"),
    (lambda d: d["spec"].update(maxRestart=1), "'maxRestart' was unexpected"),
    (lambda d: d["spec"]["failurePolicy"].update(maxRestarts="7"),
     "'7' is not"),
    (lambda d: d["spec"]["failurePolicy"]["rules"][0].pop("name"), "'name' is"),
    (lambda d: d["metadata"].update(name="Sweep"), "'Sweep' does not match"),
    (lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"][
      "podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=[0]),
      "0 is less than the minimum"),
  ],
)  # fmt: skip
def test_the_schema_is_strict(change, message):
  found = copy.deepcopy(full())
  change(found)
  with pytest.raises(jsonschema.ValidationError, match=message):
    jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
  "args, message",
  [
    (["--name=My_Sweep"], "--name='My_Sweep' must be at most 40"),
    (["--name=" + "a" * 41], "must be at most 40"),
    (["--secret=S"], "--secret='S' must be"),
    (["--topology=v9:2x2"], "unknown chip 'v9'"),
    (["--topology=v5e:3x3"], "shape"),
    (["--topology=v5e:1x1"], "1 chips are no whole hosts of 4"),
    (["--topology=cpu:8"], "GKE has no such TPU"),
    (["--mount=runs"], "--mount='runs' must start with /"),
    (["--image="], "--image is missing"),
    (["--max-restarts=many"], "invalid int value"),
  ],
)
def test_mistakes_in_a_manifest(args, message):
  assert message in render("--image=i", *args, "--", "true", code=2)
  assert "there is no command" in render("--image=i", code=2)


def test_submit_is_idempotent(fakes):
  submit = ["submit", *GIVEN, "--shares=2", "--bucket=b"]
  done = fakes.run("xpk.sh", *submit)
  assert done.returncode == 0, done.stderr
  first, second = map(yaml.safe_load, fakes.world()["applied"])
  for number, found in enumerate((first, second)):
    jsonschema.validate(found, SCHEMA)
    assert found["metadata"]["name"] == f"sweep-{number}"
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["spec"]["containers"][0]["command"] == [
      "mattt", "sweep", "--config=recall:hard", "--out=/mnt/mattt/x",
      "--together", f"--index={number}", "--of=2",
    ]  # fmt: skip

  # Now one runs, the other has failed: that one alone is submitted anew.
  fakes.world(jobsets={"sweep-0": ["", "false", 3],
                       "sweep-1": ["Failed", "false", 9]})  # fmt: skip
  done = fakes.run("xpk.sh", *submit)
  assert done.returncode == 0, done.stderr
  assert "sweep-0 is there: Running 3\n" in done.stderr
  [again] = map(yaml.safe_load, fakes.world()["applied"])
  assert again["metadata"]["name"] == "sweep-1"
  deleted = [c for c in fakes.calls("kubectl") if c[0] == "delete"]
  assert [call[2] for call in deleted] == ["sweep-1"]

  fakes.world(jobsets={"sweep-0": ["Completed", "false", 3],
                       "sweep-1": ["", "true", 0]})  # fmt: skip
  done = fakes.run("xpk.sh", *submit)
  assert "applied" not in fakes.world()
  assert "sweep-0 is there: Completed 3\n" in done.stderr
  assert "sweep-1 is there: Suspended 0\n" in done.stderr


def test_wait_and_status(fakes):
  running, suspended = ["", "false", 0], ["", "true", 0]
  names = ["--name=sweep", "--poll=0"]
  fakes.world(jobsets={"sweep": [suspended, running, ["Completed", "", 2]]})
  done = fakes.run("xpk.sh", "wait", *names)
  assert (done.returncode, done.stdout) == (0, "sweep  Completed 2\n")
  fakes.world(jobsets={"sweep": [running, ["Failed", "", 2]]})
  done = fakes.run("xpk.sh", "wait", *names)
  assert (done.returncode, done.stdout) == (1, "sweep  Failed 2\n")
  fakes.world(jobsets={"sweep-1": running})
  done = fakes.run("xpk.sh", "status", *names, "--shares=2")
  assert done.stdout == "sweep-0  ABSENT\nsweep-1  Running 0\n"
  assert fakes.run("xpk.sh", "wait", *names).returncode == 1  # not there
  fakes.world(jobsets={}, broken=True)
  done = fakes.run("xpk.sh", "status", *names)
  assert done.returncode == 2 and "is not known: kubectl failed" in done.stderr
  done = fakes.run("xpk.sh", "submit", *GIVEN)
  assert done.returncode == 2 and "applied" not in fakes.world()


def test_delete(fakes):
  fakes.world(jobsets={"sweep": ["", "", 0]})
  for _ in range(2):
    assert fakes.run("xpk.sh", "delete", "--name=sweep").returncode == 0
  assert fakes.world()["jobsets"] == {}


def test_with_xpk(fakes):
  submit = ["submit", *GIVEN, "--with=xpk"]
  done = fakes.run("xpk.sh", *submit)
  assert done.returncode == 2 and "--cluster is missing" in done.stderr
  done = fakes.run("xpk.sh", *submit, "--cluster=c", "--zone=z", "--spot",
                   "--storage=runs", "--topology=2*v5p:2x2x2")  # fmt: skip
  assert done.returncode == 0, done.stderr
  [call] = fakes.calls("xpk")
  assert call[:2] == ["workload", "create"]
  assert set(call[2:-1]) == {
    "--workload=sweep", "--cluster=c", "--zone=z", "--tpu-type=v5p-16",
    "--num-slices=2", "--docker-image=registry/mattt:1", "--max-restarts=50",
    "--restart-on-exit-codes=42", "--termination-grace-period-seconds=120",
    "--storage=runs", "--spot",
  }  # fmt: skip
  command = shlex.split(call[-1].removeprefix("--command="))
  assert command[:3] == ["mattt", "sweep", "--config=recall:hard"]
  fakes.world(jobsets={"sweep": ["", "false", 0]})
  assert fakes.run("xpk.sh", *submit, "--cluster=c").returncode == 0
  assert len(fakes.calls("xpk")) == 1  # it is there


@pytest.mark.parametrize(
  "args, message",
  [
    ([], "must be submit, render, status, wait or delete, not ''"),
    (["submit"], "--name is missing"),
    (["submit", "--name=s", "--shares=0"], "--shares=0 must be at least 1"),
    (["submit", "--name=s", "--shares=x"], "--shares=x must be a whole number"),
    (["submit", "--name=s", "--with=helm"], "--with=helm must be kubectl or x"),
    (["submit", "--name=s"], "--topology is missing"),
    (["submit", "--name=s", "--topology=v5e:4x4"], "--config is missing"),
    (["submit", "--name=" + "a" * 39, "--shares=2"], "must be at most 40"),
    (["submit", *GIVEN, "--image="], "--image is missing"),
    (["submit", *GIVEN, "--with=xpk", "--cluster=c", "--secret=s"],
     "--secret=s: not with xpk"),
  ],
)  # fmt: skip
def test_mistakes(fakes, args, message):
  done = fakes.run("xpk.sh", *args)
  assert done.returncode == 2, done.stderr
  assert message in done.stderr
  assert not [c for c in fakes.calls("kubectl") if c[0] != "get"]
  assert not fakes.calls("xpk")
