"""Experiment settings: a ConfigDict at the flag edge, frozen dataclasses below.

An experiment file starts from `template(task=..., memory=...)`, a `ConfigDict`
that holds every field with its default, and changes what it needs.
`from_config_dict` turns it into an `Experiment`; every mistake (a key that does
not exist, a wrong type, sizes that do not fit) is one `ValueError` that names
the field, its value and the fix, raised before anything is compiled.
"""

import dataclasses
import difflib
import types
import typing
from typing import Any

from ml_collections import ConfigDict

from mattt_jax import registry

TASKS = "mattt_jax.tasks"
MEMORIES = "mattt_jax.memory"


def require(condition: bool, message: str) -> None:
  """Raises `ValueError(message)` unless `condition`."""
  if not condition:
    raise ValueError(message)


def require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises `ValueError` unless `value` is one of `choices`."""
  require(
    value in choices,
    f"{field}={value!r} is not known: use one of {', '.join(choices)}",
  )


def require_at_least(field: str, value: float, least: float) -> None:
  """Raises `ValueError` unless `value >= least` (nan fails)."""
  require(value >= least, f"{field}={value} must be at least {least}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The decoder transformer (tests/golden/README.md has the exact semantics).

  The last `num_suffix` of `num_layers` blocks run inside the inner loop and
  may hold fast weights; the blocks before them are the prefix.
  """

  dim: int = 64
  num_layers: int = 4
  num_suffix: int = 2
  num_heads: int = 4
  mlp_dim: int = 128
  fast_mlp_dim: int = 128  # 0: the suffix blocks have no second ("fast") MLP
  fast: tuple[str, ...] = ("suffix/fast_mlp/*",)  # globs over parameter paths
  attention: str = "window"  # or "full"
  window: int = 32  # keys a token sees, itself included (attention="window")
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  init_std: float = 0.02
  tie_embeddings: bool = True
  qk_norm: bool = True
  pre_norm: bool = True
  post_norm: bool = True
  dtype: str = "float32"  # of matrix products; norms, softmax, loss are float32
  remat_prefix: bool = True

  def __post_init__(self):
    for field in ("dim", "num_layers", "num_heads", "mlp_dim", "window"):
      require_at_least(f"model.{field}", getattr(self, field), 1)
    require_at_least("model.fast_mlp_dim", self.fast_mlp_dim, 0)
    require(
      0 <= self.num_suffix <= self.num_layers,
      f"model.num_suffix={self.num_suffix} must lie in 0 .. num_layers="
      f"{self.num_layers}",
    )
    require(
      self.dim % self.num_heads == 0,
      f"model.num_heads={self.num_heads} must divide model.dim={self.dim}",
    )
    require(
      self.dim // self.num_heads % 2 == 0,
      f"model.dim={self.dim} / model.num_heads={self.num_heads} must be even "
      "(RoPE rotates pairs of channels)",
    )
    require_choice("model.attention", self.attention, ("window", "full"))
    require_choice("model.dtype", self.dtype, ("float32", "bfloat16"))

  @property
  def head_dim(self) -> int:
    return self.dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class InnerConfig:
  """Test-time training: what the inner loop does after each chunk.

      W_i = W_0 + retention (W_{i-1} - W_0) - learning_rate optimizer(grad)
  """

  enabled: bool = True
  optimizer: str = "sgd"  # or "momentum", "adamw"
  learning_rate: float = 1.0
  learn_rate: bool = False  # one learned rate per fast tensor, starting there
  warmup_steps: int = 0  # over OUTER steps, from warmup_init to learning_rate
  warmup_init: float = 0.1
  clip_norm: float = 1.0  # one global norm over all fast weights; 0: none
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  retention: float = 1.0  # in (0, 1]; 1: nothing is forgotten
  learn_retention: bool = False  # one per fast tensor, starting at retention
  second_order: bool = True  # False: first-order meta-gradients
  remat: bool = True  # recompute each chunk in the outer backward pass
  # Coordination with the memory: the inner loop is off in training steps
  # before `start_step`, and afterwards in a share `off_share` of the steps, so
  # that the memory learns to do without it.
  start_step: int = 0
  off_share: float = 0.0

  def __post_init__(self):
    require_choice(
      "inner.optimizer", self.optimizer, ("sgd", "momentum", "adamw")
    )
    for field in ("learning_rate", "warmup_init", "clip_norm", "weight_decay"):
      require_at_least(f"inner.{field}", getattr(self, field), 0.0)
    for field in ("warmup_steps", "start_step"):
      require_at_least(f"inner.{field}", getattr(self, field), 0)
    for field in ("momentum", "b1", "b2"):
      value = getattr(self, field)
      require(0 <= value < 1, f"inner.{field}={value} must lie in [0, 1)")
    require(self.eps > 0, f"inner.eps={self.eps} must be positive")
    require(
      0 < self.retention <= 1,
      f"inner.retention={self.retention} must lie in (0, 1]",
    )
    require(
      not self.learn_retention or self.retention < 1,
      "inner.learn_retention=True needs inner.retention < 1 to start from "
      "(0.9, say): at 1 its gradient through the logit vanishes",
    )
    require(
      not self.learn_rate or self.learning_rate > 0,
      "inner.learn_rate=True needs inner.learning_rate > 0 to start from",
    )
    require(
      0 <= self.off_share < 1,
      f"inner.off_share={self.off_share} must lie in [0, 1)",
    )


@dataclasses.dataclass(frozen=True)
class OuterConfig:
  """The outer optimiser: clip, AdamW, linear warm-up, cosine decay."""

  learning_rate: float = 5e-3
  final_learning_rate: float = 5e-4
  warmup_steps: int = 20
  clip_norm: float = 1.0  # 0: none
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  # "tokens": sum(w loss) / sum(w) over a sequence; "chunks": the unweighted
  # mean of the chunks' means, as published (arXiv 2512.23675).
  reduction: str = "tokens"

  def __post_init__(self):
    for field in ("learning_rate", "final_learning_rate", "clip_norm",
                  "weight_decay"):  # fmt: skip
      require_at_least(f"outer.{field}", getattr(self, field), 0.0)
    require_at_least("outer.warmup_steps", self.warmup_steps, 0)
    require_choice("outer.reduction", self.reduction, ("tokens", "chunks"))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, and what is written when (all in outer steps)."""

  steps: int = 300
  log_every: int = 10
  eval_every: int = 0  # 0: only after the last step
  checkpoint_every: int = 100
  keep_checkpoints: int = 2
  prefetch: int = 8  # examples prepared ahead of the device

  def __post_init__(self):
    for field in ("steps", "log_every", "checkpoint_every",
                  "keep_checkpoints", "prefetch"):  # fmt: skip
      require_at_least(f"train.{field}", getattr(self, field), 1)
    require_at_least("train.eval_every", self.eval_every, 0)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation on the held-out split."""

  lengths: tuple[int, ...] = ()  # (): the training length only
  sequences: int = 32  # at each length
  batch_size: int = 8
  position_buckets: int = 8  # for loss by token position, answers by distance
  inner: bool = True  # False: read with the inner loop off

  def __post_init__(self):
    for field in ("sequences", "batch_size", "position_buckets"):
      require_at_least(f"eval.{field}", getattr(self, field), 1)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that determines a run. `task`, `memory`: that file's Config."""

  task: Any
  memory: Any
  seed: int = 0
  length: int = 256  # tokens of a training sequence
  chunk: int = 32  # tokens of an inner step
  batch_size: int = 8  # sequences
  model: ModelConfig = ModelConfig()
  inner: InnerConfig = InnerConfig()
  outer: OuterConfig = OuterConfig()
  train: TrainConfig = TrainConfig()
  eval: EvalConfig = EvalConfig()

  def __post_init__(self):
    for field in ("length", "chunk", "batch_size"):
      require_at_least(field, getattr(self, field), 1)
    require_at_least("seed", self.seed, 0)
    for field, length in [("length", self.length)] + [
      ("eval.lengths", n) for n in self.eval.lengths
    ]:
      require_chunked(self.chunk, length, field)
    self.task.check(self)
    self.memory.check(self)


def require_chunked(chunk: int, length: int, field: str = "length") -> None:
  """Raises `ValueError` unless `chunk` divides `length`."""
  require(
    length >= 1 and length % chunk == 0,
    f"chunk={chunk} must divide {field}={length}: use a length of "
    f"{max(1, round(length / chunk)) * chunk}",
  )


def template(task: str, memory: str = "none") -> ConfigDict:
  """A ConfigDict with every field of an experiment at its default."""
  entries = {
    "task": (task, registry.load(TASKS, task).Config),
    "memory": (memory, registry.load(MEMORIES, memory).Config),
  }
  config = _defaults(Experiment, skip=tuple(entries))
  for key, (name, cls) in entries.items():
    config[key] = ConfigDict({"name": name, **_defaults(cls).to_dict()})
  return config


def _defaults(cls: type, skip: tuple[str, ...] = ()) -> ConfigDict:
  out = ConfigDict()
  for field in dataclasses.fields(cls):
    if field.name in skip:
      continue
    value = field.default
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
      out[field.name] = _defaults(type(value))
    else:
      out[field.name] = value
  return out


def from_config_dict(config: ConfigDict) -> Experiment:
  """Checks `config` whole and freezes it.

  Raises:
    ValueError: names the first field that is wrong, its value and the fix.
  """
  tree = config.to_dict()
  for key, package in (("task", TASKS), ("memory", MEMORIES)):
    entry = tree.get(key)
    require(
      isinstance(entry, dict) and isinstance(entry.get("name"), str),
      f"{key}={entry!r} must be a ConfigDict with a name: one of "
      f"{', '.join(registry.names(package))}",
    )
    name = entry.pop("name")
    tree[key] = _build(registry.load(package, name).Config, entry, f"{key}.")
  return _build(Experiment, tree, "")


def to_dict(experiment: Experiment) -> dict[str, Any]:
  """The settings as plain nested dicts (JSON-ready, names included)."""
  tree = dataclasses.asdict(experiment)
  for key in ("task", "memory"):
    module = type(getattr(experiment, key)).__module__
    tree[key] = {"name": module.rsplit(".", 1)[-1], **tree[key]}
  return tree


def differences(old: dict, new: dict, path: str = "") -> list[str]:
  """Lists `field: old -> new` for every leaf in which two settings differ."""
  lines = []
  for key in sorted(set(old) | set(new)):
    a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
    if isinstance(a, dict) and isinstance(b, dict):
      lines += differences(a, b, f"{path}{key}.")
    elif (list(a) if isinstance(a, tuple) else a) != (
      list(b) if isinstance(b, tuple) else b
    ):
      lines.append(f"{path}{key}: {a!r} -> {b!r}")
  return lines


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Parses an experiment's argument, `"tiny,system=swa,seed=3"`.

  Each name must be in `defaults`, which also give the types; a boolean may
  stand alone.

  Raises:
    ValueError: unknown name or a value of another type.
  """
  out = ConfigDict(defaults)
  for part in filter(None, (arg or "").split(",")):
    name, _, text = part.partition("=")
    if name not in defaults:
      raise ValueError(
        f"unknown config argument {name!r}{_suggest(name, defaults)}"
      )
    kind = type(defaults[name])
    try:
      if kind is bool:
        out[name] = {"": True, "true": True, "false": False}[text.lower()]
      else:
        out[name] = kind(text)
    except (KeyError, ValueError):
      raise ValueError(
        f"config argument {part!r}: expected {name}=<{kind.__name__}>"
      ) from None
  return out


def _suggest(name: str, known) -> str:
  close = difflib.get_close_matches(name, list(known), n=1)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  return f": expected one of {', '.join(known)}.{hint}"


def _build(cls: type, values: dict, path: str):
  """Makes the dataclass `cls` of `values`, strict in names and types."""
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  made = {}
  for name, value in values.items():
    if name not in fields:
      raise ValueError(f"unknown field {path}{name}{_suggest(name, fields)}")
    hint = hints[name]
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
      made[name] = _build(hint, value, f"{path}{name}.")
    else:
      made[name] = _typed(hint, value, path + name)
  missing = [
    n
    for n, f in fields.items()
    if n not in made and f.default is dataclasses.MISSING
  ]
  require(not missing, f"missing field {path}{missing[0] if missing else ''}")
  return cls(**made)


def _typed(hint: Any, value: Any, path: str) -> Any:
  """Returns `value` as `hint`; only int -> float and list -> tuple convert."""
  origin = typing.get_origin(hint)
  if hint is Any:
    return value
  if origin in (typing.Union, types.UnionType):
    for option in typing.get_args(hint):
      try:
        return _typed(option, value, path)
      except ValueError:
        continue
  elif hint is type(None) and value is None:
    return None
  elif origin is tuple and isinstance(value, (tuple, list)):
    item, *rest = typing.get_args(hint)
    items = [item] * len(value) if rest == [Ellipsis] else [item, *rest]
    if len(items) == len(value):
      return tuple(
        _typed(h, v, f"{path}[{i}]")
        for i, (h, v) in enumerate(zip(items, value, strict=True))
      )
  elif hint is float and isinstance(value, (int, float)):
    if not isinstance(value, bool):
      return float(value)
  elif hint in (int, str, bool) and type(value) is hint:
    return value
  expected = hint.__name__ if isinstance(hint, type) else str(hint)
  raise ValueError(
    f"{path}={value!r} has type {type(value).__name__}, expected {expected}"
  )
