r"""Whole books: trained on some, read from end to end in another.

    mattt prepare books data/books
    mattt tokenizer train --source=directory:data/books --vocab=1024 \
      --out=data/books.json
    mattt sweep --config=books:ask --out=runs/books

Trained on windows of 2048 tokens (about 5500 characters) of five novels of Jane
Austen; a sixth, Pride and Prejudice, is the test split (Moby-Dick: tune), read
as far as 16 times that.

Arguments: `tiny` (a few steps of a small model on the standard library's own
source, to see that it runs), `books` (the directory; its tokenizer is beside
it), `ask` (each run ends with distant repeats and name cloze as well), `seed`,
`steps` and `system`, as in `recall.py`.

    mattt sweep --config=books --out=runs/books-sweep

trains five systems on three seeds, and full attention on one: 16 runs.
Expected: results/books.md. Refuted, that TTT carries text, if the window alone
reads the book as well as TTT does, what repeats from far back included.
"""

import pathlib

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, require, template
from mattt_jax.sweeps.sweep import chain, param, product

SYSTEMS = ("ttt_memory", "ttt_memory_scheduled", "ttt_e2e", "swa_episodic",
           "sliding_window")  # fmt: skip
_ARGS = dict(tiny=False, books="data/books", ask=False, system="ttt_memory",
             seed=0, steps=0)  # fmt: skip


def sweep(arg: str = "") -> list[dict]:
  """Five systems on three seeds, full attention on one; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("system", ["sliding_window", "ttt_memory"])
  return chain(
    product(
      param("system", SYSTEMS),
      param("seed", [1, 2, 3]),
    ),
    [{"system": "full_attention", "seed": 1}],
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)

  config = template("language_modeling")
  config.seed = args.seed
  config.length = 2048
  config.chunk = 64
  config.batch_size = 2
  config.model.update(sizes.SIZES["medium"], window=64)
  config.outer.update(learning_rate=3e-3, final_learning_rate=3e-4)
  config.train.update(steps=500, checkpoint_every=100)
  config.eval.update(lengths=(2048, 32768), sequences=8, batch_size=1)

  if args.tiny:
    config.update(length=64, chunk=16)
    config.model.update(sizes.TINY, window=16)
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.eval.update(lengths=(64, 128), sequences=2)
  else:
    require(
      pathlib.Path(f"{args.books}.json").is_file(),
      f"books={args.books}: there is no tokenizer {args.books}.json. Make it: "
      f"mattt prepare books {args.books} && mattt tokenizer train --vocab=1024 "
      f"--source=directory:{args.books} --out={args.books}.json",
    )
    config.task.source = f"directory:{args.books}"
    config.task.tokenizer = f"{args.books}.json"
  if args.ask:  # of what attention does not reach
    source = f"source={config.task.source},beyond=256"
    config.eval.tasks = tuple(
      f"{task}@{length}"
      for length in config.eval.lengths
      for task in ("language_modeling:repeat_ngram=6,repeat_beyond=256",
                   f"name_cloze:{source}")
    )  # fmt: skip
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  return config
