"""Progress of a run: a bar or, where nobody watches, lines."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from mattt_jax.devices import processes


class Progress:
  """Progress of `steps` outer steps, of which `done` are done."""

  def __init__(self, steps: int, done: int):
    self.steps = steps
    self.bar = tqdm(
      total=steps,
      initial=done,
      unit="step",
      disable=not (sys.stderr.isatty() and processes.is_first()),
    )

  def step(self) -> None:
    """Counts a step."""
    self.bar.update()

  def show(self, step: int, row: Mapping[str, Any]) -> None:
    """Shows the main numbers of a row of metrics."""
    shown = {
      "loss": f"{row['loss']:.4f}",
      "tokens/s": f"{row['tokens_per_second']:,.0f}",
    }
    if row["answer_accuracy"] is not None:
      shown["accuracy"] = f"{row['answer_accuracy']:.3f}"
    self.bar.set_postfix(shown, refresh=False)
    if self.bar.disable:
      left = row["seconds_per_step"] * (self.steps - step)
      text = "  ".join(f"{k} {v}" for k, v in shown.items())
      processes.say(f"step {step}/{self.steps}  {text}  {left:.0f} s left")

  def close(self) -> None:
    """Ends the bar."""
    self.bar.close()
