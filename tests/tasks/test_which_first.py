"""Which of two names came first, against a search of the text."""

import dataclasses
import re

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks.which_first import Config, Task

NAMES = ("Anna", "Annabel", "Émile", "Ruth", "Kai", "Zoë")


@pytest.fixture(scope="module")
def books(tmp_path_factory):
  root, rng = tmp_path_factory.mktemp("books"), np.random.default_rng(0)
  for k in range(6):
    said = [f"then the man met {rng.choice(NAMES)}, he did." for _ in range(99)]
    (root / f"{k}.txt").write_text(" ".join(said))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield Config(source=f"directory:{root}", beyond=150, apart=40)


def solve(example):
  """(first option, second option, answer, and of each option the first byte
  of its first mention and the one after) of each question."""
  text = bytes([example["tokens"][0], *example["targets"]]).rstrip(b"\0")
  context, *asked = text.split(b"\nWhich came first, ")
  for one in asked:
    a, b, name = re.fullmatch(
      r"(\w+) or (\w+)\? (\w+)\n", one.decode()
    ).groups()
    places = []
    for option in (a, b):
      whole = rb"(?<![\w\x80-\xff])" + option.encode() + rb"(?![\w\x80-\xff])"
      places.append(re.search(whole, context).span())
    yield a, b, name, places, len(context)


@pytest.mark.parametrize("source", ["books", "stdlib"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_search_of_the_text_agrees(books, source, split):
  config = books if source == "books" else Config(beyond=150, apart=40)
  task, total, length = Task(config, 0), 0, 800
  for index in range(min(50, task.size(split, length) or 50)):
    example = task.example(split, index, length)
    choices = task.choices(split, index, length)
    relevant = np.zeros(length + 1, bool)
    for number, (question, choice) in enumerate(
      zip(solve(example), choices, strict=True)
    ):
      a, b, name, places, end = question
      assert choice.names == (a, b) and choice.names[choice.right] == name
      assert name == (a, b)[int(places[1] < places[0])]
      (_, early), (late, stop) = sorted(places)
      assert late - early >= 40 and stop + 150 <= end
      assert example["distance"][choice.at] == choice.at + 1 - (stop - 1)
      assert example["answer"][choice.at] == number
      for span in places:
        relevant[slice(*span)] = True
      total += 1
    np.testing.assert_array_equal(example["relevant"], relevant[1:])
  assert total > 10


def test_a_coin_decides_which_is_written_first(books):
  task, right = Task(books, 0), []
  for index in range(300):
    right += [c.right for c in task.choices("train", index, 800)]
  # 5 standard deviations
  assert abs(np.mean(right) - 0.5) < 2.5 / np.sqrt(len(right))
  assert len(right) > 600


def test_choices_count_the_mentions_of_both(books):
  task, cut = Task(books, 0), 0
  for index in range(60):
    example = task.example("train", index, 800)
    tokens = [example["tokens"][0], *example["targets"]]
    text = bytes(tokens).decode(errors="replace")
    context = text.split("\nWhich came first, ")[0]
    if context.endswith("Anna"):  # may be the beginning of Annabel
      continue
    words = re.findall(r"\w+", context)
    cut += words[-1] not in NAMES and words[-1].istitle()
    for choice in task.choices("train", index, 800):
      met = [choice.names.index(w) for w in words if w in choice.names]
      assert choice.mentions.tolist() == met
  assert cut > 0  # names at the end of a stretch


def test_settings(books):
  for field in ("apart", "num_mentions"):
    tree = config_lib.template("which_first")
    tree.task[field] = -1
    with pytest.raises(ValueError, match=f"task.{field}=-1 must be at least"):
      config_lib.from_config_dict(tree)
  with pytest.raises(ValueError, match="task.apart tokens apart"):
    Task(dataclasses.replace(books, apart=10**6), 0)
