"""What holds for every script of launch/; and those for one's own machines."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from fakes import LAUNCH, ROOT, Fakes

SCRIPTS = sorted(
  path.name
  for path in LAUNCH.iterdir()
  if path.suffix in (".sh", ".sbatch") and path.name != "common.sh"
)
# Enough of a command line for each to say what it would do.
DRY = {
  "local.sh": ["--config=recall"],
  "setup_host.sh": ["--extra=tpu", "--bucket=b", "--mount=/absent"],
  "slurm.sbatch": ["--config=recall"],
  "tpu_vm.sh": ["run", "--name=s", "--zone=z", "--topology=v5e:4x4",
                "--config=recall", "--out=o", "--delete", "--poll=0"],
  "xpk.sh": ["submit", "--name=s", "--topology=v5e:4x4", "--image=i",
             "--config=recall", "--out=o"],
}  # fmt: skip


@pytest.fixture
def fakes(tmp_path):
  return Fakes(tmp_path / "fakes", jobsets={}, now=None, lives=[])


def test_there_are_these():
  assert SCRIPTS == sorted(DRY)


def test_shellcheck_is_silent():
  beside = pathlib.Path(sys.executable).parent
  program = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
  assert program, "pip install 'mattt-jax[test]' brings shellcheck"
  files = [LAUNCH / name for name in (*SCRIPTS, "common.sh")]
  done = subprocess.run(
    [program, "--external-sources", *files],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_the_comment_at_the_top(fakes, name):
  done = fakes.run(name, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  lines = (LAUNCH / name).read_text().splitlines()
  assert done.stdout.splitlines()[0] == lines[1].removeprefix("# ")
  assert "#SBATCH" not in done.stdout and "set -e" not in done.stdout
  # Every option that it takes is in it, and it takes every one that is in it.
  told = {word.split("=")[0].split("|")[0] for word in done.stdout.split()
          if word.startswith("--") and word != "--"}  # fmt: skip
  refused = fakes.run(name, "--unknown=1").stderr.split("there are ")[1].split()
  of_sbatch = {"--array", "--nodes", "--gres", "--partition"}
  told = {word.rstrip(",:)") for word in told} - of_sbatch
  assert told == set(refused) - {"--help"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_dry_run_changes_nothing(fakes, name):
  before = sorted(fakes.directory.iterdir())
  done = fakes.run(name, *DRY[name], "--dry-run")
  assert done.returncode == 0, done.stderr
  for program in ("gcloud", "kubectl", "xpk", "srun", "scontrol", "sudo"):
    assert fakes.calls(program) == []
  assert "+ " in done.stderr
  left = [p for p in fakes.directory.iterdir() if p not in before]
  assert left == []


@pytest.mark.parametrize(
  "name, action",
  [("tpu_vm.sh", action) for action in ("up", "status", "delete")]
  + [("xpk.sh", action) for action in ("status", "wait", "delete")],
)
def test_looking_at_what_is_there_is_shown_too(fakes, name, action):
  """No word of what a cloud that was not asked would have said."""
  flags = [flag for flag in DRY[name] if flag.startswith("--")]
  done = fakes.run(name, action, *flags, "--dry-run")
  assert (done.returncode, done.stdout) == (0, ""), done.stderr
  asks = "queued-resources describe" if name == "tpu_vm.sh" else "get jobset"
  assert action == "delete" or asks in done.stderr
  assert fakes.calls("gcloud") == fakes.calls("kubectl") == []


def test_commands_are_shown_as_a_shell_reads_them(fakes):
  out = "/a dir/$x'"
  done = fakes.run("local.sh", "--config=recall", f"--out={out}", "--dry-run")
  line = done.stderr.splitlines()[-1].removeprefix("+ ")
  assert shlex.split(line) == [
    "mattt", "sweep", "--config=recall", f"--out={out}", "--workers=1"
  ]  # fmt: skip


@pytest.fixture
def venv(tmp_path):
  """One that setup_host.sh finds ready."""
  path = tmp_path / "venv"
  (path / "bin").mkdir(parents=True)
  for program in ("python", "pip"):
    pip = path / "bin" / program
    pip.write_text(f'#!/bin/sh\necho {program} "$@" >>{tmp_path}/made\n')
    pip.chmod(0o755)
  return path


def set_up_with(fakes, venv):
  """A python3.11 that makes nothing but says so."""
  python = fakes.bin / "python3.13"
  python.write_text(
    f'#!/bin/sh\n[ "$1" = -c ] || echo venv "$@" >>{venv.parent}/made\n'
  )
  python.chmod(0o755)


def test_a_host_is_set_up_once(fakes, venv):
  set_up_with(fakes, venv)
  made = venv.parent / "made"
  flags = [f"--venv={venv}", "--extra=tpu"]
  for _ in range(2):
    done = fakes.run("setup_host.sh", *flags)
    assert done.returncode == 0, done.stderr
  assert "is ready" in done.stderr
  assert [line.split()[0] for line in made.read_text().splitlines()] == [
    "venv", "pip"
  ]  # fmt: skip
  assert f"-c {ROOT}/requirements.lock -e {ROOT}[tpu]" in made.read_text()
  fakes.run("setup_host.sh", f"--venv={venv}", "--extra=cpu")  # another one
  assert len(made.read_text().splitlines()) == 4
  done = fakes.run("setup_host.sh", "--extra=gpu")
  assert done.returncode == 2
  assert "--extra=gpu must be cpu, tpu or cuda" in done.stderr


def test_a_bucket_is_mounted(fakes, venv, tmp_path):
  set_up_with(fakes, venv)
  flags = [f"--venv={venv}", "--bucket=b", f"--mount={tmp_path}/m"]
  assert fakes.run("setup_host.sh", *flags).returncode == 0
  assert fakes.calls("gcsfuse") == [["--implicit-dirs", "b", f"{tmp_path}/m"]]
  flags[-1] = "--mount=/proc"  # something is mounted there
  assert fakes.run("setup_host.sh", *flags).returncode == 0
  assert len(fakes.calls("gcsfuse")) == 1


@pytest.mark.parametrize(
  "codes, restarts, code, calls",
  [([], 5, 0, 1), ([42, 42], 5, 0, 3), ([1], 5, 1, 1), ([42] * 9, 2, 2, 3)],
)
def test_local_goes_on_after_a_preemption(
  fakes, venv, codes, restarts, code, calls
):
  set_up_with(fakes, venv)
  fakes.world(codes={"mattt": codes})
  done = fakes.run(
    "local.sh", "--config=recall", f"--venv={venv}",
    f"--max-restarts={restarts}", "--workers=3",
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  expected = ["sweep", "--config=recall", "--out=runs/sweep", "--workers=3"]
  assert fakes.calls("mattt") == calls * [expected]


SLURM = dict(SLURM_ARRAY_TASK_ID="5", SLURM_ARRAY_TASK_MIN="4",
             SLURM_ARRAY_TASK_COUNT="3", SLURM_JOB_ID="77")  # fmt: skip


def test_slurm_shares_the_runs_out(fakes):
  done = fakes.run("slurm.sbatch", "--config=recall", "--out=/o", **SLURM)
  assert done.returncode == 0, done.stderr
  [call] = fakes.calls("srun")
  assert call == [
    "--kill-on-bad-exit=1", "mattt", "sweep", "--config=recall", "--out=/o",
    "--workers=1", "--index=1", "--of=3",
  ]  # fmt: skip
  fakes.run("slurm.sbatch", "--config=recall", SLURM_JOB_NUM_NODES="2")
  assert fakes.calls("srun")[-1][-3:] == ["--index=0", "--of=1", "--together"]
  assert fakes.calls("scontrol") == []


def test_slurm_puts_a_preempted_job_back(fakes):
  fakes.world(codes={"srun": [42, 3]})
  flags = ["slurm.sbatch", "--config=recall"]
  assert fakes.run(*flags, **SLURM).returncode == 0
  assert fakes.calls("scontrol") == [["requeue", "77"]]
  assert fakes.run(*flags, **SLURM).returncode == 3  # a failure is one
  assert len(fakes.calls("scontrol")) == 1


def test_slurm_hands_sigterm_on_and_waits(fakes):
  """srun saves, which takes a while, then leaves with 42."""
  (fakes.bin / "srun").write_text(
    f"#!/bin/bash\ntrap 'sleep 0.3; touch {fakes.directory}/saved; exit 42' "
    f"TERM\ntouch {fakes.directory}/ready\nwhile :; do sleep 0.05; done\n"
  )
  process = subprocess.Popen(
    [LAUNCH / "slurm.sbatch", "--config=recall"],
    env=os.environ | SLURM | {
      "FAKES": str(fakes.directory), "PATH": f"{fakes.bin}:{os.environ['PATH']}"
    },
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  while not (fakes.directory / "ready").exists():
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == 0
  assert (fakes.directory / "saved").exists()
  assert fakes.calls("scontrol") == [["requeue", "77"]]


def test_slurm_says_where_to_call_it(fakes, tmp_path):
  done = fakes.run("slurm.sbatch", SLURM_SUBMIT_DIR=str(tmp_path))
  assert done.returncode == 2
  assert "is not the checkout" in done.stderr


@pytest.mark.skipif(
  not shutil.which("gcloud"), reason="gcloud is not installed here"
)
def test_gcloud_knows_every_flag(fakes, tmp_path):
  """Its own linter, which asks nobody."""
  done = fakes.run("tpu_vm.sh", *DRY["tpu_vm.sh"], "--spot", "--dry-run")
  lines = [line.removeprefix("+ ") for line in done.stderr.splitlines()]
  commands = [line for line in lines if line.startswith("gcloud ")]
  verbs = [line.split()[4] for line in commands]
  assert verbs == ["describe", "create", "describe", "scp", "ssh", "ssh",
                   "delete"]  # fmt: skip
  path = tmp_path / "commands.json"
  path.write_text(json.dumps([{"command_string": c} for c in commands]))
  done = subprocess.run(
    ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={path}"],
    env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "config")},
    capture_output=True,
    text=True,
  )
  if done.returncode:
    pytest.skip(f"this gcloud has no such linter: {done.stderr[-200:]}")
  found = json.loads(done.stdout)
  errors = [one["error_message"] for one in found]
  assert errors == [None] * len(set(commands))


def test_the_image_has_what_the_manifest_calls():
  text = pathlib.Path(LAUNCH / "Dockerfile").read_text()
  assert "requirements.lock" in text and "[tpu]" in text


def test_the_image_has_nothing_else():
  """Neither environments nor data, nor the keys of --env-file."""
  left_out = (ROOT / ".dockerignore").read_text().split()
  made = (ROOT / ".gitignore").read_text().split()
  hidden = {name for name in made if name.startswith(".")}
  assert ".*" in left_out and "*.env" in left_out
  rest = {name.strip("/") for name in made} - {x.strip("/") for x in hidden}
  assert {"data", "runs"} <= rest - {"__pycache__", "*.egg-info"}
  assert rest - {"__pycache__", "*.egg-info"} <= set(left_out)
