r"""Loss against context length: length x system x seed, at several model sizes.

    mattt sweep --config=context_scaling --out=runs/context \
      --results=results/context.jsonl --workers=2
    mattt sweep --config=context_scaling:size=125m,data=data/corpus \
      --out=/mnt/mattt/context-125m --together

Each run trains at one length and is evaluated there and further. A step has as
many tokens at every length, so that runs of a size cost about the same.

Without `size`, for a CPU: models of 0.1 to 3 M parameters read bytes of the
standard library's source, WINDOW of them at once: 0.4 M at 256 to 4096 tokens,
the other sizes at 1024, one seed of the largest. All are read to 65536 tokens,
full attention to 4096. Apart from the rest are distant repeats: what ends 16
bytes that were last seen more than REACH bytes ago. Those trained at 4096 are
also asked what is imported from where (`code_lookup`). `swa_episodic` says what
the memory does alone, `ttt_memory_scheduled` what it costs to have the inner
loop off until the memory has learned, and then in half of the steps. 74 runs of
1 to 8 minutes on one core; full attention at 4096 takes 20: one seed.

The others are the models and schedules of TTT-E2E (arXiv 2512.23675): chunks of
1024, windows of 8192, a fast MLP in each block of the last quarter, 8192 to
131072 tokens; TOPOLOGY has the slice that each is for. Two differences: the
published models learn at 8192 tokens and are then extended, here each length is
trained from scratch; and every system has the same MLPs, where the published
baselines without a fast one have a wider one instead.

Expected, from the paper's 3B models, loss minus that of full attention at 8K /
16K / 32K / 64K / 128K: TTT-E2E -.014 / -.013 / -.013 / -.012 / -.012, sliding
window 0 / .006 / .016 / .031 / .048: TTT-E2E turns context into loss as full
attention does, a window does not. Refuted, for these sizes, if the difference
between TTT-E2E and full attention grows with the length as the window's does.
What an external memory adds is to be seen: on loss little (the value of far
context in books is about .02 nats), on what repeats from far back more
(results/books.md).

Arguments: `size` (100k, 400k, 1m, 3m, 125m, 350m, 760m, 1b, 3b), `length`,
`system`, `seed`, `steps`; `data` (a directory of texts whose tokenizer is
beside it, as DIR.json; or `made`: tokens made up, of the published vocabulary,
for planning and timing); `chips` (another number than TOPOLOGY has; the mesh is
made for it); `tiny` (a few steps of a small model, to see that it runs).
"""

import math
import pathlib

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, require, require_choice, template
from mattt_jax.sweeps.sweep import chain, param, product

# Peak outer learning rate, steps, sequences of 8192, for sizes.PUBLISHED.
SCHEDULES = {
  "125m": (3e-3, 4800, 64),
  "350m": (1.5e-3, 13500, 64),
  "760m": (1.25e-3, 29000, 64),
  "1b": (1e-3, 50000, 64),
  "3b": (8e-4, 52000, 128),
}
VOCABULARY = 128256
# The slice that a size is for, and its chips (`chips` says another number).
TOPOLOGY = {
  "125m": ("v5e:4x4", 16),
  "350m": ("v5e:8x8", 64),
  "760m": ("v5e:8x8", 64),
  "1b": ("v5p:4x4x4", 64),
  "3b": ("v5p:4x4x8", 128),
}
LENGTHS = dict.fromkeys(sizes.SCALED, (256, 1024, 4096))
LENGTHS |= dict.fromkeys(sizes.PUBLISHED, (8192, 32768, 131072))
WINDOW, REACH, FAR = 128, 512, 65536  # on a CPU; no window reaches further
_ARGS = dict(tiny=False, size="", length=0, system="ttt_e2e", seed=0,
             steps=0, data="", chips=0)  # fmt: skip


def sweep(arg: str = "") -> list[dict]:
  """Length x system x seed of a size, one seed from 1b on; without a size, the
  study on a CPU; `tiny`: 2 x 2."""
  args = parse_arg(arg, **_ARGS)
  if args.tiny:
    return product(
      param("length", [64, 128]), param("system", ["sliding_window", "ttt_e2e"])
    )

  def runs(size, lengths):
    _check_size(size)
    return product(
      param("size", [size]) if not args.size else [{}],
      param("length", lengths),
      param(
        "system", ["full_attention", "sliding_window", "ttt_e2e", "ttt_memory"]
      ),
      param("seed", [1] if size in ("3m", "1b", "3b") else [1, 2, 3]),
    )

  if args.size:
    return runs(args.size, LENGTHS.get(args.size))
  study = chain(
    runs("400k", LENGTHS["400k"]),
    product(
      param("size", ["400k"]),
      param("length", [1024, 4096]),
      param("system", ["swa_episodic", "ttt_memory_scheduled"]),
      param("seed", [1, 2, 3]),
    ),
    *(runs(size, [1024]) for size in ("100k", "1m", "3m")),
  )
  slow = {"system": "full_attention", "length": 4096}  # 20 minutes: one seed
  return [
    run for run in study if run["seed"] == 1 or not slow.items() <= run.items()
  ]


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)
  args.size = args.size or "400k"
  _check_size(args.size)
  length = args.length or LENGTHS[args.size][0]
  if args.data == "made":
    config = template("mqar")
    task = config.task
    task.num_fillers = VOCABULARY - 1 - task.num_keys - task.num_values
  else:
    config = template("language_modeling")
  config.seed = args.seed
  config.length = length
  small = args.size in sizes.SCALED or args.tiny
  if small:
    _small(config, args)
  else:
    _published(config, args)
    _corpus(config, args.data)
  known = LENGTHS[args.size]
  if small and args.system != "full_attention":
    known = (*known, 16384, FAR)
  lengths = [n for n in known if n >= length]
  config.eval.lengths = tuple(lengths or [length])
  if args.tiny:
    _tiny(config)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  if not small:
    _loop(config)
  return config


def _check_size(size: str) -> None:
  require_choice("size", size, tuple(LENGTHS))


def _small(config: ConfigDict, args: ConfigDict) -> None:
  config.chunk = 64
  config.batch_size = max(1, 4096 // config.length)
  # `tiny` with a published size is the smallest.
  size = sizes.SCALED.get(args.size, sizes.SCALED["100k"])
  config.model.update(size, window=WINDOW)
  config.outer.update(learning_rate=3e-3, final_learning_rate=3e-4)
  config.train.update(steps=240, checkpoint_every=50)
  # All held-out documents, which are fewer, and as many windows to ask about.
  config.eval.update(sequences=64, batch_size=1, parts_off=True)
  if not args.tiny:
    config.task.update(repeat_ngram=16, repeat_beyond=REACH)
    if config.length == LENGTHS[args.size][-1]:
      config.eval.tasks = (f"code_lookup:beyond={REACH}@{config.length}",)


def _published(config: ConfigDict, args: ConfigDict) -> None:
  rate, steps, sequences = SCHEDULES[args.size]
  chip, chips = TOPOLOGY[args.size]
  chips = args.chips or chips
  config.chunk = 1024
  config.batch_size = max(1, sequences * 8192 // config.length)
  config.model.update(sizes.PUBLISHED[args.size])
  config.outer.update(
    learning_rate=rate, final_learning_rate=1e-5, warmup_steps=steps // 10,
    reduction="chunks",
  )  # fmt: skip
  config.train.update(steps=steps, checkpoint_every=max(100, steps // 50))
  # A sequence on each chip, one after the other; with fewer sequences than
  # chips, each is read by several.
  at_once = min(chips, config.batch_size)
  config.eval.update(sequences=64, batch_size=config.batch_size, segment=8192)
  if args.system == "full_attention" and chip.startswith("v5e"):
    # Evaluation keeps keys and values of LENGTHS[-1] tokens in all blocks: too
    # much for one of these chips.
    at_once = config.eval.batch_size = min(at_once, 16)
  require(
    chips % at_once == 0,
    f"chips={chips} must be a multiple of {at_once}, the sequences that are "
    "read at once, or divide them",
  )
  if config.batch_size > at_once:
    config.train.micro_batch = at_once
  each = chips // at_once
  config.mesh.tensor = math.gcd(each, 4)  # the heads of a memory
  config.mesh.context = each // config.mesh.tensor
  if args.size != "125m":  # whose parameters and moments lie on each chip
    config.mesh.fsdp = at_once


def _loop(config: ConfigDict) -> None:
  """How the published sizes go from chunk to chunk."""
  if config.inner.enabled:
    config.inner.warmup_steps = config.train.steps // 10
    if config.length > 32768:  # weights before each of 128 chunks are too many
      config.inner.remat_levels = 2
  elif config.memory.name == "none":
    # Nothing is learned or written between chunks, so that they only say how
    # much is read at once: 8192 tokens a device. Keys and values before each
    # are kept, with full attention all of the past.
    config.chunk = min(config.length, 8192 * config.mesh.context)


def _corpus(config: ConfigDict, data: str) -> None:
  if data == "made":
    return
  require(
    bool(data) and pathlib.Path(f"{data}.json").is_file(),
    f"data={data}: there is no tokenizer {data or 'DIR'}.json. Make it: "
    "mattt prepare texts data/corpus --from=PATH && mattt tokenizer train "
    "--vocab=32768 --source=directory:data/corpus --out=data/corpus.json, "
    "then data=data/corpus; or data=made, to plan and time",
  )
  config.task.source = f"directory:{data}"
  config.task.tokenizer = f"{data}.json"


def _tiny(config: ConfigDict) -> None:
  config.update(chunk=16, batch_size=2)
  config.length = min(config.length, 128)
  config.model.update(sizes.TINY, window=16)
  config.train.update(steps=4, log_every=1, checkpoint_every=2)
  config.eval.update(lengths=(config.length, 2 * config.length), sequences=2)
