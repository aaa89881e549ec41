"""A task, written "NAME", or "NAME:field=value,field=value": the settings of
the trained task, or the defaults of another with its tokenizer, so changed.
"""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.config import Experiment, require


def task_experiment(
  trained: Experiment, text: str, lengths: Sequence[int]
) -> Experiment:
  """The trained experiment with the task `text`, to be read at `lengths`.

  Raises:
    ValueError: an unknown task or field, or sizes that do not fit.
  """
  name, _, changes = text.partition(":")
  tree = config_lib.to_dict(trained)["task"]
  cls = registry.load(config_lib.TASKS, name).Config
  if name != tree.pop("name"):
    # The tokens of another text are those that the model knows.
    shared = {"tokenizer"} & {field.name for field in dataclasses.fields(cls)}
    tree = {field: tree[field] for field in shared & tree.keys()}
  for part in filter(None, changes.split(",")):
    field, equals, value = part.partition("=")
    require(bool(equals), f"task {text!r}: {part!r} must be field=value")
    tree[field] = _literal(value)
  tree = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
  # `length` too: what fits the lengths that are read may not fit the trained.
  return dataclasses.replace(
    trained,
    task=config_lib.build(cls, tree, "task."),
    length=lengths[0],
    train=dataclasses.replace(trained.train, random_lengths=()),
    eval=dataclasses.replace(trained.eval, lengths=tuple(lengths)),
  )


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text
