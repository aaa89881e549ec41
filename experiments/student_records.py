r"""Student records: questions about facts that only fast weights have seen.

    mattt sweep --config=student_records --out=runs/records

Eight students, each with a grade, then eight questions about them (chance
1/16). PERK reads its questions without the records, so that it answers from its
adapter alone, and 64 tokens are enough (a run takes 3 minutes on one core); for
other systems the questions stand out of the reach of attention, in 256.

Evaluated at 1, 4 and 16 times that length; 3 runs. Expected:
results/records.md. Refuted, that an adapter carries the records, if answers are
at chance (1/16).

Arguments: `tiny`, `seed`, `steps` and `system`, as in `recall.py`; `question`:
recall, relation or aggregate.
"""

from ml_collections import ConfigDict

from mattt_jax import sizes, systems
from mattt_jax.config import parse_arg, template
from mattt_jax.sweeps.sweep import param, product

_ARGS = dict(tiny=False, system="perk", question="recall", seed=0, steps=0)


def sweep(arg: str = "") -> list[dict]:
  """PERK on three seeds; `tiny`: two runs."""
  if parse_arg(arg, **_ARGS).tiny:
    return param("system", ["perk", "ttt_memory"])
  return product(
    param("system", ["perk"]),
    param("seed", [1, 2, 3]),
    param("config.eval.parts_off", [True]),
  )


def get_config(arg: str = "") -> ConfigDict:
  """The settings of one run."""
  args = parse_arg(arg, **_ARGS)

  config = template("student_records")
  config.seed = args.seed
  config.length = 256
  config.chunk = 32
  config.batch_size = 8
  config.model.update(sizes.SIZES["small"], window=32)
  config.task.update(question=args.question, fields=("grade",), gap_share=0.5,
                     interference=0.0, answer_weight=8.0)  # fmt: skip
  if args.question == "relation":
    config.task.num_questions = 5
  config.train.steps = 300
  config.eval.sequences = 64

  if args.tiny:
    config.batch_size = 2
    config.model.update(sizes.TINY)
    config.train.update(steps=4, log_every=1, checkpoint_every=2)
    config.eval.update(sequences=4, batch_size=2)
  config.train.steps = args.steps or config.train.steps
  systems.apply(config, args.system)
  if config.learner.name == "perk":
    config.update(length=64, batch_size=args.tiny * 2 or 32)
    config.task.update(gap_share=0.05, interference=0.0)
    config.learner.update(steps=2, unroll=2)
  if not args.tiny:  # the same records among more filler
    config.eval.lengths = tuple(times * config.length for times in (1, 4, 16))
  return config
