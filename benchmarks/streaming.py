"""Does reading slow down? A chunk's time at token 2^20 over that at token 2^13.

    python benchmarks/streaming.py --out=results/streaming_time.json

Two compiled programs a system, each with its own state (the model of
experiments/recall.py with arg `hard`, untrained; a batch of one, one chunk of
32 tokens a call, the state donated as in evaluation), called in turns,
--repeats times each, so that a slow minute meets both. A row has the medians of
milliseconds (wall and CPU of the process), and as `ratio` the median of the
ratios of two calls that follow one another.

The state at 2^13 tokens was read, from random tokens. That at 2^20 is the same
one, its position set to 2^20 (benchmarks/million.py reads a million tokens
without such a short cut). An external memory that grows with the context has
room for as many pairs as there are tokens, and is full of random pairs:

- `of`: "length": the store at 2^13 has room for 2^13 pairs, the other for 2^20;
- "fill": both have room for 2^20, of which 2^13 or all are used.

About 4 minutes on one core.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from memory_reads import pairs_of
from report import write

from mattt_jax import config as config_lib
from mattt_jax.learners import build
from mattt_jax.learners.build import build_learner
from mattt_jax.registry import load_config
from mattt_jax.ttt.parts import parts_of
from mattt_jax.ttt.read_batch import read_on
from mattt_jax.ttt.tokens import tokens_of

SHORT, LONG = 2**13, 2**20
CONSTANT = (
  "sliding_window",
  "gated_delta_net",
  "ttt_e2e",
  "swa_associative",
  "swa_slots",
  "titans",
  "infini_attention",
)
# Settings of the store, for the systems that have one.
GROWING = {
  "swa_episodic": "landmarks",
  "ttt_memory": "landmarks",
  "swa_episodic exact": "exact",
}


class Stream:
  """A system at some token of a text, which it reads chunk by chunk."""

  def __init__(self, system: str, room: int, used: int, search: str | None):
    """`used` tokens were read, of the `room` that the state is made for."""
    tree = load_config(f"recall:hard,system={system}")
    if search is not None:
      tree.memory.search = search
    experiment = config_lib.from_config_dict(tree)
    vocab = build.make_task(experiment).vocab_size
    learner = build_learner(experiment, vocab)
    graphdef, self.params = nnx.split(learner)
    parts = parts_of(experiment)
    self.rng = np.random.default_rng(0)
    self.vocab, self.chunk = vocab, experiment.chunk

    def read(params, state, batch):
      learner = nnx.merge(graphdef, params)
      return read_on(learner, state, tokens_of(batch), parts)

    def start(params):
      state = nnx.merge(graphdef, params).init_state(room)
      return jax.tree.map(lambda x: x[None], state)

    state = jax.jit(start)(self.params)
    read = jax.jit(read, donate_argnums=1)
    if search is None:
      state, _ = read(self.params, state, self.tokens(SHORT))
    elif used:
      model, dim = learner.model, experiment.model.dim
      fill = jax.jit(
        lambda store: filled(model.pointer, store, used, dim), donate_argnums=0
      )
      state = dataclasses.replace(state, memory=fill(state.memory))
    self.state = dataclasses.replace(
      state, position=jnp.full_like(state.position, used)
    )
    self.compiled = read.lower(
      self.params, self.state, self.tokens(self.chunk)
    ).compile()

  def tokens(self, number: int) -> dict:
    """A batch of one text of that many random tokens."""
    text = self.rng.integers(0, self.vocab, (1, number + 1), dtype=np.int32)
    return {
      "tokens": jnp.asarray(text[:, :-1]),
      "targets": jnp.asarray(text[:, 1:]),
      "inner_weight": jnp.ones((1, number)),
    }

  def step(self) -> tuple[float, float]:
    """Wall and CPU seconds of the next chunk."""
    batch = self.tokens(self.chunk)
    t, c = time.perf_counter(), time.process_time()
    self.state, _ = jax.block_until_ready(
      self.compiled(self.params, self.state, batch)
    )
    return time.perf_counter() - t, time.process_time() - c


def filled(memory, state, number: int, dim: int):
  """The store of one text with random pairs of `number` tokens written."""
  chunk = memory.chunk

  def write(state, key):
    hidden_CxD = jax.random.normal(key, (chunk, dim))
    token_C = jax.random.randint(key, (chunk,), 0, 16)
    return memory.write(state, pairs_of(hidden_CxD, token_C)), None

  def fill(state):
    keys = jax.random.split(jax.random.key(0), number // chunk)
    return jax.lax.scan(write, state, keys)[0]

  return jax.vmap(fill)(state)


def measure(name: str, of: str, repeats: int) -> dict:
  """One row."""
  system, _, _ = name.partition(" ")
  search = GROWING.get(name)
  short = Stream(system, LONG if of == "fill" else SHORT, SHORT, search)
  long = Stream(system, LONG, LONG, search)
  pairs = []
  for i in range(repeats + 3):
    # Which of the two comes first changes from turn to turn.
    two = [long.step(), short.step()] if i % 2 else [short.step(), long.step()]
    if i >= 3:
      pairs.append(two[::-1] if i % 2 else two)
  walls, cpus = np.moveaxis(np.asarray(pairs), -1, 0)
  at_short, at_long = 1e3 * np.median(walls, axis=0)
  cpu_short, cpu_long = 1e3 * np.median(cpus, axis=0)
  return {
    "system": system,
    "search": search,
    "of": of,
    "ratio": float(np.median(walls[:, 1] / walls[:, 0])),
    "cpu_ratio": float(np.median(cpus[:, 1] / cpus[:, 0])),
    "ms_at_2^13": float(at_short),
    "ms_at_2^20": float(at_long),
    "cpu_ms_at_2^13": float(cpu_short),
    "cpu_ms_at_2^20": float(cpu_long),
    "temp_bytes_at_2^20": long.compiled.memory_analysis().temp_size_in_bytes,
    "repeats": repeats,
  }


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  every = (*CONSTANT, *GROWING)
  parser.add_argument("--systems", default=",".join(every))
  parser.add_argument("--repeats", type=int, default=200)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  names = args.systems.split(",")
  for name in names:
    if name not in every:
      parser.error(f"--systems={args.systems}: {name!r} is none of {every}")
  rows = []
  for name in names:
    for of in ("length", "fill") if name in GROWING else ("length",):
      repeats = args.repeats // 10 if "exact" in name else args.repeats
      rows.append(measure(name, of, max(5, repeats)))
      print(json.dumps(rows[-1]), flush=True)
  write(
    args.out,
    clock="one core shared with other programs: calls in turns, medians",
    rows=rows,
  )


if __name__ == "__main__":
  main()
