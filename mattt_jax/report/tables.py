"""Markdown tables of results (numbers in, text out; no JAX)."""

import statistics
from collections.abc import Mapping, Sequence


def markdown(
  corner: str, columns: Sequence[object], rows: Mapping[str, Sequence[str]]
) -> list[str]:
  """The lines of a table: a head of `columns`, then label -> cells."""
  head = f"| {corner} | " + " | ".join(map(str, columns)) + " |"
  rule = "|---" * (len(columns) + 1) + "|"
  body = [f"| {k} | " + " | ".join(cells) + " |" for k, cells in rows.items()]
  return [head, rule, *body]


def summary(values: Sequence[float | None], digits: int = 3) -> str:
  """One value as it is, several as "mean [lowest, highest]", none as "-"."""
  known = [x for x in values if x is not None]
  if not known:
    return "-"
  shown = [
    f"{x:,.{digits}f}" for x in (statistics.mean(known), min(known), max(known))
  ]
  return shown[0] if len(known) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"
