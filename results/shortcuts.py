"""What rules that link no two facts answer of bAbI's questions.

    python results/shortcuts.py

Stories are short and name few places, so that more than chance can be right
without what a question is meant to need. Of the stories that the runs of
`experiments/reasoning.py` were asked about (the same seeds and split), each of
RULES answers all questions. No rule looks at who went where. What a model has
over the best of them is what it must have linked. Writes shortcuts.jsonl, which
notebooks/01_recall.ipynb puts beside the models' answers.
"""

import collections
import pathlib

from mattt_jax import config as config_lib
from mattt_jax.registry import load_config
from mattt_jax.scaling import collect
from mattt_jax.tasks import _babi_world as worlds
from mattt_jax.tasks import babi

HERE = pathlib.Path(__file__).parent
KINDS = ("qa1", "qa2", "qa3")
SEEDS = (1, 2, 3)


def told(story: babi.Story) -> list[tuple[str, ...]]:
  """The places and objects that each sentence names."""
  names = {*worlds.PLACES, *worlds.OBJECTS}
  return [tuple(names.intersection(words)) for words in story.sentences]


def places(sentences: list[tuple[str, ...]], but: str = "") -> list[str]:
  """Where anybody went, in order, without `but`."""
  named = [name for names in sentences for name in names]
  return [name for name in named if name in worlds.PLACES and name != but]


def asked(question: worlds.Question, names: list[str]) -> str:
  """Which of `names` is in the question, or ""."""
  return next((word for word in question.words if word in names), "")


def last_place(story: babi.Story, question: worlds.Question) -> str:
  """The last place that anybody went to."""
  found = places(told(story), but=asked(question, worlds.PLACES))
  return found[-1] if found else ""


def most_named(story: babi.Story, question: worlds.Question) -> str:
  """The place that most went to, the first such."""
  found = places(told(story), but=asked(question, worlds.PLACES))
  return collections.Counter(found).most_common(1)[0][0] if found else ""


def before_thing(story: babi.Story, question: worlds.Question) -> str:
  """The last place named before the object is named for the last time."""
  thing = asked(question, worlds.OBJECTS)
  sentences = told(story)
  at = [i for i, names in enumerate(sentences) if thing in names]
  found = places(sentences[: at[-1]]) if at else []
  return found[-1] if found else ""


def before_place(story: babi.Story, question: worlds.Question) -> str:
  """The place that is named before the one in the question, its last time."""
  place = asked(question, worlds.PLACES)
  found = places(told(story))
  at = [i for i, name in enumerate(found) if name == place and i]
  return found[at[-1] - 1] if at else ""


RULES = {
  "the last place": last_place,
  "the place named most": most_named,
  "the place before the object": before_thing,
  "the place before the place": before_place,
}


def main() -> None:
  """A row a task, seed and rule that can answer it."""
  rows, commit = [], collect.commit()
  for kind in KINDS:
    for seed in SEEDS:
      config = load_config(f"reasoning:task={kind},seed={seed}")
      experiment = config_lib.from_config_dict(config)
      assert isinstance(experiment.task, babi.Config)
      task = babi.Task(experiment.task, seed)
      stories = [
        task.story("test", index) for index in range(experiment.eval.sequences)
      ]
      for name, rule in RULES.items():
        right = [
          rule(story, question) == question.answer
          for story in stories
          for question in story.questions
        ]
        if any(right):
          row = {"system": name, "settings": {"task": kind}, "seed": seed}
          row |= {"length": experiment.length, "commit": commit}
          rows.append(row | {"answer_exact_match": sum(right) / len(right)})
  collect.write(rows, HERE / "shortcuts.jsonl")


if __name__ == "__main__":
  main()
