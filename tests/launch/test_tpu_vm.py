"""launch/tpu_vm.sh against a gcloud whose slice waits, fails and is lost."""

import shlex
import subprocess

import pytest
from fakes import Fakes

WHERE = ["--name=sweep", "--zone=us-west4-a", "--poll=0"]
RUN = ["run", *WHERE, "--topology=v5e:4x4", "--config=recall:hard",
       "--out=/mnt/mattt/a b"]  # fmt: skip
ACTIVE = ["ACTIVE"]


@pytest.fixture
def fakes(tmp_path):
  return Fakes(tmp_path / "fakes", now=None, lives=[ACTIVE])


def verbs(fakes):
  """create, describe, ..., with setting up and running told apart."""
  names = []
  for call in fakes.calls("gcloud"):
    verb = call[3]
    if verb == "ssh":
      verb = "setup" if "setup_host.sh" in call[-1] else "run"
    names.append(verb)
  return [name for name in names if name != "describe"]


def test_from_nothing_to_the_end(fakes):
  states = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  fakes.world(now=None, lives=[states])
  done = fakes.run("tpu_vm.sh", *RUN, "--spot", "--bucket=b", "--delete")
  assert done.returncode == 0, done.stderr
  assert verbs(fakes) == ["create", "scp", "setup", "run", "delete"]
  create = next(c for c in fakes.calls("gcloud") if c[3] == "create")
  assert create[:5] == [
    "compute",
    "tpus",
    "queued-resources",
    "create",
    "sweep",
  ]
  assert set(create[5:]) == {
    "--node-id=sweep", "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite", "--zone=us-west4-a", "--spot",
  }  # fmt: skip
  for state in states:
    assert f"sweep: {state}\n" in done.stderr


def test_one_that_is_there_is_used_again(fakes):
  fakes.world(now=ACTIVE, lives=[])
  assert fakes.run("tpu_vm.sh", *RUN).returncode == 0
  assert verbs(fakes) == ["scp", "setup", "run"]
  assert fakes.run("tpu_vm.sh", *RUN).returncode == 0  # and again
  assert verbs(fakes) == 2 * ["scp", "setup", "run"]


def test_the_remote_command_is_quoted_once(fakes, tmp_path):
  """The shell on the worker sees the words that were given here."""
  words = ["printf", "%s\n", 'it\'s "here"', "$HOME", "a;b", "x  y"]
  fakes.run("tpu_vm.sh", *RUN, "--", *words)
  remote = next(
    call[-1].removeprefix("--command=")
    for call in fakes.calls("gcloud")
    if call[3] == "ssh" and "setup_host" not in call[-1]
  )
  (tmp_path / ".mattt.env").write_text("SECRET=1\n")
  done = subprocess.run(
    ["bash", "-c", remote],
    env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == words[2:]


def test_the_sweep_is_what_all_hosts_do_together(fakes):
  fakes.run("tpu_vm.sh", *RUN)
  remote = fakes.calls("gcloud")[-1]
  assert "--worker=all" in remote
  sweep = shlex.split(remote[-1].removeprefix("--command="))
  at = sweep.index("mattt")
  assert sweep[at : at + 5] == [
    "mattt", "sweep", "--config=recall:hard", "--out=/mnt/mattt/a b",
    "--together",
  ]  # fmt: skip


@pytest.mark.parametrize(
  "ssh, lives, expected",
  [
    # Preempted: the connection goes first, the state follows.
    ([(255, ["ACTIVE", "SUSPENDING", "SUSPENDED"])], [ACTIVE],
     ["run", "delete", "create", "scp", "setup", "run"]),
    # It saved and made way; and then is gone altogether.
    ([(42, ["SUSPENDED"])], [ACTIVE],
     ["run", "delete", "create", "scp", "setup", "run"]),
    ([(255, ["GONE"])], [ACTIVE], ["run", "create", "scp", "setup", "run"]),
    # A peer was lost, so the command failed; the slice is going.
    ([(1, ["SUSPENDING", "SUSPENDED"])], [ACTIVE],
     ["run", "delete", "create", "scp", "setup", "run"]),
    # Only the connection was lost.
    ([(255, None)], [], ["run", "scp", "setup", "run"]),
    # Killed, and twice in a row.
    ([(137, None), (42, None)], [], 2 * ["run", "scp", "setup"] + ["run"]),
  ],
)  # fmt: skip
def test_it_goes_on_after(fakes, ssh, lives, expected):
  fakes.world(now=ACTIVE, lives=lives, ssh=ssh)
  done = fakes.run("tpu_vm.sh", *RUN)
  assert done.returncode == 0, done.stderr
  # (That gcloud fails to reach what is not active is tried again as well.)
  found = verbs(fakes)
  assert found[:2] == ["scp", "setup"]
  assert found[2:] == expected


def test_setting_up_is_tried_again(fakes):
  fakes.world(now=ACTIVE, lives=[], setup=[(0, None), (255, None)])
  assert fakes.run("tpu_vm.sh", *RUN).returncode == 0
  assert verbs(fakes) == ["scp", "setup", "scp", "setup", "run"]


def test_a_command_that_fails_is_not_repeated(fakes):
  fakes.world(now=ACTIVE, lives=[], ssh=[(3, None)])
  done = fakes.run("tpu_vm.sh", *RUN, "--delete")
  assert done.returncode == 3
  assert "the command failed (exit code 3)" in done.stderr
  assert verbs(fakes) == ["scp", "setup", "run", "delete"]  # costs no more


def test_restarts_have_an_end(fakes):
  fakes.world(now=ACTIVE, lives=[], ssh=[(42, None)] * 9)
  done = fakes.run("tpu_vm.sh", *RUN, "--max-restarts=2", "--delete")
  assert done.returncode == 1
  assert verbs(fakes).count("run") == 3
  assert verbs(fakes)[-1] == "delete"
  assert "given up after 2 restarts" in done.stderr


def test_creation_that_fails(fakes):
  fakes.world(now=None, lives=[["FAILED"]] * 2 + [ACTIVE])
  assert fakes.run("tpu_vm.sh", "up", *WHERE, "--topology=v5e:4x4"
                   ).returncode == 0  # fmt: skip
  assert verbs(fakes) == ["create", "delete", "create", "delete", "create"]
  fakes.world(now=None, lives=[["FAILED"]] * 9)
  done = fakes.run("tpu_vm.sh", "up", *WHERE, "--topology=v5e:4x4")
  assert done.returncode == 2 and "could not be created, 4 times" in done.stderr
  fakes.world(now=None, lives=[])  # no quota
  done = fakes.run("tpu_vm.sh", *RUN)
  assert done.returncode == 2 and "could not be created" in done.stderr


def test_status_and_delete(fakes):
  assert fakes.run("tpu_vm.sh", "status", *WHERE).stdout == "ABSENT\n"
  assert fakes.run("tpu_vm.sh", "delete", *WHERE).returncode == 0
  assert verbs(fakes) == []  # nothing to delete
  fakes.world(now=["PROVISIONING"], lives=[])
  assert fakes.run("tpu_vm.sh", "status", *WHERE).stdout == "PROVISIONING\n"
  assert fakes.run("tpu_vm.sh", "delete", *WHERE).returncode == 0
  assert verbs(fakes) == ["delete"]


def test_a_state_that_cannot_be_read_creates_nothing(fakes):
  fakes.world(now=None, lives=[ACTIVE], broken=True)
  done = fakes.run("tpu_vm.sh", *RUN)
  assert done.returncode == 2
  assert "do not have permission" in done.stderr
  assert verbs(fakes) == []
  fakes.world(now=["ODD"], lives=[])
  done = fakes.run("tpu_vm.sh", *RUN)
  assert done.returncode == 2 and "state that is not known: ODD" in done.stderr


def test_secrets_are_copied_and_not_shown(fakes, tmp_path):
  path = tmp_path / "env"
  path.write_text("WANDB_API_KEY=s3cret\n")
  done = fakes.run("tpu_vm.sh", *RUN, f"--env-file={path}")
  assert done.returncode == 0
  assert "s3cret" not in done.stdout + done.stderr
  copied = [c for c in fakes.calls("gcloud") if c[3] == "scp"]
  assert copied[-1][4:6] == [str(path), "sweep:~/.mattt.env"]
  assert "s3cret" not in str(fakes.calls("gcloud"))


@pytest.mark.parametrize(
  "args, message",
  [
    ([], "the first word must be run, up, status or delete, not ''"),
    (["go"], "not 'go'"),
    (["run", "now"], "unexpected argument now"),
    (["run"], "--name is missing: add --name=sweep"),
    (["run", "--name=Sweep", "--zone=z"], "--name=Sweep must be at most 40"),
    (["run", "--name=a;b", "--zone=z"], "--name=a;b must be"),
    (["run", "--name=s"], "--zone is missing"),
    (["run", *WHERE], "--topology is missing: add --topology=v5e:4x4"),
    (["run", *WHERE, "--topology=v9:4x4"], "unknown chip v9"),
    (["run", *WHERE, "--topology=v5e"], "must be CHIP:SHAPE"),
    (["run", *WHERE, "--topology=2*v5e:4x4"], "use launch/xpk.sh"),
    (["run", *WHERE, "--topology=v5e:4x4"], "--config is missing"),
    (["run", *WHERE, "--poll=x"], "--poll=x must be a whole number"),
    (["run", "--nmae=s"], "unknown option --nmae: there are --name --zone"),
    (["run", "--name"], "--name needs a value"),
    ([*RUN, "--env-file=/absent"], "--env-file=/absent: no such file"),
  ],
)
def test_mistakes(fakes, args, message):
  done = fakes.run("tpu_vm.sh", *args)
  assert done.returncode == 2
  assert done.stderr.startswith("tpu_vm.sh: error: ")
  assert message in done.stderr
  assert fakes.calls("gcloud") == []
