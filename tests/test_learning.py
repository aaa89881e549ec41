"""The pointer memory learns recall under interference; longer texts keep it.

One short run of the real experiment. Three seeds, all systems and 16 times the
length are in results/recall.md.
"""

import json
import os
import subprocess
import sys


def test_episodic_memory_learns_in_100_steps(tmp_path):
  # A process of its own: the tests' XLA flags make programs slow.
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  subprocess.run(
    [
      sys.executable,
      "-m",
      "mattt_jax.main",
      "--config=recall:system=swa_episodic,seed=0",
      f"--workdir={tmp_path / 'run'}",
      "--config.train.steps=100",
      "--config.eval.lengths=(256,1024)",
      "--config.eval.sequences=8",
    ],
    env=env,
    check=True,
    timeout=600,
  )
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  lengths = result["evaluation"]["lengths"]
  assert lengths["256"]["answer_tokens"] == 8 * 16
  assert lengths["256"]["answer_accuracy"] >= 0.99
  assert lengths["1024"]["answer_accuracy"] >= 0.97
  # It is recall, not reach: all answers lie beyond 4 layers of attention.
  nearest = min(
    b["from"] for b in lengths["1024"]["by_distance"] if b["tokens"]
  )
  assert nearest > 4 * 31
