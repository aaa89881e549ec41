"""The sections of an experiment's settings; `config.Experiment` checks what is
about several of them."""

import dataclasses
from typing import Any

from mattt_jax.strict import (
  require,
  require_at_least,
  require_choice,
  require_positive,
  require_share,
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The decoder transformer (semantics: tests/golden/README.md). Its last
  `num_suffix` blocks run inside the inner loop and may hold fast weights; the
  blocks before them are the prefix."""

  dim: int = 64
  num_layers: int = 4
  num_suffix: int = 2
  num_heads: int = 4
  mlp_dim: int = 128
  fast_mlp_dim: int = 128  # 0: the suffix blocks have no second ("fast") MLP
  fast: tuple[str, ...] = ("suffix/fast_mlp/*",)  # globs over parameter paths
  attention: str = "window"  # or "full"
  window: int = 32  # keys a token sees, itself included (attention="window")
  suffix_mixer: str = "attention"  # or "gated_delta", in the suffix blocks
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  init_std: float = 0.02
  embedding_std: float = 0.0  # 0: init_std; with post-norms small ones drown
  tie_embeddings: bool = True
  qk_norm: bool = True
  pre_norm: bool = True
  post_norm: bool = True
  dtype: str = "float32"  # of matrix products; norms, softmax, loss are float32
  remat_prefix: bool = True
  # Or "banded" (layers/attention.py), "splash" (layers/splash.py); "auto" is
  # splash in programs for TPUs where lengths are multiples of its blocks.
  prefix_attention: str = "auto"
  vocab_block: int = 8192  # entries that the head scores at once; 0: all

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
    for field in ("rope_theta", "norm_eps", "init_std"):
      require_positive(f"model.{field}", getattr(self, field))
    require_at_least("model.embedding_std", self.embedding_std, 0.0)
    require_at_least("model.vocab_block", self.vocab_block, 0)
    require_choice("model.attention", self.attention, ("window", "full"))
    mixers, kinds = ("attention", "gated_delta"), ("auto", "banded", "splash")
    require_choice("model.suffix_mixer", self.suffix_mixer, mixers)
    require_choice("model.prefix_attention", self.prefix_attention, kinds)
    require(
      self.prefix_attention != "splash" or self.attention == "window",
      "model.prefix_attention='splash' reads a window, but model.attention="
      f"{self.attention!r}: use model.prefix_attention='auto'",
    )
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
  differentiation: str = "mixed"  # or "reverse" (ttt/differentiation.py)
  # What the outer backward pass recomputes. 0: nothing; 1: each of n chunks; 2:
  # segments of about sqrt(n), then their chunks, and so on. States kept grow
  # like n^(1/levels); a level costs one forward pass. -1: two where they keep
  # at most a quarter of the bytes that one would, else one.
  remat_levels: int = -1
  offload: bool = False  # keeps these states in the host's memory
  # Chunks whose inner steps the meta-gradient goes back through; 0: all.
  unroll: int = 0
  max_drift: float = 0.0  # cap on the norm of W_i - W_0 over all; 0: none

  def __post_init__(self):
    optimizers, orders = ("sgd", "momentum", "adamw"), ("mixed", "reverse")
    require_choice("inner.optimizer", self.optimizer, optimizers)
    require_choice("inner.differentiation", self.differentiation, orders)
    for field in ("learning_rate", "warmup_init", "clip_norm", "weight_decay",
                  "max_drift"):  # fmt: skip
      require_at_least(f"inner.{field}", getattr(self, field), 0.0)
    for field in ("warmup_steps", "unroll"):
      require_at_least(f"inner.{field}", getattr(self, field), 0)
    require_at_least("inner.remat_levels", self.remat_levels, -1)
    for field in ("momentum", "b1", "b2"):
      require_share(f"inner.{field}", getattr(self, field))
    require_positive("inner.eps", self.eps)
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


@dataclasses.dataclass(frozen=True)
class CoordinationConfig:
  """How weights and memory share the work; at the defaults both learn all of it
  from the first step on."""

  # A part is off before its start (outer step), then in a share of the steps.
  inner_start: int = 0
  inner_off_share: float = 0.0
  memory_start: int = 0
  memory_off_share: float = 0.0
  read_loss: float = 0.0  # weight of the memory's next-token loss (meta loss)
  # Or "without_memory"; after the read, weights learn what the memory lacks.
  inner_loss: str = "after_read"
  surprise_power: float = 0.0  # inner loss: tokens weigh loss^surprise_power
  # A learned inner rate, exp(a + b m), m the share of the read that is memory.
  rate_from_memory: bool = False
  # Past chunks, those most like the chunk just read, that take an inner step
  # each before the next chunk.
  replay: int = 0
  replay_capacity: int = 0  # chunks kept for it, the newest; 0: all
  replay_keep: bool = True  # False: its steps serve one chunk, then go

  def __post_init__(self):
    for field in ("inner_start", "memory_start", "replay", "replay_capacity"):
      require_at_least(f"coordination.{field}", getattr(self, field), 0)
    for field in ("inner_off_share", "memory_off_share"):
      require_share(f"coordination.{field}", getattr(self, field))
    for field in ("read_loss", "surprise_power"):
      require_at_least(f"coordination.{field}", getattr(self, field), 0.0)
    losses = ("after_read", "without_memory")
    require_choice("coordination.inner_loss", self.inner_loss, losses)
    require(
      not self.replay_capacity or self.replay < self.replay_capacity,
      f"coordination.replay={self.replay} must be < "
      f"coordination.replay_capacity={self.replay_capacity}: the newest of the "
      "chunks kept is not replayed",
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
    for field in ("b1", "b2"):
      require_share(f"outer.{field}", getattr(self, field))
    require_positive("outer.eps", self.eps)
    require_at_least("outer.warmup_steps", self.warmup_steps, 0)
    require_choice("outer.reduction", self.reduction, ("tokens", "chunks"))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, and what is written when (all in outer steps)."""

  steps: int = 300
  log_every: int = 10
  eval_every: int = 0  # 0: only after the last step
  checkpoint_every: int = 100
  keep_checkpoints: int = 2  # the newest
  keep_best: bool = False  # also that of the lowest `eval_every` tuning loss
  prefetch: int = 8  # batches made ahead, and placed on the devices
  # Sequences whose gradient is taken at once (less memory, the same numbers);
  # 0: the whole batch.
  micro_batch: int = 0
  # Each step draws its length (tokens) from these; (): the task's at that step.
  random_lengths: tuple[int, ...] = ()
  # Parameters that the outer optimiser moves: globs as in `model.fast`, and
  # "inner/*", "coordination/*". The rest has no gradient and no optimiser
  # state (fast weights still learn from W_0).
  trainable: tuple[str, ...] = ("*",)

  def __post_init__(self):
    require(
      bool(self.trainable),
      "train.trainable=() leaves nothing to train: name globs over parameter "
      "paths, ('*',) for all",
    )
    for field in ("steps", "log_every", "checkpoint_every",
                  "keep_checkpoints", "prefetch"):  # fmt: skip
      require_at_least(f"train.{field}", getattr(self, field), 1)
    for field in ("eval_every", "micro_batch"):
      require_at_least(f"train.{field}", getattr(self, field), 0)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation on the held-out split."""

  lengths: tuple[int, ...] = ()  # (): the training length only
  sequences: int = 32  # at each length
  batch_size: int = 8
  position_buckets: int = 8  # for loss by token position, answers by distance
  # Tokens (rounded down to whole chunks) read at once, with the state carried
  # on, so that activations do not grow with the length; 0: all.
  segment: int = 4096
  inner: bool = True  # False: read with the inner loop off
  memory: bool = True  # False: read with the memory off
  choices: int = 8  # answers of a multiple choice at most, with the right one
  # The end of a run (evaluation/final.py):
  split: str = "test"
  tasks: tuple[
    str, ...
  ] = ()  # more: "mqar:num_pairs=64@4096"; @: not `lengths`
  parts_off: bool = False  # also without each part, at the training length

  def __post_init__(self):
    for field in ("sequences", "batch_size", "position_buckets"):
      require_at_least(f"eval.{field}", getattr(self, field), 1)
    require_choice("eval.split", self.split, ("tune", "test"))
    require_at_least("eval.choices", self.choices, 2)
    require_at_least("eval.segment", self.segment, 0)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices on each axis of the mesh (docs/meshes.md); a run may go on with
  another one."""

  data: int = -1  # sequences; -1: all devices that the others leave
  fsdp: int = 1  # sequences, and parameters with their optimiser state
  tensor: int = 1  # heads, hidden units, vocabulary
  context: int = 1  # tokens of a chunk, slots of a memory

  def __post_init__(self):
    require(
      self.data == -1 or self.data >= 1,
      f"mesh.data={self.data} must be at least 1, or -1 for all devices that "
      "the other axes leave",
    )
    for field in ("fsdp", "tensor", "context"):
      require_at_least(f"mesh.{field}", getattr(self, field), 1)

  def check(self, experiment: Any) -> None:
    """Raises `ValueError` unless each axis divides what it splits."""
    model, memory = experiment.model, experiment.memory
    sizes = [
      ("fsdp", "model.dim", model.dim),
      ("tensor", "model.num_heads", model.num_heads),
      ("tensor", "model.mlp_dim", model.mlp_dim),
      ("tensor", "model.fast_mlp_dim", model.fast_mlp_dim),
      ("context", "chunk", experiment.chunk),
      *((axis, f"memory.{field}", getattr(memory, field))
        for field, axis in memory.SPLIT.items()),
    ]  # fmt: skip
    for axis, field, size in sizes:
      devices = getattr(self, axis)
      require(
        size % devices == 0,
        f"mesh.{axis}={devices} must divide {field}={size}",
      )
