"""mattt sweep: flags, commands, table, results; and two real tiny runs."""

import json
import shlex

import pyarrow.parquet
import pytest

from mattt_jax.commands import cli
from mattt_jax.sweeps import sweep

# The smallest model that there is: one block, one step.
SMALL = """
from mattt_jax.registry import load_config
from mattt_jax.sweeps.sweep import param

def get_config(arg=""):
  config = load_config(f"recall:tiny,system=sliding_window,steps=1,{arg}")
  config.train.checkpoint_every = 1
  config.model.update(num_layers=1, num_suffix=1)
  config.update(batch_size=8)
  config.eval.update(lengths=(64,), sequences=2, batch_size=8)
  return config

def sweep():
  return param("seed", [1, 2])
"""


def run(capsys, *argv):
  code = cli.main(["sweep", *argv])
  return code, *capsys.readouterr()


@pytest.mark.parametrize(
  "argv, message",
  [
    (["--out=x"], "--config is missing: add --config=recall:tiny"),
    (["--config=recall:tiny"], "--out is missing: add --out=runs/sweep"),
    (["--config=recal", "--out=x"], "no experiment of that name"),
    (["--config=any_task", "--out=x"], "has no function sweep(arg)"),
    (["--config=recall:tyni", "--out=x"], "unknown config argument 'tyni'"),
    (["--config=recall:seed=1", "--out=x"], "'seed' is given twice"),
    (["--config=recall:tiny", "--out=x", "--index=2", "--of=2"],
     "index=2 must lie in 0 .. of - 1 = 1"),
    (["--config=recall:tiny", "--out=x", "--of=0"], "of=0 must be at le"),
    (["--config=recall:tiny", "--out=x", "--workers=0"], "workers=0"),
    (["--config=recall:tiny", "--out=x", "--together", "--workers=2"],
     "workers=2: hosts do runs together"),
    (["--config=recall:tiny", "--out=LICENSE"], "--out=LICENSE is a file"),
  ],
)  # fmt: skip
def test_errors(capsys, tmp_path, monkeypatch, argv, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "LICENSE").write_text("")
  code, out, err = run(capsys, *argv)
  assert (code, out) == (2, "")
  assert message in err
  assert {path.name for path in tmp_path.iterdir()} == {"LICENSE"}


def test_dry_run_prints_the_commands_of_a_share(capsys, tmp_path):
  out = tmp_path / "my runs"
  flags = ["--config=recall", f"--out={out}", "--dry-run", "--of=5"]
  shares = []
  for index in range(5):
    code, text, _ = run(capsys, *flags, f"--index={index}")
    assert code == 0
    shares.append(text.splitlines())
  runs = sweep.runs("recall")
  assert sorted(map(len, shares)) == [2, 2, 2, 3, 3]
  assert shlex.split(shares[3][1]) == [
    "mattt", "train", "--config=recall:system=swa_episodic,seed=3",
    f"--workdir={out / runs[8].hash}",
  ]  # fmt: skip
  assert sorted(sum(shares, [])) == sorted(
    sweep.command(run, out / run.hash) for run in runs
  )
  assert not out.exists()


def test_two_real_runs(capsys, tmp_path):
  path, out = tmp_path / "mine.py", tmp_path / "out"
  path.write_text(SMALL)
  flags = [f"--config={path}", f"--out={out}", "--parquet"]
  code, text, _ = run(capsys, *flags, "--workers=2")
  assert code == 0, text
  assert f"2 of 2 runs finished; rows are in {out}/results.jsonl" in text
  rows = [json.loads(line) for line in (out / "results.jsonl").open()]
  assert [row["settings"] for row in rows] == [{"seed": 1}, {"seed": 2}]
  assert [row["seed"] for row in rows] == [1, 2]
  losses = [row["evaluation"]["lengths"]["64"]["loss"] for row in rows]
  assert losses[0] != losses[1]
  table = pyarrow.parquet.read_table(out / "results.parquet").to_pydict()
  assert table["evaluation.lengths.64.loss"] == losses
  assert table["settings.seed"] == [1, 2]
  assert table["config.model.num_layers"] == [1, 1]

  code, text, _ = run(capsys, *flags, "--status")
  assert code == 0
  assert text.splitlines()[-1] == "2 runs: 2 finished"
  assert f"{rows[0]['config_hash']}  finished            1/1  seed=1" in text
  code, text, _ = run(capsys, *flags, "--dry-run")
  assert all(line.startswith("# finished: mattt") for line in text.splitlines())
  code, text, _ = run(capsys, *flags, "--workers=2")
  assert code == 0 and "starts" not in text


def test_a_row_is_enough(capsys, tmp_path):
  """What a results file has is not done again, in another directory and with
  a program that has more settings; what else the file has stays."""
  path, results = tmp_path / "mine.py", tmp_path / "study.jsonl"
  path.write_text(SMALL)
  flags = [f"--config={path}", f"--results={results}"]
  code, text, _ = run(
    capsys, *flags, f"--out={tmp_path / 'a'}", "--index=1", "--of=2"
  )
  assert code == 0 and f"1 of 2 runs finished; rows are in {results}" in text
  (row,) = map(json.loads, results.open())
  assert row["settings"] == {"seed": 2}
  # As an older program wrote it, which had no `eval.parts_off`.
  del row["config"]["eval"]["parts_off"]
  row["config_hash"] = sweep.config_hash(row["config"])
  other = row | {"config": {"of": "another"}, "config_hash": "123"}
  results.write_text("".join(json.dumps(x) + "\n" for x in (other, row)))

  flags += [f"--out={tmp_path / 'b'}"]
  code, text, _ = run(capsys, *flags, "--status")
  assert text.splitlines()[-1] == "2 runs: 1 finished, 1 waiting"
  code, text, _ = run(capsys, *flags, "--dry-run")
  assert [x.startswith("# finished") for x in text.splitlines()] == [0, 1]
  code, text, _ = run(capsys, *flags)
  assert code == 0 and "2 of 2 runs finished" in text
  assert len([x for x in (tmp_path / "b").iterdir() if x.is_dir()]) == 1
  rows = [json.loads(line) for line in results.open()]
  assert rows[0] == other
  assert [x["settings"]["seed"] for x in rows[1:]] == [2, 1]
  assert rows[1]["evaluation"] == row["evaluation"]

  results.write_text("{}\n")
  code, _, err = run(capsys, *flags)
  assert code == 2 and f"results={results}, line 1 is no row of a run" in err
