"""BM25 of token n-grams at static shapes; the formula is in data/bm25.py.

A chunk is a row of counts: each n-gram counts in the column that it hashes to,
so that n-grams of one column are one word. Single tokens share no column of a
table as large as the vocabulary. The rarity of words and the length of chunks
are those of the chunks stored so far, so that nothing looks ahead.

Shapes: N chunks, T tokens, E columns, G = T - ngram + 1 n-grams.
"""

import jax.numpy as jnp
from jax import Array

from mattt_jax.data.bm25 import K1, B

_FACTOR = 2654435761  # of Knuth's multiplicative hash, odd, near 2^32 / phi


def columns(
  token_T: Array, valid_T: Array, ngram: int, table_size: int
) -> tuple[Array, Array]:
  """The column of each n-gram, [G] uint32, and whether all tokens of it are
  valid, [G] bool."""
  number = len(token_T) - ngram + 1
  column_G = jnp.zeros((number,), jnp.uint32)
  valid_G = jnp.ones((number,), bool)
  for i in range(ngram):
    token_G = token_T[i : i + number].astype(jnp.uint32)
    column_G = column_G * jnp.uint32(_FACTOR) + token_G
    valid_G &= valid_T[i : i + number]
  return column_G % jnp.uint32(table_size), valid_G


def counts(
  token_T: Array, valid_T: Array, ngram: int, table_size: int
) -> Array:
  """Counts of each column's n-grams, [E] float32."""
  column_G, valid_G = columns(token_T, valid_T, ngram, table_size)
  return jnp.zeros((table_size,), jnp.float32).at[column_G].add(valid_G)


def scores(
  count_NxE: Array, stored_N: Array, column_G: Array, valid_G: Array
) -> Array:
  """The score of each chunk for a query's n-grams, [N]; repeated ones count
  again. `stored_N` says which of the rows are chunks."""
  number = jnp.sum(stored_N)
  size_N = jnp.sum(count_NxE, axis=1)
  mean = jnp.sum(size_N) / jnp.maximum(number, 1)
  norm_N = 1 - B + B * size_N / jnp.maximum(mean, 1)
  count_NxG = count_NxE[:, column_G]
  having_G = jnp.sum(count_NxG > 0, axis=0)
  rarity_G = jnp.log1p((number - having_G + 0.5) / (having_G + 0.5))
  added_NxG = count_NxG * (K1 + 1) / (count_NxG + K1 * norm_N[:, None])
  return added_NxG @ jnp.where(valid_G, rarity_G, 0.0)
