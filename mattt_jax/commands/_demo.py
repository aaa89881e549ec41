"""The demo: three systems on associative recall, then a real document.

It trains from one seed under `out`; after an interruption it goes on.
"""

import functools
import itertools
import json
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

from mattt_jax import config as config_lib
from mattt_jax.config import Experiment
from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.registry import load_config
from mattt_jax.report import plots
from mattt_jax.training import load, trainer
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.read_batch import read_batch
from mattt_jax.ttt.tokens import tokens_of

SYSTEMS = {
  "ttt_e2e": "TTT alone",
  "swa_episodic": "window + episodic memory",
  "ttt_memory": "TTT + episodic memory",
}
_BUCKETS = 8  # of document positions


def run(out: str | os.PathLike, *, tiny: bool = False) -> dict[str, Any]:
  """Runs the demo; returns what it writes to `out`/results.json.

  Args:
    out: directory for checkpoints, results.json and two PNG plots.
    tiny: a few steps of tiny models (a test that it runs, nothing learned).
  """
  start = time.perf_counter()
  out = pathlib.Path(out)
  size = "tiny," if tiny else ""
  recall = {
    system: _train(f"recall:{size}system={system}", out / system)
    for system in SYSTEMS
  }
  language = f"language_modeling:{size}system=ttt_e2e"
  document = _read_document(language, out / "lm")
  results = {
    "recall": recall,
    "document": document,
    "found": _found(recall, document),
    "seconds": time.perf_counter() - start,
  }
  (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
  _plot(results, out)
  print(f"{_tables(results)}\n\n{results['found']}")
  print(f"\n{results['seconds']:.0f} s. Results and plots are in {out}/")
  return results


def _experiment(arg: str) -> Experiment:
  """An experiment, shortened to what a demo has time for."""
  config = load_config(arg)
  recall = config.task.name == "associative_recall"
  config.train.steps = min(config.train.steps, 140 if recall else 100)
  config.eval.sequences = min(config.eval.sequences, 16 if recall else 4)
  if not recall:
    config.batch_size = min(config.batch_size, 4)
    config.eval.lengths = ()  # one document is read further, below
  return config_lib.from_config_dict(config)


def _train(config: str, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains one system; returns its test results by length, and its cost."""
  print(f"\n== {config} -> {workdir}", flush=True)
  start = time.perf_counter()
  experiment = _experiment(config)
  result = trainer.train(experiment, workdir, mesh=meshes.make_mesh(1))
  learner, _ = load.load_learner(experiment, workdir)
  lengths = result["evaluation"]["lengths"]
  longest = max(map(int, lengths))
  return {
    "config": config,
    "seconds": time.perf_counter() - start,
    "state_bytes": learner.state_bytes(longest),
    "lengths": {
      length: {
        "answer_accuracy": row["answer_accuracy"],
        "other_loss_nats": row["other_loss"],
      }
      for length, row in lengths.items()
    },
  }


@functools.partial(jax.jit, static_argnames=("graphdef", "parts"))
def _losses(graphdef, params, tokens, parts):
  return read_batch(nnx.merge(graphdef, params), tokens, parts).loss_BxL


def _read_document(config: str, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains a language model and reads, learning or not, the longest document of
  the test split, in whole chunks up to the longest evaluation length."""
  print(f"\n== {config} -> {workdir}", flush=True)
  experiment = _experiment(config)
  trainer.train(experiment, workdir, mesh=meshes.make_mesh(1))
  learner, _ = load.load_learner(experiment, workdir)
  task = build.make_task(experiment)
  index = max(
    range(task.size("test", experiment.length)),
    key=lambda i: len(task.document("test", i)[1]),
  )
  name, tokens = task.document("test", index)
  longest, chunk = max(load_config(config).eval.lengths), experiment.chunk
  length = min(longest, (len(tokens) - 1) // chunk * chunk)
  batch = {k: v[None] for k, v in task.example("test", index, length).items()}
  graphdef, params = nnx.split(learner)
  edges = np.linspace(0, length, _BUCKETS + 1).astype(int)
  curves = {}
  for label, inner in (("on", True), ("off", False)):
    parts = Parts(inner=inner)
    loss_L = np.asarray(_losses(graphdef, params, tokens_of(batch), parts))[0]
    curves[label] = [
      float(loss_L[a:b].mean()) for a, b in itertools.pairwise(edges)
    ]
  return {
    "config": config,
    "name": pathlib.Path(name).name,
    "bytes_read": length,
    "position_edges": edges.tolist(),
    "loss_nats_per_byte": curves,
  }


def _found(recall: dict[str, Any], document: dict[str, Any]) -> str:
  """One sentence, made of the numbers."""
  lengths = sorted(recall["ttt_e2e"]["lengths"], key=int)
  near, far = lengths[0], lengths[-1]

  def accuracy(system):
    rows = recall[system]["lengths"]
    return (
      f"{rows[near]['answer_accuracy']:.1%} at {near} and "
      f"{rows[far]['answer_accuracy']:.1%} at {far} tokens"
    )

  on = np.mean(document["loss_nats_per_byte"]["on"])
  off = np.mean(document["loss_nats_per_byte"]["off"])
  return (
    f"Found (one seed): recall under interference is {accuracy('ttt_e2e')} for "
    f"TTT alone, {accuracy('swa_episodic')} for a window with an episodic "
    f"memory, {accuracy('ttt_memory')} for both; reading "
    f"{document['name']}, test-time training changes the loss from {off:.3f} "
    f"to {on:.3f} nats a byte."
  )


def _tables(results: dict[str, Any]) -> str:
  recall, document = results["recall"], results["document"]
  lengths = sorted(recall["ttt_e2e"]["lengths"], key=int)
  width = max(map(len, SYSTEMS.values()))

  def line(label, cells, digits=""):
    return f"{label:<{width}}" + "".join(f"{x:>8{digits}}" for x in cells)

  rows = ["", "Answer accuracy on the test split, by context length (tokens)"]
  rows.append(line("", lengths) + "   state")
  for system, label in SYSTEMS.items():
    row = recall[system]
    cells = [row["lengths"][n]["answer_accuracy"] for n in lengths]
    kib = sum(row["state_bytes"].values()) / 1024
    rows.append(f"{line(label, cells, '.3f')} {kib:>5.0f} KiB")
  rows += ["", f"Loss (nats a byte) in {document['name']}, by position"]
  rows.append(line("", document["position_edges"][1:]))
  for label, losses in document["loss_nats_per_byte"].items():
    rows.append(line(f"inner loop {label}", losses, ".3f"))
  return "\n".join(rows)


def _plot(results: dict[str, Any], out: pathlib.Path) -> None:
  recall, document = results["recall"], results["document"]
  plots.lines(
    out / "recall.png",
    {
      label: [
        (int(n), row["answer_accuracy"])
        for n, row in recall[system]["lengths"].items()
      ]
      for system, label in SYSTEMS.items()
    },
    x="context length (tokens; trained at the shortest)",
    y="answer accuracy",
    title="Recall, 80 % interference",
    log_x=True,
  )
  edges = document["position_edges"]
  middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
  plots.lines(
    out / "document.png",
    {
      f"inner loop {label}": list(zip(middles, losses, strict=True))
      for label, losses in document["loss_nats_per_byte"].items()
    },
    x="position (bytes)",
    y="loss (nats a byte)",
    title=f"Reading {document['name']} (held out)",
  )
