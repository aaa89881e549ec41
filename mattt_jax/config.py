"""Experiment settings: a ConfigDict at the flag edge, frozen dataclasses below
(`sections.py` has them one by one).

An experiment file changes what it needs of `template(task=..., memory=...)`;
`from_config_dict` makes it an `Experiment`, before anything is compiled.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mattt_jax import registry
from mattt_jax.sections import (
  CoordinationConfig,
  EvalConfig,
  InnerConfig,
  MeshConfig,
  ModelConfig,
  OuterConfig,
  TrainConfig,
)

# Tasks, memories, learners and experiments check their own settings with them.
from mattt_jax.strict import (  # noqa: F401
  build,
  require,
  require_at_least,
  require_choice,
  require_positive,
  require_share,
)

TASKS = "mattt_jax.tasks"
MEMORIES = "mattt_jax.memory"
LEARNERS = "mattt_jax.learners"
_ENTRIES = {"task": TASKS, "memory": MEMORIES, "learner": LEARNERS}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that determines a run."""

  task: Any  # `Config` of a file in tasks/, likewise the next two
  memory: Any
  learner: Any
  seed: int = 0
  length: int = 256  # tokens of a training sequence
  chunk: int = 32  # tokens of an inner step
  batch_size: int = 8  # sequences
  model: ModelConfig = ModelConfig()
  inner: InnerConfig = InnerConfig()
  coordination: CoordinationConfig = CoordinationConfig()
  outer: OuterConfig = OuterConfig()
  train: TrainConfig = TrainConfig()
  eval: EvalConfig = EvalConfig()
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self):
    for field in ("length", "chunk", "batch_size"):
      require_at_least(field, getattr(self, field), 1)
    require(
      0 <= self.seed < 2**32, f"seed={self.seed} must lie in 0 .. 2**32 - 1"
    )
    for field, length in self.lengths:
      require_chunked(self.chunk, length, field)
    self._check_micro_batch()
    self._check_coordination()
    self.task.check(self)
    self.memory.check(self)
    self.learner.check(self)
    self.mesh.check(self)

  @property
  def lengths(self) -> list[tuple[str, int]]:
    """(field, tokens) of all lengths that are read."""
    return [
      ("length", self.length),
      *(("eval.lengths", n) for n in self.eval.lengths),
      *(("train.random_lengths", n) for n in self.train.random_lengths),
    ]

  def _check_micro_batch(self):
    size = self.train.micro_batch
    require(
      not size or self.batch_size % size == 0,
      f"train.micro_batch={size} must divide batch_size={self.batch_size}",
    )
    require(
      not (size and self.coordination.read_loss),
      f"train.micro_batch={size} does not go with coordination.read_loss="
      f"{self.coordination.read_loss}, a mean over the tokens of the whole "
      "batch: set one of them to 0",
    )

  def _check_coordination(self):
    """Rejects settings of a part that is not there."""
    c = self.coordination
    for field in ("inner_start", "inner_off_share", "surprise_power",
                  "rate_from_memory", "replay"):  # fmt: skip
      require(
        self.inner.enabled or not getattr(c, field),
        f"coordination.{field}={getattr(c, field)} needs inner.enabled=True",
      )
    for field in ("memory_start", "memory_off_share", "read_loss",
                  "rate_from_memory"):  # fmt: skip
      require(
        self.memory.read is not None or not getattr(c, field),
        f"coordination.{field}={getattr(c, field)} needs a memory, but there "
        "is none: choose one",
      )


def require_chunked(chunk: int, length: int, field: str = "length") -> None:
  """Raises `ValueError` unless `chunk` divides `length`."""
  require(
    length >= 1 and length % chunk == 0,
    f"chunk={chunk} must divide {field}={length}: use a length of "
    f"{max(1, round(length / chunk)) * chunk}",
  )


def template(
  task: str, memory: str = "none", learner: str = "recurrence"
) -> ConfigDict:
  """A ConfigDict with every field of an experiment at its default."""
  config = _defaults(Experiment)
  for key, name in (("task", task), ("memory", memory), ("learner", learner)):
    config[key] = entry(key, name)
  return config


def entry(key: str, name: str) -> ConfigDict:
  """The ConfigDict of a "task", "memory" or "learner" at its defaults."""
  defaults = _defaults(registry.load(_ENTRIES[key], name).Config)
  return ConfigDict({"name": name, **defaults.to_dict()})


def _defaults(cls: type) -> ConfigDict:
  out = ConfigDict()
  for field in dataclasses.fields(cls):
    if dataclasses.is_dataclass(field.default):
      out[field.name] = _defaults(type(field.default))
    elif field.default is not dataclasses.MISSING:
      out[field.name] = field.default
  return out


def from_config_dict(config: ConfigDict) -> Experiment:
  """Checks `config` whole and freezes it.

  Raises:
    ValueError: names the first field that is wrong, its value and the fix.
  """
  require(
    isinstance(config, ConfigDict),
    f"config={config!r} must be a ConfigDict: start from config.template()",
  )
  tree = config.to_dict()
  for key, package in _ENTRIES.items():
    given = tree.get(key)
    require(
      isinstance(given, dict) and isinstance(given.get("name"), str),
      f"{key}={given!r} must be a ConfigDict with a name: one of "
      f"{', '.join(registry.names(package))}",
    )
    name = given.pop("name")
    tree[key] = build(registry.load(package, name).Config, given, f"{key}.")
  return build(Experiment, tree, "")


def to_dict(experiment: Experiment) -> dict[str, Any]:
  """The settings as plain nested dicts (JSON-ready, names included)."""
  tree = dataclasses.asdict(experiment)
  for key in _ENTRIES:
    module = type(getattr(experiment, key)).__module__
    tree[key] = {"name": module.rsplit(".", 1)[-1], **tree[key]}
  return tree


def restore(tree: dict[str, Any]) -> Experiment | None:
  """The settings of an earlier `to_dict`: new fields at their defaults; None if
  a field has gone."""
  try:
    return from_config_dict(ConfigDict(renamed(tree)))
  except ValueError:
    return None


def renamed(tree: dict[str, Any]) -> dict[str, Any]:
  """Settings that an earlier version saved, under today's names."""
  tree = dict(tree)
  learner = tree.pop("baseline", tree.get("learner", {"name": "none"}))
  if learner["name"] == "none":
    learner = {**learner, "name": "recurrence"}
  tree["learner"] = learner
  inner = dict(tree.get("inner", {}))
  inner.pop("remat", None)  # what was computed twice: no number hangs on it
  moved = {
    f"inner_{new}": inner.pop(old)
    for old, new in (("start_step", "start"), ("off_share", "off_share"))
    if old in inner
  }
  if moved:
    tree["coordination"] = {**tree.get("coordination", {}), **moved}
  if inner:
    tree["inner"] = inner
  return tree


def identity(tree: dict[str, Any]) -> dict[str, Any]:
  """The plain settings that say what is computed, not on which mesh."""
  return {key: value for key, value in tree.items() if key != "mesh"}


def differences(old: dict, new: dict, path: str = "") -> list[str]:
  """Lists `field: old -> new` for every leaf in which two settings differ."""
  lines = []
  for key in sorted(old.keys() | new.keys()):
    a, b = (_listed(tree[key]) if key in tree else ... for tree in (old, new))
    if isinstance(a, dict) and isinstance(b, dict):
      lines += differences(a, b, f"{path}{key}.")
    elif a != b:
      before, after = ("(absent)" if x is ... else repr(x) for x in (a, b))
      lines.append(f"{path}{key}: {before} -> {after}")
  return lines


def _listed(value: Any) -> Any:
  """Tuples as lists, as JSON has them."""
  if isinstance(value, (tuple, list)):
    return [_listed(v) for v in value]
  return value


def parse_arg(
  arg: str | None, **defaults: bool | int | float | str
) -> ConfigDict:
  """Parses an experiment's argument, `"tiny,system=perk,seed=3"`; `defaults`
  give the names and types, and a boolean may stand alone.

  Raises:
    ValueError: unknown or repeated name, or a value of another type.
  """
  out = ConfigDict(defaults)
  seen = set()
  for part in filter(None, (p.strip() for p in (arg or "").split(","))):
    name, equals, text = part.partition("=")
    if name not in defaults:
      raise ValueError(
        f"unknown config argument {name!r}{registry.suggest(name, defaults)}"
      )
    require(name not in seen, f"config argument {name!r} is given twice")
    seen.add(name)
    kind = type(defaults[name])
    form = f"{name}=<{kind.__name__}>"
    try:
      if kind is bool:
        form = f"{name} or {name}=false"
        out[name] = {"": True, "true": True, "false": False}[text.lower()]
      else:
        require(bool(equals), "a value is needed")
        out[name] = kind(text)
    except (KeyError, ValueError):
      raise ValueError(f"config argument {part!r}: expected {form}") from None
  return out
