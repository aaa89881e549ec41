"""A large vocabulary: its head in blocks against all of it at once, as JSON.

    python benchmarks/head.py --out=results/head.json

V = 128256 entries of D = 768, one chunk of --tokens tokens, as in the inner
loop: the loss, its gradient with respect to fast weights in front of the head,
a step, the loss after it, and the gradient of both losses with respect to fast
weights and head, through that step (second order). `blocks` scores
`model.vocab_block` entries at a time, `whole` all.

Both are run in turns, --repeats times; rows hold medians of CPU-seconds of the
process and of wall seconds, the bytes of temporaries of the compiled program
(of which the gradient of the head, 4 V D, is none), and what blocks are of the
whole. About 3 minutes on one core; logits are 4 V bytes a token.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
from report import in_turns, write

from mattt_jax.config import ModelConfig
from mattt_jax.model import head

VOCAB, DIM = 128256, 768
BLOCKS = {"blocks": ModelConfig().vocab_block, "whole": 0}


def program(tokens: int, block: int):
  """Compiled: (fast, head, x, targets) -> gradients of both."""

  def loss(fast_DxD, head_DxV, x_CxD, target_C):
    h_CxD = x_CxD + x_CxD @ fast_DxD
    found = head.scores(h_CxD, head_DxV, target_C, block)
    return -jnp.mean(found.log_prob_C)

  def meta_loss(fast_DxD, head_DxV, x_CxD, target_C):
    before, grad = jax.value_and_grad(loss)(fast_DxD, head_DxV, x_CxD, target_C)
    return before + loss(fast_DxD - grad, head_DxV, x_CxD, target_C)

  shapes = [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in (
      ((DIM, DIM), jnp.float32),
      ((DIM, VOCAB), jnp.float32),
      ((tokens, DIM), jnp.float32),
      ((tokens,), jnp.int32),
    )
  ]
  return jax.jit(jax.grad(meta_loss, argnums=(0, 1))).lower(*shapes).compile()


def measure(tokens: int, repeats: int) -> list[dict]:
  """A row for each way."""
  keys = jax.random.split(jax.random.key(0), 4)
  args = (
    0.02 * jax.random.normal(keys[0], (DIM, DIM)),
    0.02 * jax.random.normal(keys[1], (DIM, VOCAB)),
    jax.random.normal(keys[2], (tokens, DIM)),
    jax.random.randint(keys[3], (tokens,), 0, VOCAB),
  )
  compiled = {way: program(tokens, block) for way, block in BLOCKS.items()}
  seconds = in_turns(
    {way: lambda turn, run=run: run(*args) for way, run in compiled.items()},
    repeats,
  )
  rows = [
    {
      "way": way,
      "vocab": VOCAB,
      "dim": DIM,
      "tokens": tokens,
      "cpu_seconds": seconds[way][1],
      "wall_seconds": seconds[way][0],
      "temp_bytes": run.memory_analysis().temp_size_in_bytes,
      "repeats": repeats,
    }
    for way, run in compiled.items()
  ]
  blocks, whole = rows
  for figure in ("cpu_seconds", "temp_bytes"):
    blocks[f"{figure}_over_whole"] = blocks[figure] / whole[figure]
  return rows


def main() -> None:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--tokens", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  rows = measure(args.tokens, args.repeats)
  for row in rows:
    print(json.dumps(row), flush=True)
  write(args.out, rows=rows)


if __name__ == "__main__":
  main()
