import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import mattt_jax
from mattt_jax import commands, registry
from mattt_jax.commands import cli, evaluate
from mattt_jax.training import preemption

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=experiments/recall.py:tiny"


@pytest.fixture
def trained(monkeypatch):
  """Stands in for the trainer; holds what it was called with."""
  calls = []
  fake = types.ModuleType("trainer")
  fake.train = lambda *args, **settings: calls.append(args)
  monkeypatch.setitem(sys.modules, "mattt_jax.training.trainer", fake)
  import mattt_jax.training

  monkeypatch.setattr(mattt_jax.training, "trainer", fake, raising=False)
  monkeypatch.chdir(ROOT)
  return calls, fake


def run(capsys, *argv):
  """Returns the exit code, stdout and stderr of `mattt ARGV`."""
  code = cli.main(argv)
  return code, *capsys.readouterr()


def run_module(module, *argv, cwd=ROOT):
  return subprocess.run(
    [sys.executable, "-m", module, *argv],
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("command", cli.names())
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_an_example(capsys, command, flag):
  code, out, _ = run(capsys, command, flag)
  assert code == 0
  example = f"mattt {command} {cli.command(command).example}".rstrip()
  assert f"Example:\n  {example}\n" in out
  assert run(capsys, "help", command)[1] == out


def test_help_names_the_flags_that_there_are(capsys):
  _, out, _ = run(capsys, "evaluate", "--help")
  for name in ("config=NAME:ARG", "config.a.b=VALUE", "workdir=...",
               "lengths=...", "split=...", "[no]inner", "out=..."):  # fmt: skip
    assert f"  --{name}" in out
  assert "--lengths" not in run(capsys, "train", "--help")[1]
  assert "--config" not in run(capsys, "demo", "--help")[1]


def test_without_a_command_help_is_printed(capsys):
  code, _, err = run(capsys)
  assert code == 2
  assert all(f"mattt {name} " in err for name in cli.names())
  code, out, _ = run(capsys, "--help")
  assert code == 0
  assert out == err
  assert run(capsys, "--version") == (0, f"{mattt_jax.__version__}\n", "")


def test_an_unknown_command_gets_a_suggestion(capsys):
  code, _, err = run(capsys, "trian", CONFIG)
  assert code == 2
  assert "unknown command 'trian'; did you mean 'train'?" in err
  assert "mattt train " in err
  assert "did you mean" not in run(capsys, "xyzzy")[2]


def test_list_shows_what_is_registered(capsys):
  code, out, _ = run(capsys, "list")
  assert code == 0
  lines = [line.split(maxsplit=1) for line in out.splitlines()]
  for rows in (
    registry.summaries("mattt_jax.tasks"),
    registry.summaries("mattt_jax.memory"),
    {k: registry.summary(p) for k, p in registry.experiments().items()},
  ):
    assert rows
    for name, text in rows.items():
      assert [name, text] in lines


def test_train_hands_the_settings_over(trained, capsys):
  calls, _ = trained
  code = run(
    capsys, "train", CONFIG, "--workdir=w", "--config.model.window=4",
    "--config.eval.lengths=64,128", "--noconfig.inner.enabled",
    "--config.coordination.inner_start=0",
    "--config.coordination.inner_off_share=0.0",
    "--config.outer.learning_rate", "1e-3",
  )[0]  # fmt: skip
  assert code == 0
  [(experiment, workdir)] = calls
  assert workdir == "w"
  assert experiment.model.window == 4
  assert experiment.eval.lengths == (64, 128)
  assert not experiment.inner.enabled
  assert experiment.outer.learning_rate == 1e-3
  assert experiment.length == 64  # of :tiny


@pytest.mark.parametrize(
  "text",
  ["recall:tiny", "recall.py:tiny", "experiments/recall.py:tiny"],
)
def test_an_experiment_is_found_by_name_from_anywhere(
  trained, capsys, tmp_path, monkeypatch, text
):
  calls, _ = trained
  monkeypatch.chdir(tmp_path)
  assert run(capsys, "train", "--config", text, "--workdir=w")[0] == 0
  assert calls[0][0].length == 64


def test_a_file_of_ones_own(trained, capsys, tmp_path):
  calls, _ = trained
  path = tmp_path / "mine.py"
  path.write_text(
    "from mattt_jax.config import template\n"
    "def get_config():\n"
    "  config = template('associative_recall')\n"
    "  config.seed = 7\n"
    "  return config\n"
  )
  assert run(capsys, "train", f"--config={path}", "--workdir=w")[0] == 0
  assert calls[0][0].seed == 7


@pytest.mark.parametrize(
  "argv, message",
  [
    ([], "--config is missing: add --config=recall:tiny"),
    ([CONFIG], "--workdir is missing: add --workdir=runs/recall"),
    (["--config=recal:tiny"], "no file 'recal', and no experiment of that "
     "name: expected one of"),
    (["--config=recal"], "Did you mean 'recall'?"),
    (["--config=/absent/recall.py"], "no file '/absent/recall.py'"),
    (["--config=LICENSE"], "LICENSE is not a Python file"),
    (["--config=mattt_jax/config.py"], "has no function get_config(arg)"),
    (["--config=recall:tyni"], "unknown config argument 'tyni'"),
    (["--config.chunk=8"], "--config.chunk needs --config=NAME to override"),
    ([CONFIG, "--config.model.windwo=3"], "unknown field model.windwo:"),
    ([CONFIG, "--config.model.windwo=3"], "Did you mean 'window'?"),
    ([CONFIG, "--config.modle.window=3"], "unknown field modle:"),
    ([CONFIG, "--noconfig.inner.enable"], "Did you mean 'enabled'?"),
    ([CONFIG, "--config.chunk.x=3"], "unknown field chunk.x: chunk has no "
     "fields"),
    ([CONFIG, "--config.model.window=3.5"], "--config.model.window=3.5:"),
    ([CONFIG, "--config.model.window=wide"], "--config.model.window=wide:"),
    ([CONFIG, "--config.inner.enabled=maybe"], "--config.inner.enabled=maybe:"),
    ([CONFIG, "--config.model=3"], "--config.model=3:"),
    ([CONFIG, "--workdir=w", "--config.eval.lengths=64,x"], "eval.lengths"),
    ([CONFIG, "--workdir=w", "--config.model.window=0"],
     "model.window=0 must be at least 1"),
    ([CONFIG, "--workdir=w", "--config.chunk=48"],
     "chunk=48 must divide length=64: use a length of 48"),
    ([CONFIG, "--workdir=w", "--config.memory.name=episodci"],
     "Did you mean 'episodic'?"),
    ([CONFIG, "--workdir=w", "--config.task.name=recall"],
     "unknown name 'recall' in tasks"),
    ([CONFIG, "--wrokdir=w"], "Unknown command line flag 'wrokdir'. Did you "
     "mean: workdir"),
    ([CONFIG, "--workdir=w", "now"], "unexpected argument 'now'"),
  ],
)  # fmt: skip
def test_an_error_is_one_message_and_exit_code_2(
  trained, capsys, argv, message
):
  code, out, err = run(capsys, "train", *argv)
  assert (code, out) == (2, "")
  assert err.startswith("mattt train: error: ")
  assert message in err
  assert "Traceback" not in err
  assert len(err.splitlines()) == 2
  assert not trained[0]


@pytest.mark.parametrize(
  "error", [ValueError("no room"), RuntimeError("diverged"), OSError("full")]
)
def test_an_error_of_the_trainer_is_one_message(trained, capsys, error):
  def train(*args, **settings):
    raise error

  trained[1].train = train
  code, _, err = run(capsys, "train", CONFIG, "--workdir=w")
  assert code == 2
  assert err.startswith(f"mattt train: error: {error}\n")
  with pytest.raises(type(error)):
    cli.main(["train", CONFIG, "--workdir=w", "--debug"])


def test_a_preempted_run_is_no_error(trained, capsys):
  def train(*args, **settings):
    raise preemption.PreemptedError("step 7 is saved")

  trained[1].train = train
  code, out, err = run(capsys, "train", CONFIG, "--workdir=w")
  assert (code, out, err) == (42, "step 7 is saved\n", "")


def test_errors_show_no_secrets(trained, capsys, monkeypatch):
  monkeypatch.setenv("WANDB_API_KEY", "hunter22")

  def train(*args, **settings):
    raise ValueError("key hunter22 refused")

  trained[1].train = train
  assert (
    "key <WANDB_API_KEY> refused"
    in run(capsys, "train", CONFIG, "--workdir=w")[2]
  )


def test_a_bug_keeps_its_traceback(trained):
  def train(*args, **settings):
    raise TypeError("a bug")

  trained[1].train = train
  with pytest.raises(TypeError, match="a bug"):
    cli.main(["train", CONFIG, "--workdir=w"])


def test_an_interrupt_is_not_an_error(trained, capsys):
  def train(*args, **settings):
    raise KeyboardInterrupt

  trained[1].train = train
  code, _, err = run(capsys, "train", CONFIG, "--workdir=w")
  assert (code, err) == (130, "mattt train: interrupted\n")


@pytest.mark.parametrize(
  "argv, message",
  [
    ([], "--workdir is missing"),
    (["--workdir=w", "--lengths=64,x"], "--lengths='64,x': 'x' must be a "
     "number of tokens (4096), or of training lengths (4x)"),
    (["--workdir=/absent/run"], "workdir=/absent/run: "),
    (["--config=recall:tyni", "--workdir=w"], "unknown config argument"),
  ],
)  # fmt: skip
def test_evaluate_errors(capsys, argv, message):
  code, _, err = run(capsys, "evaluate", *argv)
  assert code == 2
  assert err.startswith("mattt evaluate: error: ")
  assert message in err


@pytest.mark.parametrize(
  "argv, message",
  [
    ((), "--config is missing"),
    ((CONFIG,), "--topology is missing: add --topology=v5e:4x4"),
    ((CONFIG, "--topology=v9:2x2"), "unknown chip 'v9': expected one of v4,"),
    ((CONFIG, "--topology=cpu:2", "--mfu=0"), "--mfu=0.0 must lie in (0, 1]"),
    ((CONFIG, "--topology=cpu:2", "--search=x"), "'x' must be batch or length"),
    ((CONFIG, "--topology=cpu:2", "--memory=0"), "--memory=0.0 must be > 0"),
    ((CONFIG, "--topology=cpu:3"), "batch_size=2 must be divisible by the 3"),
  ],
)
def test_plan_errors(capsys, monkeypatch, argv, message):
  monkeypatch.chdir(ROOT)
  code, _, err = run(capsys, "plan", *argv)
  assert code == 2
  assert message in err


def test_show_prints_settings_and_what_differs(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  code, out, _ = run(capsys, "show", CONFIG, "--config.outer.clip_norm=2.0")
  assert code == 0
  settings, _, changed = out.partition("Not the defaults")
  assert "  length = 64\n" in settings and "  eval.lengths = [64, 128]" in out
  assert "  task.name = 'associative_recall'\n" in settings
  assert "  outer.clip_norm: 1.0 -> 2.0\n" in changed
  assert "  length: 256 -> 64\n" in changed and "outer.b1" not in changed
  code, _, err = run(capsys, "show", CONFIG, "--config.chunk=48")
  assert code == 2 and "chunk=48 must divide length=64" in err
  assert "--config is missing" in run(capsys, "show")[2]


def test_lengths():
  assert evaluate.parse_lengths("256,4x,64x", 512) == (256, 2048, 32768)
  assert evaluate.parse_lengths("", 512) == ()
  for text in ("x4", "4xx", "-3", "4.5", "4x8"):
    with pytest.raises(ValueError, match="must be a number of tokens"):
      evaluate.parse_lengths(text, 512)


def test_demo_runs_in_its_directory(capsys, monkeypatch):
  calls = []
  fake = types.ModuleType("_demo")
  fake.run = calls.append
  monkeypatch.setitem(sys.modules, "mattt_jax.commands._demo", fake)
  monkeypatch.setattr(commands, "_demo", fake, raising=False)
  assert run(capsys, "demo", "--out=elsewhere")[0] == 0
  assert run(capsys, "demo")[0] == 0
  assert calls == ["elsewhere", "runs/demo"]


def test_the_modules_are_programs(tmp_path):
  done = run_module("mattt_jax.main", "--help", cwd=tmp_path)
  assert done.returncode == 0
  example = f"python -m mattt_jax.main {cli.command('train').example}"
  assert f"Example:\n  {example}\n" in done.stdout

  done = run_module("mattt_jax.main", CONFIG, "--workdir=w", "--config.chunk=7")
  assert done.returncode == 2
  assert done.stderr.startswith(
    "python -m mattt_jax.main: error: chunk=7 must divide length=64"
  )
  done = run_module("mattt_jax.commands.cli", "list", cwd=tmp_path)
  assert done.returncode == 0
  assert "associative_recall" in done.stdout


def test_texts_and_a_tokenizer_of_them(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  own, out = tmp_path / "own", tmp_path / "out"
  own.mkdir()
  for name in "abcd":
    (own / f"{name}.txt").write_bytes(b"the cat and the caf\xe9. " * 9)
  texts = ["texts", str(out), f"--from={own}"]
  code, _, err = run(capsys, "prepare", *texts)
  assert code == 2
  assert "a.txt is not utf-8 text (byte 19" in err
  code, printed, _ = run(capsys, "prepare", *texts, "--encoding=latin-1")
  assert code == 0
  assert f"4 files, 828 bytes, in {out}/\n" in printed
  assert f"--config.task.source=directory:{out}\n" in printed
  assert (out / "a.txt").read_text() == "the cat and the café. " * 9
  import tensorflow_datasets as tfds  # slow to import

  place = re.search(r"tfds data set \(array_record\) in (.*)/\n", printed)[1]
  assert pathlib.Path(place).is_relative_to(tmp_path / "cache")
  builder = tfds.builder_from_directory(place)
  rows = [row for part in builder.as_data_source().values() for row in part]
  assert sorted(row["name"].decode() for row in rows) == [
    f"{name}.txt" for name in "abcd"
  ]
  code, printed, _ = run(capsys, "prepare", *texts, "--encoding=latin-1")
  assert code == 0 and place in printed  # the same one

  path = tmp_path / "bpe.json"
  code, printed, _ = run(
    capsys, "tokenizer", "train", f"--source=directory:{out}", "--vocab=265",
    f"--out={path}",
  )  # fmt: skip
  assert code == 0
  assert printed.startswith(f"265 tokens, written to {path}\n")
  assert path.exists()


@pytest.mark.parametrize(
  "argv, message",
  [
    (["prepare"], "NAME is missing"),
    (["prepare", "books"], "DIR is missing"),
    (["prepare", "books", "a", "b"], "unexpected argument 'b'"),
    (["prepare", "boks", "a"], "data set='boks' is not known: use one of "
     "books, bible, squad, hotpotqa, texts"),
    (["prepare", "texts", "a"], "texts need --from=PATH"),
    (["tokenizer"], "ACTION is missing"),
    (["tokenizer", "trian", "--out=a"], "unknown action 'trian': use train"),
    (["tokenizer", "train", "--out=a"], "--source is missing"),
    (["tokenizer", "train", "--source=stdlib"], "--out is missing"),
    (["tokenizer", "train", "--source=directory:/absent", "--out=a"],
     "there is no directory /absent"),
  ],
)  # fmt: skip
def test_errors_of_texts_and_tokenizers(capsys, tmp_path, monkeypatch, argv,
                                        message):  # fmt: skip
  monkeypatch.chdir(tmp_path)
  code, out, err = run(capsys, *argv)
  assert (code, out) == (2, "")
  assert err.startswith(f"mattt {argv[0]}: error: ")
  assert message in err
  assert not list(tmp_path.iterdir())


def test_train_then_evaluate(tmp_path, capsys):
  """The real thing, on the smallest model that there is."""
  workdir = tmp_path / "run"
  small = [
    "--config=recall:tiny,system=sliding_window",
    "--config.train.steps=1",
    "--config.train.checkpoint_every=1",
    "--config.model.num_layers=1",
    "--config.model.num_suffix=1",
    "--config.eval.lengths=(64,)",
    "--config.eval.sequences=2",
    "--config.eval.batch_size=8",
    "--config.batch_size=8",
  ]
  assert run(capsys, "train", *small, f"--workdir={workdir}")[0] == 0
  trained = json.loads((workdir / "evaluation.json").read_text())

  code, out, _ = run(capsys, "evaluate", f"--workdir={workdir}")
  assert code == 0
  (row,) = map(json.loads, (workdir / "evaluate.jsonl").open())
  assert (row["step"], row["split"], row["length"]) == (1, "test", 64)
  loss = row["loss"]
  assert loss == pytest.approx(
    trained["evaluation"]["lengths"]["64"]["loss"], rel=1e-5
  )
  assert f"{loss:.4f}" in out

  code, _, err = run(capsys, "evaluate", f"--workdir={workdir}", "--inner")
  assert code == 2
  assert "inner.enabled=False" in err
  code, _, err = run(capsys, "evaluate", f"--workdir={workdir}", "--lengths=65")
  assert code == 2
  assert "chunk=8 must divide length=65: use a length of 64" in err
