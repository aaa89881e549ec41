"""An index of stored keys by landmarks, so that a read need not score them all.

A key is two halves. Each half has n landmarks, the mean directions of the
halves that were nearest to them (spherical k-means, one pass). A pair of
landmarks is a cell, n^2 in all, of which the best are found from 2 n scores
(inverted multi-index, Babenko & Lempitsky 2012; product keys, 1907.05242). A
cell has S places that name slots. With n^2 S a multiple of the number of slots
M, a search of P cells costs 2 n + P S scores, which grows like sqrt(M).

Cells group keys by content, not by time: the mean of 32 successive keys says
too little about each (`benchmarks/memory_reads.py`).

Nothing here has a gradient. Shapes: M slots, E key (both halves), n landmarks
of a half, N = n^2 cells of S places, C tokens that ask, W keys to be written.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mattt_jax.layers.norms import unit
from mattt_jax.memory._search import EMPTY

SLACK = 4  # places for each slot, as keys are not spread evenly
TRIED = 4  # a key goes to the best of so many cells that has a free place


@struct.dataclass
class Index:
  """The places of the slots; the indices of several searches are stacked."""

  sum_2xnxE: Array  # of the half keys of each landmark
  keys: Array  # int32: written since the start; the first n are landmarks
  load_N: Array  # int32: written to each cell since the start
  slot_NxS: Array  # int32: what is in a place; -1: nothing yet
  # int32: place of each slot; -1: none. A place whose slot has moved is free.
  place_M: Array

  # Several searches, one a head, or one for all heads together, whose axis of
  # length 1 is not split.
  AXES: ClassVar = {
    "sum_2xnxE": ("tensor", None, None, None),
    "keys": ("tensor",),
    "load_N": ("tensor", None),
    "slot_NxS": ("tensor", None, "context"),
    "place_M": ("tensor", "context"),
  }


def landmarks(slots: int, cell: int) -> int:
  """n, for that many slots and places of a cell."""
  return math.ceil(math.sqrt(SLACK * slots / cell))


def empty(slots: int, cell: int, dim: int) -> Index:
  """An index of `slots` slots, whose keys have `dim` (even) numbers."""
  n = landmarks(slots, cell)
  return Index(
    sum_2xnxE=jnp.zeros((2, n, dim // 2), jnp.float32),
    keys=jnp.zeros((), jnp.int32),
    load_N=jnp.zeros((n * n,), jnp.int32),
    slot_NxS=jnp.full((n * n, cell), -1, jnp.int32),
    place_M=jnp.full((slots,), -1, jnp.int32),
  )


def add(index: Index, key_WxE: Array, slot_W: Array, keep_W: Array) -> Index:
  """The index after the kept keys were put into their slots.

  A key takes the oldest place of its best cell with a free place, or if all
  tried cells are full, of its best cell.
  """
  n, cell = index.sum_2xnxE.shape[1], index.slot_NxS.shape[1]
  key_WxE = jax.lax.stop_gradient(key_WxE).astype(jnp.float32)
  half_2xWxE = _halves(key_WxE)
  # The first n keys are the first landmarks.
  number_W = index.keys + jnp.cumsum(keep_W, dtype=jnp.int32) - 1
  first_W = jnp.where(keep_W & (number_W < n), number_W, n)
  index = dataclasses.replace(
    index,
    sum_2xnxE=index.sum_2xnxE.at[:, first_W].set(half_2xWxE, mode="drop"),
    keys=index.keys + jnp.sum(keep_W, dtype=jnp.int32),
  )
  cell_WxT = _best_cells(index, half_2xWxE, min(TRIED, n * n))
  next_WxT = index.load_N[cell_WxT] % cell
  free_WxT = ~_live(index, cell_WxT, next_WxT)
  take_Wx1 = jnp.argmax(free_WxT, axis=-1, keepdims=True)
  cell_W = jnp.take_along_axis(cell_WxT, take_Wx1, axis=-1)[:, 0]
  # Keys of one chunk in the same cell follow one another; the last ones stay.
  same_WxW = (cell_W[:, None] == cell_W) & keep_W
  before_W = jnp.sum(jnp.tril(same_WxW, -1), axis=-1, dtype=jnp.int32)
  stays_W = keep_W & (jnp.sum(same_WxW, axis=-1) - before_W <= cell)
  at_W = (index.load_N[cell_W] + before_W) % cell
  nearest_2xW = jnp.where(
    keep_W & (first_W >= n), jnp.stack(jnp.divmod(cell_WxT[:, 0], n)), n
  )
  place_W = jnp.where(stays_W, cell_W * cell + at_W, -1)
  return dataclasses.replace(
    index,
    sum_2xnxE=jax.vmap(lambda s, i, x: s.at[i].add(x, mode="drop"))(
      index.sum_2xnxE, nearest_2xW, half_2xWxE
    ),
    load_N=index.load_N.at[cell_W].add(keep_W.astype(jnp.int32)),
    slot_NxS=index.slot_NxS.at[
      jnp.where(stays_W, cell_W, n * n), at_W
    ].set(slot_W.astype(jnp.int32), mode="drop"),
    place_M=index.place_M.at[
      jnp.where(keep_W, slot_W, len(index.place_M))
    ].set(place_W, mode="drop"),
  )  # fmt: skip


def candidates(
  index: Index, query_CxE: Array, probes: int
) -> tuple[Array, Array]:
  """The slots in the `probes` best cells, [C, P S], and whether each place has
  one (no slot twice); P = min(probes, N)."""
  n, cell = index.sum_2xnxE.shape[1], index.slot_NxS.shape[1]
  query_CxE = jax.lax.stop_gradient(query_CxE).astype(jnp.float32)
  cell_CxP = _best_cells(index, _halves(query_CxE), min(probes, n * n))
  cell_CxPxS = cell_CxP[..., None]
  live_CxPxS = _live(index, cell_CxPxS, jnp.arange(cell, dtype=jnp.int32))
  shape = (len(query_CxE), -1)
  return index.slot_NxS[cell_CxP].reshape(shape), live_CxPxS.reshape(shape)


def _halves(x_CxE: Array) -> Array:
  return jnp.stack(jnp.split(x_CxE, 2, axis=-1))


def _best_cells(index: Index, half_2xCxE: Array, count: int) -> Array:
  """The cells [C, count] with the highest sum of their landmarks' scores."""
  n = index.sum_2xnxE.shape[1]
  there_n = jnp.arange(n) < index.keys

  def best(half_CxE, sum_nxE):
    score_Cxn = jnp.where(there_n, half_CxE @ unit(sum_nxE).T, EMPTY)
    return jax.lax.top_k(score_Cxn, min(count, n))

  # A cell among the best has halves among the best. (One search for both would
  # be slower: XLA sorts for a top-k whose result is sliced.)
  (score_Cxp, at_Cxp), (score_Cxq, at_Cxq) = (
    best(half_2xCxE[i], index.sum_2xnxE[i]) for i in range(2)
  )
  score_Cxpxq = score_Cxp[:, :, None] + score_Cxq[:, None, :]
  cell_Cxpxq = n * at_Cxp[:, :, None] + at_Cxq[:, None, :]
  shape = (len(score_Cxp), -1)
  _, best_CxP = jax.lax.top_k(score_Cxpxq.reshape(shape), count)
  return jnp.take_along_axis(cell_Cxpxq.reshape(shape), best_CxP, axis=-1)


def _live(index: Index, cell: Array, at: Array) -> Array:
  """Whether a place holds a slot that has not moved on."""
  slot = index.slot_NxS[cell, at]
  place = cell * index.slot_NxS.shape[1] + at
  return (slot >= 0) & (index.place_M[slot] == place)
