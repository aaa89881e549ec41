"""The splits of every task and data set."""

SPLITS = ("train", "tune", "test")


def require_split(split: str) -> None:
  """Raises `ValueError` unless `split` is one of `SPLITS`."""
  if split not in SPLITS:
    raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
