"""Every system that is compared, as a change of an experiment's settings.

A function under `@_system` is the one registration: its name and its docstring,
a line, are what `mattt list` shows, and the settings that it does not change
are the experiment's own.

Each memory makes two more: `swa_MEMORY`, the window and that memory, and
`ttt_MEMORY`, test-time training too (`ttt_memory` if it is episodic). With
`sliding_window` and `ttt_e2e` they are a 2x2 (`square`).
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from mattt_jax import registry
from mattt_jax.config import MEMORIES, entry

SYSTEMS: dict[str, Callable[[ConfigDict], None]] = {}
# Names in earlier versions.
RENAMED = {
  "swa": "sliding_window",
  "ttt": "ttt_e2e",
  "ttt_episodic": "ttt_memory",
}


def _system(change):
  SYSTEMS[change.__name__] = change
  return change


def names() -> tuple[str, ...]:
  """The table's names, then those made of parts."""
  return (*SYSTEMS, *_parts())


def summaries() -> dict[str, str]:
  """The line about each system of the table."""
  return {k: (v.__doc__ or "").rstrip(".") for k, v in SYSTEMS.items()}


def square(memory: str) -> tuple[str, str, str, str]:
  """The 2x2: TTT off and on without a memory, then off and on with one."""
  both = f"ttt_{memory}"
  return "sliding_window", "ttt_e2e", f"swa_{memory}", RENAMED.get(both, both)


def require_known(name: str) -> None:
  """Raises `ValueError`, which lists the names there are, unless it is one."""
  if name in RENAMED:
    raise ValueError(
      f"system={name!r} has another name: use system={RENAMED[name]}"
    )
  if name not in names():
    raise ValueError(
      f"system={name!r} is not known{registry.suggest(name, names())}"
    )


def apply(config: ConfigDict, name: str) -> None:
  """Turns the settings into those of system `name`.

  Raises:
    ValueError: unknown name; the message lists the names there are.
  """
  require_known(name)
  _inner(config, False)
  _memory(config, "none")
  config.learner = entry("learner", "recurrence")
  if name in SYSTEMS:
    SYSTEMS[name](config)
    return
  attention, _, memory = name.partition("_")
  _memory(config, memory)
  _inner(config, attention == "ttt")


def _parts() -> tuple[str, ...]:
  memories = [m for m in registry.names(MEMORIES) if m != "none"]
  pairs = [f"{a}_{m}" for m in memories for a in ("swa", "ttt")]
  return tuple(name for name in pairs if name not in RENAMED)


def _inner(config: ConfigDict, on: bool) -> None:
  config.inner.enabled = on
  config.coordination.update(inner_start=0, inner_off_share=0.0)


def _memory(config: ConfigDict, name: str, **settings) -> None:
  config.memory = entry("memory", name)
  config.memory.update(settings)


# Without a memory.


@_system
def full_attention(config: ConfigDict) -> None:
  """Transformer, full attention: the whole context in view."""
  config.model.attention = "full"


@_system
def sliding_window(config: ConfigDict) -> None:
  """Transformer, sliding-window attention alone."""


@_system
def sliding_window_equal_bytes(config: ConfigDict) -> None:
  """Sliding window as wide as the bytes of an episodic memory allow."""
  # Bytes: a slot is a key, an id and a flag; a position a key and a value in
  # every block.
  memory = entry("memory", "episodic")
  slot = 4 * memory.num_heads * memory.head_dim + 4 + 1
  position = 4 * 2 * config.model.dim * config.model.num_layers
  slots = memory.capacity or config.length
  config.model.window += round(slots * slot / position)
  if "out_of_reach" in config.task:  # what a wide window reaches, it may
    config.task.out_of_reach = False


@_system
def gated_delta_net(config: ConfigDict) -> None:
  """All suffix mixing by the gated delta rule (2412.06464)."""
  config.model.suffix_mixer = "gated_delta"


# Test-time training without a memory.


@_system
def ttt_e2e(config: ConfigDict) -> None:
  """TTT-E2E (2512.23675): fast MLPs, meta-learned, second order."""
  _inner(config, True)


@_system
def ttt_e2e_first_order(config: ConfigDict) -> None:
  """TTT-E2E with first-order meta-gradients."""
  _inner(config, True)
  config.inner.second_order = False


@_system
def dynamic_evaluation(config: ConfigDict) -> None:
  """Dynamic evaluation (1709.07432): gradient steps at test time only."""
  _inner(config, True)
  config.coordination.inner_start = config.train.steps  # never in training
  config.inner.learning_rate = 0.1  # not meta-learned, so kept small


@_system
def ttt_nn(config: ConfigDict) -> None:
  """TTT on nearest neighbours (2305.18466), inside one context."""
  _inner(config, True)
  config.learner = entry("learner", "ttt_nn")


@_system
def perk(config: ConfigDict) -> None:
  """PERK (2507.06415): LoRA learned from unordered segments."""
  _inner(config, True)
  config.learner = entry("learner", "perk")


# A memory without test-time training.


@_system
def memorizing_transformer(config: ConfigDict) -> None:
  """Memorizing Transformer (2203.08913): top-k over stored key-values."""
  _memory(config, "episodic", read="residual", address="hidden",
          value="hidden", stop_gradient_keys=True)  # fmt: skip


@_system
def infini_attention(config: ConfigDict) -> None:
  """Infini-attention (2404.07143): normalised linear memory."""
  _memory(config, "associative", rule="linear", features="elu",
          address="hidden", value="hidden")  # fmt: skip


@_system
def titans(config: ConfigDict) -> None:
  """Titans (2501.00663): an MLP memory with momentum and forgetting."""
  _memory(config, "neural", address="hidden", value="hidden")


@_system
def rag(config: ConfigDict) -> None:
  """Retrieval-augmented transformer: past chunks in front of the window."""
  config.learner = entry("learner", "rag")


@_system
def rag_bm25(config: ConfigDict) -> None:
  """The same, its past chunks found by the words they share (BM25)."""
  rag(config)
  config.learner.retriever = "bm25"


# Both.


@_system
def ttt_memory(config: ConfigDict) -> None:
  """Memory-augmented TTT, this project's default: both learn in every step."""
  _memory(config, "episodic")
  _inner(config, True)


@_system
def ttt_memory_scheduled(config: ConfigDict) -> None:
  """The same, the memory first, then TTT in half of the steps."""
  ttt_memory(config)
  config.coordination.inner_start = round(0.4 * config.train.steps)
  config.coordination.inner_off_share = 0.5
