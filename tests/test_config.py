import copy
import dataclasses
import json
import typing

import pytest
from ml_collections import ConfigDict

from mattt_jax import config as config_lib
from mattt_jax import registry, strict

MEMORY_NAMES = ", ".join(registry.names(config_lib.MEMORIES))
BAD_VALUES = {
  int: ("3", 3.0, True, None),
  float: ("1e-3", True, None, float("nan"), float("inf"), 10**400),
  bool: (1, "true", None),
  str: (3, None, ("a",)),
}


def settings(
  task="associative_recall",
  memory="episodic",
  learner="recurrence",
  /,
  **changes,
):
  """A valid tree of settings, with `changes` of "a.b" fields (a__b)."""
  tree = config_lib.template(task, memory, learner).to_dict()
  for path, value in changes.items():
    *groups, field = path.split("__")
    node = tree
    for group in groups:
      node = node[group]
    node[field] = value
  return tree


def error_of(tree):
  with pytest.raises(ValueError) as error:
    config_lib.from_config_dict(ConfigDict(tree))
  return str(error.value)


@pytest.mark.parametrize("task", registry.names(config_lib.TASKS))
@pytest.mark.parametrize("memory", registry.names(config_lib.MEMORIES))
def test_round_trip(task, memory):
  tree = settings(task, memory, length=512, chunk=64, inner__clip_norm=3)
  experiment = config_lib.from_config_dict(ConfigDict(tree))
  assert experiment.length == 512
  assert experiment.inner.clip_norm == 3.0
  assert isinstance(experiment.inner.clip_norm, float)
  as_json = json.loads(json.dumps(config_lib.to_dict(experiment)))
  assert as_json["task"]["name"] == task
  assert as_json["memory"]["name"] == memory
  assert config_lib.differences(as_json, tree) == []
  assert config_lib.from_config_dict(ConfigDict(as_json)) == experiment


def test_template_has_every_field_at_its_default():
  tree = settings()
  assert tree["model"]["window"] == config_lib.ModelConfig().window
  for key, cls in typing.get_type_hints(config_lib.Experiment).items():
    assert key in tree
    if dataclasses.is_dataclass(cls):
      assert tree[key] == dataclasses.asdict(cls())


def test_settings_are_frozen_and_hashable():
  experiment = config_lib.from_config_dict(ConfigDict(settings()))
  with pytest.raises(dataclasses.FrozenInstanceError):
    experiment.model.window = 3
  assert hash(experiment) == hash(copy.deepcopy(experiment))


@pytest.mark.parametrize(
  "changes, message",
  [
    # meshes
    (dict(mesh__data=0), "mesh.data=0 must be at least 1, or -1"),
    (dict(mesh__fsdp=0), "mesh.fsdp=0 must be at least 1"),
    (dict(mesh__fsdp=3), "mesh.fsdp=3 must divide model.dim=64"),
    (dict(mesh__tensor=3), "mesh.tensor=3 must divide model.num_heads=4"),
    (dict(mesh__tensor=4, model__mlp_dim=30),
     "mesh.tensor=4 must divide model.mlp_dim=30"),
    (dict(mesh__tensor=4, model__fast_mlp_dim=30),
     "mesh.tensor=4 must divide model.fast_mlp_dim=30"),
    (dict(mesh__tensor=4, memory__num_heads=2),
     "mesh.tensor=4 must divide memory.num_heads=2"),
    (dict(mesh__context=3), "mesh.context=3 must divide chunk=32"),
    # names
    (dict(model__windwo=3), "unknown field model.windwo: expected one of dim,"),
    (dict(model__windwo=3), "Did you mean 'window'?"),
    (dict(legnth=3), "unknown field legnth: expected one of task, memory, "
     "learner, seed,"),
    (dict(task__pairs=3), "unknown field task.pairs: expected one of"),
    (dict(memory__name="episodci"), "unknown name 'episodci' in memory: "
     f"expected one of {MEMORY_NAMES}"),
    (dict(task__name="recal"), "unknown name 'recal' in tasks: expected one"),
    (dict(task__name=3), "must be a ConfigDict with a name: one of"),
    (dict(memory=None), "memory=None must be a ConfigDict with a name: one of "
     f"{MEMORY_NAMES}"),
    (dict(model=3), "model=3 must be a ConfigDict of the fields of "
     "ModelConfig"),
    (dict(model__attention="windowed"), "model.attention='windowed' is not "
     "known: use one of window, full"),
    (dict(model__dtype="float16"), "use one of float32, bfloat16"),
    (dict(inner__optimizer="adam"), "use one of sgd, momentum, adamw"),
    (dict(outer__reduction="mean"), "use one of tokens, chunks"),
    # sizes
    (dict(chunk=48, length=128), "chunk=48 must divide length=128: use a "
     "length of 144"),
    (dict(eval__lengths=(256, 500)), "chunk=32 must divide eval.lengths=500: "
     "use a length of 512"),
    (dict(train__random_lengths=(256, 500)), "chunk=32 must divide "
     "train.random_lengths=500: use a length of 512"),
    (dict(train__random_lengths=(64,)), "length=64 is too short for task"),
    (dict(train__random_lengths=(512,), task__lengths=(256,),
          task__lengths_until=(3,)), "task.lengths=(256,) does nothing with "
     "train.random_lengths=(512,): choose one"),
    (dict(eval__lengths=(0,)), "chunk=32 must divide eval.lengths=0: use a "
     "length of 32"),
    (dict(length=0), "length=0 must be at least 1"),
    (dict(chunk=0), "chunk=0 must be at least 1"),
    (dict(chunk=-32), "chunk=-32 must be at least 1"),
    (dict(batch_size=0), "batch_size=0 must be at least 1"),
    (dict(seed=-1), "seed=-1 must lie in 0 .. 2**32 - 1"),
    (dict(seed=2**32), "seed=4294967296 must lie in 0 .. 2**32 - 1"),
    (dict(model__window=0), "model.window=0 must be at least 1"),
    (dict(model__dim=0), "model.dim=0 must be at least 1"),
    (dict(model__num_layers=0), "model.num_layers=0 must be at least 1"),
    (dict(model__mlp_dim=0), "model.mlp_dim=0 must be at least 1"),
    (dict(model__fast_mlp_dim=-1), "model.fast_mlp_dim=-1 must be at least 0"),
    (dict(model__num_suffix=5), "model.num_suffix=5 must lie in 0 .. "
     "num_layers=4"),
    (dict(model__num_suffix=-1), "model.num_suffix=-1 must lie in 0"),
    (dict(model__num_heads=5), "model.num_heads=5 must divide model.dim=64"),
    (dict(model__num_heads=64), "must be even"),
    (dict(model__rope_theta=0.0), "model.rope_theta=0.0 must be positive"),
    (dict(model__norm_eps=-1e-6), "model.norm_eps=-1e-06 must be positive"),
    (dict(model__init_std=0.0), "model.init_std=0.0 must be positive"),
    # inner loop
    (dict(inner__learning_rate=-1.0), "inner.learning_rate=-1.0 must be at "
     "least 0"),
    (dict(inner__warmup_steps=-1), "inner.warmup_steps=-1 must be at least 0"),
    (dict(inner__clip_norm=-1.0), "inner.clip_norm=-1.0 must be at least 0"),
    (dict(inner__momentum=1.0), "inner.momentum=1.0 must lie in [0, 1)"),
    (dict(inner__b2=1.5), "inner.b2=1.5 must lie in [0, 1)"),
    (dict(inner__eps=0.0), "inner.eps=0.0 must be positive"),
    (dict(inner__retention=0.0), "inner.retention=0.0 must lie in (0, 1]"),
    (dict(inner__retention=1.1), "inner.retention=1.1 must lie in (0, 1]"),
    (dict(inner__learn_retention=True), "needs inner.retention < 1"),
    (dict(inner__learn_rate=True, inner__learning_rate=0.0),
     "inner.learn_rate=True needs inner.learning_rate > 0"),
    (dict(inner__max_drift=-1.0), "inner.max_drift=-1.0 must be at least 0"),
    # coordination
    *(
      ({f"coordination__{field}": -1},
       f"coordination.{field}=-1 must be at least 0")
      for field in ("inner_start", "memory_start", "replay", "replay_capacity")
    ),
    *(
      ({f"coordination__{field}": value},
       f"coordination.{field}={value} must lie in [0, 1)")
      for field in ("inner_off_share", "memory_off_share")
      for value in (1.0, -0.1)
    ),
    *(
      ({f"coordination__{field}": -0.5},
       f"coordination.{field}=-0.5 must be at least 0")
      for field in ("read_loss", "surprise_power")
    ),
    (dict(coordination__inner_loss="both"), "coordination.inner_loss='both' is "
     "not known: use one of after_read, without_memory"),
    (dict(train__micro_batch=3),
     "train.micro_batch=3 must divide batch_size=8"),
    (dict(train__micro_batch=2, coordination__read_loss=0.5),
     "train.micro_batch=2 does not go with coordination.read_loss=0.5"),
    (dict(coordination__replay=2, coordination__replay_capacity=2),
     "coordination.replay=2 must be < coordination.replay_capacity=2"),
    *(
      ({f"coordination__{field}": value, "inner__enabled": False},
       f"coordination.{field}={value} needs inner.enabled=True")
      for field, value in (("inner_start", 1), ("inner_off_share", 0.5),
                           ("surprise_power", 1.0), ("rate_from_memory", True),
                           ("replay", 1))
    ),
    *(
      ({f"coordination__{field}": value, "memory": {"name": "none"}},
       f"coordination.{field}={value} needs a memory, but there is none")
      for field, value in (("memory_start", 1), ("memory_off_share", 0.5),
                           ("read_loss", 1.0), ("rate_from_memory", True))
    ),
    # outer loop, training, evaluation
    (dict(outer__learning_rate=-1.0), "outer.learning_rate=-1.0 must be at"),
    (dict(outer__weight_decay=-0.1), "outer.weight_decay=-0.1 must be at"),
    (dict(outer__warmup_steps=-1), "outer.warmup_steps=-1 must be at least 0"),
    (dict(outer__b1=1.0), "outer.b1=1.0 must lie in [0, 1)"),
    (dict(outer__eps=0.0), "outer.eps=0.0 must be positive"),
    (dict(train__steps=0), "train.steps=0 must be at least 1"),
    (dict(train__log_every=0), "train.log_every=0 must be at least 1"),
    (dict(train__eval_every=-1), "train.eval_every=-1 must be at least 0"),
    (dict(train__checkpoint_every=0), "train.checkpoint_every=0 must be at"),
    (dict(train__keep_checkpoints=0), "train.keep_checkpoints=0 must be at"),
    (dict(train__prefetch=0), "train.prefetch=0 must be at least 1"),
    (dict(eval__sequences=0), "eval.sequences=0 must be at least 1"),
    (dict(eval__batch_size=0), "eval.batch_size=0 must be at least 1"),
    (dict(eval__position_buckets=0), "eval.position_buckets=0 must be at"),
    # the task and the memory check the sizes, too
    (dict(length=64), "length=64 is too short for task.num_pairs=16"),
    (dict(task__interference=1.5), "task.interference=1.5"),
    (dict(memory__head_dim=0), "memory.head_dim=0"),
  ],
)  # fmt: skip
def test_an_error_names_field_value_and_fix(changes, message):
  assert message in error_of(settings(**changes))


def fields_of(cls, path=()):
  for name, hint in typing.get_type_hints(cls).items():
    if typing.ClassVar in (hint, typing.get_origin(hint)) or hint is typing.Any:
      continue
    if dataclasses.is_dataclass(hint):
      yield from fields_of(hint, (*path, name))
    else:
      yield (*path, name), hint


def all_fields():
  yield from fields_of(config_lib.Experiment)
  for key, package in (
    ("task", config_lib.TASKS),
    ("memory", config_lib.MEMORIES),
    ("learner", config_lib.LEARNERS),
  ):
    for name in registry.names(package):
      cls = registry.load(package, name).Config
      for path, hint in fields_of(cls, (key,)):
        yield ({key: name}, path, hint)


def bad_values(hint):
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    yield from (3, "abc", None, {"a": 1})
    size = len(typing.get_args(hint)) if ... not in typing.get_args(hint) else 1
    yield from ((bad,) * size for bad in BAD_VALUES[item])
  elif type(None) in typing.get_args(hint):  # "float | None"
    yield from (
      x for x in bad_values(typing.get_args(hint)[0]) if x is not None
    )
  else:
    yield from (v for v in BAD_VALUES[hint])
    yield [1]


CASES = [case if len(case) == 3 else ({}, *case) for case in all_fields()]


@pytest.mark.parametrize(
  "names, path, hint",
  CASES,
  ids=["-".join([*n.values(), ".".join(p)]) for n, p, _ in CASES],
)
def test_every_field_refuses_every_wrong_type(names, path, hint):
  for bad in bad_values(hint):
    tree = settings(
      names.get("task", "associative_recall"),
      names.get("memory", "episodic"),
      names.get("learner", "recurrence"),
    )
    node = tree
    for group in path[:-1]:
      node = node[group]
    assert path[-1] in node
    node[path[-1]] = bad
    message = error_of(tree)
    assert message.startswith(".".join(path)), (bad, message)
    assert "has type" in message or "finite number" in message, message


@pytest.mark.parametrize("config", [None, {}, "experiments/recall.py"])
def test_only_a_config_dict_is_taken(config):
  with pytest.raises(ValueError, match="must be a ConfigDict: start from"):
    config_lib.from_config_dict(config)


def test_a_missing_field_takes_its_default():
  tree = settings()
  del tree["model"]["window"], tree["outer"]
  experiment = config_lib.from_config_dict(ConfigDict(tree))
  assert experiment.model.window == config_lib.ModelConfig().window
  assert experiment.outer == config_lib.OuterConfig()


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner
  pair: tuple[int, float] = (1, 2.0)
  maybe: int | None = None
  grid: tuple[tuple[int, ...], ...] = ()


def test_strict_build():
  made = strict.build(
    Outer,
    {"inner": {"size": 3}, "pair": [4, 5], "maybe": 6, "grid": [[1], [2, 3]]},
    "",
  )
  assert made == Outer(Inner(3), (4, 5.0), 6, ((1,), (2, 3)))
  assert strict.build(Outer, {"inner": {"size": 3}}, "") == Outer(Inner(3))


@pytest.mark.parametrize(
  "values, message",
  [
    ({}, "missing field a.inner"),
    ({"inner": {}}, "missing field a.inner.size"),
    ({"inner": {"size": 1}, "pair": (1,)}, "a.pair=(1,) has type tuple"),
    ({"inner": {"size": 1}, "pair": (1, "x")}, "a.pair[1]='x' has type str"),
    ({"inner": {"size": 1}, "maybe": "x"}, "expected int | None"),
    ({"inner": {"size": 1}, "grid": ((1, 2.5),)}, "a.grid[0][1]=2.5 has type"),
  ],
)
def test_strict_build_errors(values, message):
  with pytest.raises(ValueError) as error:
    strict.build(Outer, values, "a.")
  assert message in str(error.value)


def test_differences_name_every_leaf():
  old = {
    "seed": 0,
    "model": {"window": 32, "fast": ("a", "b"), "dim": 64},
    "eval": {"grid": ((1, 2), (3,))},
    "gone": 1,
  }
  new = {
    "seed": 0,
    "model": {"window": 64, "fast": ["a", "b"], "dim": 64},
    "eval": {"grid": [[1, 2], [4]]},
    "new": {"a": 1},
  }
  assert config_lib.differences(old, new) == [
    "eval.grid: [[1, 2], [3]] -> [[1, 2], [4]]",
    "gone: 1 -> (absent)",
    "model.window: 32 -> 64",
    "new: (absent) -> {'a': 1}",
  ]
  assert config_lib.differences(old, copy.deepcopy(old)) == []


DEFAULTS = dict(tiny=False, system="rag", seed=0, rate=1.0)


@pytest.mark.parametrize(
  "text, changed",
  [
    (None, {}),
    ("", {}),
    ("tiny", {"tiny": True}),
    ("tiny=false", {"tiny": False}),
    ("tiny=True,seed=3", {"tiny": True, "seed": 3}),
    (" tiny , system=perk,", {"tiny": True, "system": "perk"}),
    ("rate=3e-3", {"rate": 3e-3}),
  ],
)
def test_parse_arg(text, changed):
  args = config_lib.parse_arg(text, **DEFAULTS)
  assert args.to_dict() == DEFAULTS | changed


@pytest.mark.parametrize(
  "text, message",
  [
    ("tyni", "unknown config argument 'tyni': expected one of tiny, system, "
     "seed, rate. Did you mean 'tiny'?"),
    ("=3", "unknown config argument ''"),
    ("seed", "config argument 'seed': expected seed=<int>"),
    ("seed=3.5", "config argument 'seed=3.5': expected seed=<int>"),
    ("system", "config argument 'system': expected system=<str>"),
    ("rate=fast", "config argument 'rate=fast': expected rate=<float>"),
    ("tiny=yes", "config argument 'tiny=yes': expected tiny or tiny=false"),
    ("seed=1,seed=2", "config argument 'seed' is given twice"),
  ],
)  # fmt: skip
def test_parse_arg_errors(text, message):
  with pytest.raises(ValueError) as error:
    config_lib.parse_arg(text, **DEFAULTS)
  assert message in str(error.value)
