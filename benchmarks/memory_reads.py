"""Reads of the episodic memory: time, bytes and recall, by stored slots.

    python benchmarks/memory_reads.py --out=results/memory_reads.json

Cost: one chunk of 32 tokens asks a full store (4 heads of 16, the 32 best, a
pointer read), at 2^10 to 2^20 slots (--sizes), in each way of searching it:

- `exact`: the scores of all slots at once;
- `blocks`: of 4096 slots at a time (`memory.block`);
- `approx`: `jax.lax.approx_max_k` (a TPU's; elsewhere it is exact, and only
  measured with --approx);
- `landmarks`: of the slots that an index names (`memory.search`).

All ways of a size are measured in turns, --repeats times, so that a slow minute
meets each; medians of milliseconds (wall, and CPU of the process), CPU of
`exact` over it, and the bytes of temporaries of the compiled program.
`write_cpu_ms`: of a chunk of 32 into that store, in place.

Recall: stored pairs are asked for again, their contexts changed by noise (its
size over that of the context), from contents of three kinds: `random` contexts;
`shared`, with a direction in common; `repeated`, in which few contexts come
often. `planted`: share of tokens for which a slot found holds the context asked
for; `mass`: share of the softmax over the 32 best that falls on slots found.
`chunk_means` is the alternative to landmarks: the 16 chunks of 32 successive
keys whose means score highest, as many scores as by landmarks.

About 3 minutes on one core; --sizes=1024,8192 takes one.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from report import in_turns, write

from mattt_jax.layers.norms import unit
from mattt_jax.memory import _landmarks, episodic
from mattt_jax.memory.base import Pairs

DIM, CHUNK = 64, 32
WAYS = {
  "exact": {},
  "blocks": {"block": 4096},
  "approx": {"search": "approx"},
  "landmarks": {"search": "landmarks"},
}
KINDS = ("random", "shared", "repeated")


def settings(slots: int, **changes) -> episodic.Config:
  """A store of that many slots, sharp enough that the best counts most."""
  return episodic.Config(capacity=slots, temperature=12.0, **changes)


def contents(kind: str, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Contexts [number, D], and which one each is, [number]."""
  rng = np.random.default_rng(0)
  which = np.arange(number, dtype=np.int32)
  hidden = rng.normal(size=(number, DIM)).astype(np.float32)
  if kind == "shared":
    hidden += rng.normal(size=DIM).astype(np.float32)
  if kind == "repeated":
    share = 1 / np.arange(1, number // 4 + 1)
    which = rng.choice(len(share), number, p=share / share.sum())
    which = which.astype(np.int32)
    hidden = hidden[which]
  return hidden, which


def pairs_of(hidden_CxD: Array, token_C: Array) -> Pairs:
  """Contexts and the tokens that follow them, worth the same."""
  zeros_C = jnp.zeros(len(token_C))
  return Pairs(
    hidden_CxD=hidden_CxD,
    value_CxD=hidden_CxD,
    next_token_C=token_C,
    surprise_C=zeros_C,
    gradient_C=None,
    relevant_C=zeros_C > 0,
    valid_C=zeros_C == 0,
  )


def full(slots: int, kind: str):
  """A memory by landmarks, its state when it is full, and what it holds.
  Written by chunks of 256, 8 times larger than those that read."""
  write = 8 * CHUNK
  memory = settings(slots, search="landmarks").make(DIM, write, nnx.Rngs(0))
  hidden_MxD, token_M = contents(kind, slots)
  pairs = pairs_of(hidden_MxD, token_M)
  chunks = jax.tree.map(lambda x: x.reshape(-1, write, *x.shape[1:]), pairs)

  @jax.jit
  def written(chunks):
    return jax.lax.scan(
      lambda state, chunk: (memory.write(state, chunk), None),
      memory.init_state(slots),
      chunks,
    )[0]

  return memory, written(chunks), hidden_MxD, token_M


def readers(memory: episodic.Episodic, state, ways):
  """Compiled reads by name: (run, bytes of temporaries)."""
  slots, found = len(state.valid_M), {}
  asked = jax.ShapeDtypeStruct((CHUNK, DIM), jnp.float32)
  _, params = nnx.split(memory)
  for way in ways:
    other = settings(slots, **WAYS[way]).make(DIM, CHUNK, nnx.Rngs(0))
    graphdef, _ = nnx.split(other)
    kept = dataclasses.replace(
      state, index=state.index if way == "landmarks" else None
    )

    def read(params, state, asked, graphdef=graphdef):
      return nnx.merge(graphdef, params).read(state, asked)

    compiled = jax.jit(read).lower(params, kept, asked).compile()

    def run(asked, compiled=compiled, kept=kept):
      return compiled(params, kept, asked)

    found[way] = run, compiled.memory_analysis().temp_size_in_bytes
  return found


def writer(memory: episodic.Episodic, state):
  """A write of one chunk into the store, which it takes over."""
  _, params = nnx.split(memory)
  memory = settings(len(state.valid_M), search="landmarks").make(
    DIM, CHUNK, nnx.Rngs(0)
  )
  graphdef, _ = nnx.split(memory)

  def write(params, state, chunk):
    return nnx.merge(graphdef, params).write(state, chunk)

  return jax.jit(write, donate_argnums=1), params


def costs(slots: int, ways, repeats: int) -> list[dict]:
  """Rows of one size."""
  memory, state, hidden_MxD, _ = full(slots, "random")
  compiled = readers(memory, state, ways)
  rng = np.random.default_rng(1)
  asked = [hidden_MxD[rng.choice(slots, CHUNK)] for _ in range(repeats + 1)]
  seconds = in_turns(
    {
      way: lambda turn, run=run: run(asked[turn])
      for way, (run, _) in compiled.items()
    },
    repeats,
  )
  write, params = writer(memory, state)
  written = []
  for _ in range(repeats + 1):
    chunk = pairs_of(
      jnp.asarray(rng.normal(size=(CHUNK, DIM)), jnp.float32),
      jnp.zeros(CHUNK, jnp.int32),
    )
    c = time.process_time()
    state = jax.block_until_ready(write(params, state, chunk))
    written.append(time.process_time() - c)
  _, whole = seconds["exact"]
  rows = []
  for way, (_, temp) in compiled.items():
    wall, cpu = seconds[way]
    row = {
      "slots": slots,
      "way": way,
      "ms": 1e3 * wall,
      "cpu_ms": 1e3 * cpu,
      "exact_over_this": whole / cpu,
      "temp_bytes": temp,
      "repeats": repeats,
    }
    if way == "landmarks":
      row["write_cpu_ms"] = 1e3 * statistics.median(written[1:])
    rows.append(row)
  return rows


def chunk_means(key_MxE: np.ndarray, query_CxE: np.ndarray) -> np.ndarray:
  """The slots of the 16 chunks whose mean keys score highest, [C, J]."""
  size, best = 32, 16
  mean_NxE = key_MxE.reshape(-1, size, key_MxE.shape[1]).mean(1)
  chunk_CxP = np.argpartition(-query_CxE @ mean_NxE.T, best)[:, :best]
  return (chunk_CxP[..., None] * size + np.arange(size)).reshape(
    len(query_CxE), -1
  )


def recalls(slots: int, kind: str, noises, asked: int) -> list[dict]:
  """Rows of one kind of contents."""
  memory, state, hidden_MxD, token_M = full(slots, kind)
  rng = np.random.default_rng(2)
  at = rng.choice(slots, asked, replace=False)
  heads = memory.config.num_heads
  key_MxE = np.asarray(state.key_HxMxK).swapaxes(0, 1).reshape(slots, -1)

  @jax.jit
  def sought(asked_CxD):
    query_CxHxK = memory.norm(asked_CxD) @ memory.wq[...]
    query_CxHxK = unit(query_CxHxK.reshape(len(asked_CxD), heads, -1))
    query_CxE = query_CxHxK.reshape(len(asked_CxD), -1)
    index = jax.tree.map(lambda x: x[0], state.index)
    slot, live = _landmarks.candidates(index, query_CxE, memory.config.probes)
    return query_CxE, jnp.where(live, slot, -1)

  rows = []
  for noise in noises:
    moved = rng.normal(size=(asked, DIM)).astype(np.float32)
    query_CxE, by_landmarks = map(
      np.asarray, sought(hidden_MxD[at] + noise * moved)
    )
    score_CxM = 12.0 * query_CxE @ key_MxE.T
    best_CxJ = np.argsort(-score_CxM, axis=-1)[:, :32]
    best_score = np.take_along_axis(score_CxM, best_CxJ, axis=-1)
    share_CxJ = np.asarray(jax.nn.softmax(best_score))
    for way, found_CxJ in (
      ("landmarks", by_landmarks),
      ("chunk_means", chunk_means(key_MxE, query_CxE)),
    ):
      planted, mass = [], []
      for c, found in enumerate(found_CxJ):
        found = found[found >= 0]
        planted.append(token_M[at[c]] in token_M[found])
        mass.append(share_CxJ[c][np.isin(best_CxJ[c], found)].sum())
      rows.append(
        {
          "slots": slots,
          "contents": kind,
          "noise": noise,
          "way": way,
          "planted": float(np.mean(planted)),
          "mass": float(np.mean(mass)),
        }
      )
  return rows


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--sizes", default=",".join(str(2**n) for n in range(10, 21, 2))
  )
  parser.add_argument("--recall", default="8192,65536", help="sizes, or 0")
  parser.add_argument("--approx", action="store_true")
  parser.add_argument("--repeats", type=int, default=15)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  try:
    sizes, recall = (
      [int(n) for n in text.split(",")] for text in (args.sizes, args.recall)
    )
    if any(n < 1024 or n % 256 for n in (*sizes, *filter(None, recall))):
      raise ValueError
  except ValueError:
    parser.error(
      f"--sizes={args.sizes} --recall={args.recall}: expected SLOTS,... that "
      "are multiples of 256 and at least 1024, like 8192,1048576"
    )
  ways = [w for w in WAYS if w != "approx" or args.approx]
  report = {"clock": "medians, ways in turns", "cost": []}
  for slots in sizes:
    rows = costs(slots, ways, args.repeats)
    report["cost"] += rows
    for row in rows:
      print(json.dumps(row), flush=True)
  report["recall"] = []
  for slots in filter(None, recall):
    for kind in KINDS:
      rows = recalls(slots, kind, (0.0, 0.25, 0.5), 512)
      report["recall"] += rows
      for row in rows:
        print(json.dumps(row), flush=True)
  write(args.out, **report)


if __name__ == "__main__":
  main()
