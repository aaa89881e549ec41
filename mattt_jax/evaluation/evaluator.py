"""Evaluation: loss and answers by context length, distance and position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mattt_jax.config import (
  Experiment,
  require_at_least,
  require_choice,
  require_chunked,
)
from mattt_jax.data.splits import SPLITS
from mattt_jax.devices import sharding
from mattt_jax.evaluation import bootstrap
from mattt_jax.evaluation.bootstrap import mean
from mattt_jax.evaluation.reader import Reader
from mattt_jax.tasks import batches
from mattt_jax.tasks.base import GuessingTask, Task
from mattt_jax.ttt.coordination import rate_scale
from mattt_jax.ttt.parts import Parts
from mattt_jax.ttt.read_batch import SequenceOutput
from mattt_jax.ttt.tokens import tokens_of


def evaluate(
  experiment: Experiment,
  learner: nnx.Module | tuple[nnx.GraphDef, Any],
  task: Task,
  split: str,
  lengths: Sequence[int] | None = None,
  parts: Parts | None = None,
  *,
  step: int | None = None,
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Evaluates a learner, or its (graphdef, params), on held-out sequences.

  Args:
    experiment: gives the sizes, and the defaults of what follows (`eval`).
    learner: is not changed.
    task: gives the sequences.
    split: one of `SPLITS`.
    lengths: as of `evaluate_with`.
    parts: what is on while reading, as far as the system has it.
    step: outer step whose warm-up of the inner learning rate applies; default:
      after the warm-up.
    mesh: splits the sequences of a batch over its devices; default: one device.

  Returns:
    What `evaluate_with` returns, whose errors these are too.
  """
  scale = rate_scale(experiment.inner, step)
  reader = Reader(learner, experiment, mesh, parts, scale)
  return evaluate_with(reader, task, split, lengths)


def evaluate_with(
  reader: Reader, task: Task, split: str, lengths: Sequence[int] | None = None
) -> dict[str, Any]:
  """Reads the first sequences of a split, at each length (in tokens; default
  `eval.lengths`, or the training length).

  Returns:
    A JSON value: `split`, `inner`, `memory`, and `lengths`, from the length (a
    string) to what `Totals.summary` and `guessing` say.

  Raises:
    ValueError: unknown split, or sizes that do not fit.
  """
  experiment, config = reader.experiment, reader.experiment.eval
  lengths = tuple(lengths or config.lengths or (experiment.length,))
  require_choice("split", split, SPLITS)
  for length in lengths:
    require_at_least("lengths", length, 1)
    require_chunked(experiment.chunk, length, "lengths")
  sharding.check_batch("eval.batch_size", config.batch_size, reader.mesh)
  results = {}
  for length in lengths:
    totals = Totals(length, config.position_buckets)
    for batch in batches.eval_batches(
      task, split, length, config.sequences, config.batch_size
    ):
      totals.add(batch, reader.read(tokens_of(batch)))
    results[str(length)] = totals.summary() | guessing(
      task, split, length, config.sequences
    )
  return {"split": split, **reader.parts._asdict(), "lengths": results}


def guessing(
  task: Task, split: str, length: int, sequences: int
) -> dict[str, float | None]:
  """Shares of whole answers that are right without a model: `guess_RULE` of a
  task that has such rules."""
  if not isinstance(task, GuessingTask):
    return {}
  shares = task.guessing(split, length, sequences)
  return {f"guess_{rule}": share for rule, share in shares.items()}


class Totals:
  """Sums over the sequences of one length, in float64 on the host.

  A token counts if it is learned from or scored (a weight above zero);
  padding does not. Buckets of position and of distance have equal width.
  """

  def __init__(self, length: int, buckets: int):
    self.length = length
    # edge k .. edge k+1 - 1; fewer buckets if the length is shorter
    self.edges = np.unique(np.linspace(0, length, buckets + 1).astype(int))
    n = len(self.edges) - 1
    self.sequences = self.non_finite = 0
    # measure -> of each sequence (sum, count): their ratio is the measure
    self.sums: dict[str, list[np.ndarray]] = {}
    self.by_position = np.zeros((2, n))  # tokens, loss
    # Tokens, correct, loss; the last bucket is without a distance (-1).
    self.by_distance = np.zeros((3, n + 1))
    self.aux: dict[str, list[float]] = {}

  def add(self, batch: Mapping[str, np.ndarray], out: SequenceOutput) -> None:
    """Adds a batch of arrays [B, L] and what reading it gave."""
    loss_BxL = np.asarray(out.loss_BxL, np.float64)
    correct_BxL = np.asarray(out.correct_BxL)
    outer_BxL = np.asarray(batch["outer_weight"], np.float64)
    answer_BxL = np.asarray(batch["answer"], np.int64)
    counts_BxL = (outer_BxL > 0) | (np.asarray(batch["inner_weight"]) > 0)
    is_answer_BxL = answer_BxL >= 0
    other_BxL = counts_BxL & ~is_answer_BxL
    read_BxL = counts_BxL | is_answer_BxL
    real_B = read_BxL.any(axis=1)

    self.sequences += int(real_B.sum())
    self.non_finite += int((read_BxL & ~np.isfinite(loss_BxL)).sum())
    self._add("loss", loss_BxL, outer_BxL)
    self._add("other_loss", loss_BxL, other_BxL)
    self._add("answer_loss", loss_BxL, is_answer_BxL)
    self._add("answer_accuracy", correct_BxL, is_answer_BxL)
    exact_BxA, is_BxA = _whole_answers(correct_BxL, answer_BxL)
    self._add("answer_exact_match", exact_BxA, is_BxA)

    n = len(self.edges) - 1
    position_BxL = np.broadcast_to(np.arange(self.length), loss_BxL.shape)
    bucket = self._bucket(position_BxL[counts_BxL])
    measures: tuple[np.ndarray, ...] = counts_BxL, loss_BxL
    for total, values_BxL in zip(self.by_position, measures, strict=True):
      total += np.bincount(bucket, values_BxL[counts_BxL], minlength=n)
    distance = np.asarray(batch["distance"])[is_answer_BxL]
    bucket = np.where(distance < 0, n, self._bucket(distance))
    measures = is_answer_BxL, correct_BxL, loss_BxL
    for total, values_BxL in zip(self.by_distance, measures, strict=True):
      total += np.bincount(bucket, values_BxL[is_answer_BxL], minlength=n + 1)

    if real_B.all():  # diagnostics are averages, which padding would spoil
      for name, value in out.aux.items():
        self.aux.setdefault(name, []).append(float(value))

  def _add(self, measure: str, values: np.ndarray, weight: np.ndarray) -> None:
    # where: a loss that does not count may be anything
    parts = weight * np.where(weight > 0, values, 0.0), weight
    sums_Bx2 = np.stack([x.sum(axis=1, dtype=np.float64) for x in parts], 1)
    self.sums.setdefault(measure, []).append(sums_Bx2)

  def _bucket(self, values: np.ndarray) -> np.ndarray:
    last = len(self.edges) - 2
    return np.clip(np.searchsorted(self.edges, values, "right") - 1, 0, last)

  def summary(self) -> dict[str, Any]:
    """Means and counts; a mean over nothing, or not finite, is None.

    `loss` is weighted by `outer_weight`; `other_loss` is over the tokens that
    are not answers; `answer_accuracy` is over tokens, `answer_exact_match`
    over whole answers; `intervals` are of 95 %, by bootstrap of sequences;
    `by_distance` and `by_position` go from `from` up to, but not including,
    `to` (tokens). `non_finite_tokens` counts losses that are nan or infinite.
    """
    sums = {name: np.concatenate(parts) for name, parts in self.sums.items()}
    counts = {name: sums_Nx2.sum(0)[1] for name, sums_Nx2 in sums.items()}
    spans: list[dict[str, Any]] = [
      {"from": int(a), "to": int(b)}
      for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)
    ]
    return {
      "sequences": self.sequences,
      "non_finite_tokens": self.non_finite,
      **bootstrap.summary(sums),
      "weight": float(counts["loss"]),
      "other_tokens": int(counts["other_loss"]),
      "answer_tokens": int(counts["answer_loss"]),
      "answers": int(counts["answer_exact_match"]),
      "by_distance": [
        {
          **span,
          "tokens": int(tokens),
          "accuracy": mean(correct, tokens),
          "loss": mean(loss, tokens),
        }
        for span, (tokens, correct, loss) in zip(
          [*spans, {"from": None, "to": None}], self.by_distance.T, strict=True
        )
        if span["to"] or tokens
      ],
      "by_position": [
        {**span, "tokens": int(tokens), "loss": mean(loss, tokens)}
        for span, (tokens, loss) in zip(spans, self.by_position.T, strict=True)
      ],
      "diagnostics": {k: mean(sum(v), len(v)) for k, v in self.aux.items()},
    }


def _whole_answers(
  correct_BxL: np.ndarray, answer_BxL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which answers (tokens of a sequence that share an id) are right in every
  token, and which there are: bool [B, A], A ids."""
  is_BxA = np.zeros((len(answer_BxL), int(answer_BxL.max()) + 1), bool)
  row, at = np.nonzero(answer_BxL >= 0)
  is_BxA[row, answer_BxL[row, at]] = True
  right_BxA = is_BxA.copy()
  row, at = np.nonzero((answer_BxL >= 0) & ~correct_BxL)
  right_BxA[row, answer_BxL[row, at]] = False
  return right_BxA, is_BxA
