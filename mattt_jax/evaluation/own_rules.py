"""A public set's own rule for a written answer, by `Record.metric`."""

from collections.abc import Sequence

from mattt_jax.evaluation import longbench, text_match


def own_rule(
  metric: str,
  answer: str,
  references: Sequence[str],
  question: str,
  labels: Sequence[str],
) -> dict[str, float]:
  """The score by a set's own rule, {its name: it}, where that is not one that
  every written answer gets (exact match, F1, string match).

  Args:
    metric: `Record.metric` of data/public_sets.py; {} of those not known here.
    answer: as the model wrote it.
    references: the right ones.
    question: as it was asked.
    labels: every possible answer of the task, of "babilong" and LongBench's
      classifications.

  Raises:
    ValueError: as `check`.
  """
  kind, _, name = metric.partition(":")
  if kind == "longbench":
    score = longbench.score(name, answer, references, labels)
    return {f"longbench_{name}": score}
  if metric == "rouge_l":
    return {"rouge_l": text_match.rouge_l(answer, references)}
  if metric == "babilong":
    score = text_match.only_label(answer, references[0], question, labels)
    return {"only_label": score}
  return {}


def check(metric: str) -> None:
  """Raises `ValueError` if the rule is one that is not here."""
  kind, _, name = metric.partition(":")
  if kind == "longbench":
    longbench.check(name)
