"""Who said what, against a reader of the text that knows no rules of speech."""

import re

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.data.splits import SPLITS
from mattt_jax.tasks import _speech
from mattt_jax.tasks.quote_attribution import Config, Task

PEOPLE = ("Anna", "Mr. Émile", "Lady Ruth", "Mrs. Zoë Lang", "Kai", "Miss Lang")
# What is said starts with a word of the frame; {o} and {c} are the marks.
SURE = (
  "{o}Verily {s},{c} said {p}.",
  "{o}Verily {s},{c}\nreplied {p}, who\nknew {q}.",
  "{o}Verily {s}!{c} cried {p}; {o}and not {q}.{c}",
  "{o}Verily {s},{c} {p} answered.",
  "{o}Verily {s}?{c} {p} asked.",
  "{q} looked up. {p} replied, {o}Verily {s}.{c}",
  "{p} said: {o}Verily {s}.{c}",
)
UNSURE = (
  "{o}Nay {s},{c} said she to {p}.",
  "{o}Nay {s},{c} said {p}'s old aunt.",
  "{o}Nay {s},{c} said {p} and {q}.",
  "{o}Nay {s}.{c} {p} said nothing.",
  "{o}Nay {s}.{c} {p} replied, {o}No.{c}",
  "{o}Nay {s},{c} said the friend of {p}.",
  "{q} heard that {p} said, {o}Nay {s}.{c}",
  "The word {o}nay {s}{c} said {p} was odd.",
  "{o}Nay {s}, said {p}.",
  "{o}Nay {s},{c} said Captain.",
  "{q} replied, {o}Nay {s},{c} said {p}.",
  "{o}Nay {s},{c} said {p}, and held 6{c} or 8{c} of it.",
  "{o}Verily once more we do not agree,{c} said {p}.",  # many times
  "{p} knew {q}.",
)
FRAMES = SURE + UNSURE


def book(rng, marks):
  made = []
  for k in range(250):
    p, q = rng.choice(PEOPLE, 2, replace=False)
    said = f"one{k} two{rng.integers(9)}\nthree four five six seven"
    said = " ".join(said.split()[: rng.integers(2, 8)])
    frame = FRAMES[rng.integers(len(FRAMES))]
    made.append(frame.format(s=said, p=p, q=q, o=marks[0], c=marks[1]))
  return "\n\n".join(made)


@pytest.fixture(scope="module")
def books(tmp_path_factory):
  root, rng = tmp_path_factory.mktemp("books"), np.random.default_rng(0)
  for k in range(6):
    (root / f"{k}.txt").write_text(book(rng, ('""', "“”")[k % 2]))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield Config(source=f"directory:{root}", beyond=150)


def text_of(example):
  tokens = [example["tokens"][0], *example["targets"]]
  return bytes(tokens).rstrip(b"\0").decode(errors="replace")


def reader(context, opening):
  """Who says it: the people named nearest, outside of quotation marks, in the
  paragraph in which `opening` is said."""
  (paragraph,) = (
    " ".join(p.split())
    for p in re.split(r"\n\n", context)
    if opening in " ".join(p.split())
  )
  before, after = paragraph.split(opening)
  after = re.split(r"[\"”]", after, maxsplit=1)[1]
  people = "|".join(sorted(PEOPLE, key=len, reverse=True))
  ahead = re.match(rf" (?:\w+ )?({people})", after)
  found = ahead or list(re.finditer(people, before))[-1]
  return found[ahead is not None]


@pytest.mark.parametrize("split", SPLITS)
def test_a_reader_of_the_text_alone_agrees(books, split):
  task, length, total = Task(books, 0), 1500, 0
  for index in range(task.size(split, length) or 40):
    example = task.example(split, index, length)
    context, *asked = text_of(example).split("\nWho said: ")
    choices = task.choices(split, index, length)
    for one, choice in zip(asked, choices, strict=True):
      opening, name = re.fullmatch(r'"(.*)"\? (.*)\n', one).groups()
      assert opening.startswith("Verily one") and len(opening.split()) == 5
      assert reader(context, opening) == name == choice.names[choice.right]
      total += 1
  assert total > 15


def test_every_sure_frame_and_no_other():
  for marks in ('""', "“”"):
    for frame in FRAMES:
      for p in PEOPLE:
        rest = dict(q="Kit", o=marks[0], c=marks[1], s="we do not\nagree")
        text = "They saw Kit, Zoë Lang and Anna. They met Émile, Ruth, Kai."
        start = len(text)
        text += "\n\n" + frame.format(p=p, **rest) + "\n\nIt rained."
        # "and not Kit" and "No" are said too, by whoever said the rest.
        found = [
          (text[slice(*s.text)], text[slice(*s.name)])
          for s in _speech.speeches(text)
          if "agree" in text[slice(*s.text)]
        ]
        if "once more" in frame:
          continue
        sure = [("Verily we do not\nagree", p)] if frame in SURE else []
        assert [(t.rstrip(",.!?"), n) for t, n in found] == sure, frame
        assert all(s.text[0] > start for s in _speech.speeches(text))


def test_the_default_dialogue(books):
  task, total = Task(Config(), 0), 0
  for index in range(task.size("test", 1024)):
    example = task.example("test", index, 1024)
    context, *asked = text_of(example).split("\nWho said: ")
    for one in asked:
      opening, name = re.fullmatch(r'"(.*)"\? (.*)\n', one).groups()
      (line,) = (p for p in context.split("\n") if opening in p)
      outside = re.sub('"[^"]*"', "", line)
      assert re.findall(r"[A-Z][a-z. A-Z]*[A-Z]\w+|[A-Z]\w+", outside) == [name]
      total += 1
  assert total > 100


def test_speakers_to_choose_from(books):
  task = Task(books, 0)
  for index in range(40):
    text = text_of(task.example("train", index, 1500))
    context = " ".join(text.split("\nWho said: ")[0].split())
    tag = rf"said:|{'|'.join('said replied cried answered asked'.split())}"
    for choice in task.choices("train", index, 1500):
      assert set(choice.names) <= set(PEOPLE)
      for name in choice.names:
        assert re.search(rf"({tag}) {name}|{name} ({tag})", context)


def test_two_names_of_one_speaker_are_no_choice(tmp_path, books):
  names = ("Darcy", "Mr. Darcy", "Miss Darcy", "Jane", "Jane Fair")
  said = [f'"{n[-4:]} {k} is what," said {n}.' for k, n in enumerate(names)]
  said.append("They saw Darcy and Jane Fair." * 20)
  for k in range(3):
    (tmp_path / f"{k}.txt").write_text("\n\n".join([str(k), *said]))
  task = Task(
    Config(
      source=f"directory:{tmp_path}", beyond=99, num_questions=9, num_words=3
    ),
    0,
  )
  clozes = task.choices("test", 0, 2000)
  rivals = {c.names[c.right]: {*c.names} - {c.names[c.right]} for c in clozes}
  assert rivals == {
    "Darcy": {"Jane", "Jane Fair"},
    "Mr. Darcy": {"Miss Darcy", "Jane", "Jane Fair"},
    "Miss Darcy": {"Mr. Darcy", "Jane", "Jane Fair"},
    "Jane": {"Darcy", "Mr. Darcy", "Miss Darcy"},
    "Jane Fair": {"Darcy", "Mr. Darcy", "Miss Darcy"},
  }


def test_settings_that_do_not_fit():
  tree = config_lib.template("quote_attribution")
  tree.task.num_words = 0
  with pytest.raises(ValueError, match="task.num_words=0 must be at least 1"):
    config_lib.from_config_dict(tree)
