"""bAbI's stories against a simulator that reads the tokens."""

import collections
import math
import subprocess
import sys

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax.tasks import babi
from mattt_jax.tasks.babi import Config, Task

SEED, LENGTH = 3, 256
KINDS = ("qa1", "qa2", "qa3", "qa4", "qa5")
VERBS = {"went", "took", "dropped", "gave", "is"}
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}


def words_of(config, example):
  vocabulary = config.vocabulary
  tokens = [*example["tokens"], example["targets"][-1]]
  return [vocabulary[token] for token in tokens]


def read(words):
  """[(start, sentence)] of the facts and [(question, place of its answer)]."""
  facts, asked, start = [], [], 0
  for at, word in enumerate(words):
    if word == ".":
      sentence = words[start:at]
      if VERBS & set(sentence):
        facts.append((start, sentence))
      start = at + 1
    elif word == "?":
      asked.append((words[start:at], at + 1))
      start = at + 2
  return facts, asked


class Simulator:
  """Moves people and things about; unknown places are None."""

  def __init__(self, sentences, strict=False):
    self.people, self.things, self.hands = {}, {}, {}
    self.history = collections.defaultdict(list)  # of each thing's places
    self.gifts, self.beside = [], {}
    for sentence in sentences:
      self.hear(sentence, strict)

  def hear(self, sentence, strict):
    who, verb = sentence[:2]
    if verb == "went":
      assert not strict or self.people.get(who) != sentence[-1]
      self.people[who] = sentence[-1]
    elif verb == "took":
      thing = sentence[-1]
      place = self.people.get(who)
      if strict:  # nobody has it, and it is here
        assert place and self.hands.get(thing) is None
        assert self.things.get(thing) in (None, place)
      self.hands[thing] = who
    elif verb == "dropped":
      assert not strict or self.hands[sentence[-1]] == who
      self.things[sentence[-1]] = self.people.get(who)
      self.hands[sentence[-1]] = None
    elif verb == "gave":
      thing, other = sentence[3], sentence[5]
      if strict:
        assert self.hands[thing] == who != other
        assert self.people[who] == self.people[other]
      self.hands[thing] = other
      self.gifts.append((who, thing, other))
    else:
      _, a, _, side, _, _, b = sentence
      self.beside[a, side] = b
      opposite = {v: k for k, v in STEPS.items()}[
        tuple(-d for d in STEPS[side])
      ]
      self.beside[b, opposite] = a
    for thing, holder in self.hands.items():
      place = self.people.get(holder)
      if place:
        self.things[thing] = place
      if self.things.get(thing) not in (None, *self.history[thing][-1:]):
        self.history[thing].append(self.things[thing])

  def answer(self, question):
    """The one answer, or None."""
    match question:
      case ["where", "is", "the", thing]:
        return self.things.get(thing)
      case ["where", "is", person]:
        return self.people.get(person)
      case ["where", "was", "the", thing, "before", "the", place]:
        seen = self.history[thing]
        if seen.count(place) != 1 or seen[0] == place:
          return None
        return seen[seen.index(place) - 1]
      case ["what", "is", side, "of", "the", b]:
        found = [
          a for (a, of), c in self.beside.items() if (of, c) == (side, b)
        ]
      case ["what", "is", "the", a, side, "of"]:
        found = [
          b for (c, of), b in self.beside.items() if (c, of) == (a, side)
        ]
      case ["who", "gave", "the", thing, "to", other]:
        found = [p for p, t, o in self.gifts if (t, o) == (thing, other)]
      case ["what", "did", person, "give", "to", other]:
        found = [t for p, t, o in self.gifts if (p, o) == (person, other)]
      case ["who", "did", person, "give", "the", thing, "to"]:
        found = [o for p, t, o in self.gifts if (p, t) == (person, thing)]
    return found[0] if len(found) == 1 else None


def configs(number):
  rng = np.random.default_rng(0)
  for i in range(number):
    kind = KINDS[i % 5]
    facts = int(rng.integers(5, 15))
    yield Config(
      kind=kind,
      num_facts=facts,
      num_people=int(rng.integers(2, 6)),
      num_places=facts + 1 if kind == "qa4" else int(rng.integers(2, 9)),
      num_objects=int(rng.integers(1, 5)),
      num_fillers=int(rng.integers(1, 9)),
      interference=float(rng.choice([0.0, 0.5, 1.0])),
      gap_share=float(rng.random() * 0.4),
    )


@pytest.mark.parametrize("config", list(configs(50)))
def test_a_simulator_answers_from_the_tokens(config):
  for index in range(10):
    example = Task(config, SEED).example("train", index, LENGTH)
    words = words_of(config, example)
    facts, ((question, at),) = read(words)
    assert len(facts) == config.num_facts and at == LENGTH
    sentences = [sentence for _, sentence in facts]
    world = Simulator(sentences, strict=True)
    assert world.answer(question) == words[at]

    # The facts marked are enough by themselves, and marked whole.
    relevant = np.append(example["relevant"][-1:], example["relevant"])
    relevant[0] = relevant[1]  # the first token is no target
    marked = [(s, f) for s, f in facts if relevant[s]]
    expected = np.zeros(LENGTH + 1, bool)
    for start, sentence in marked:
      expected[start : start + len(sentence)] = True
    np.testing.assert_array_equal(relevant[1:], expected[1:])
    needed = [sentence for _, sentence in marked]
    assert Simulator(needed).answer(question) == words[at]
    sizes = {"qa2": (2,), "qa3": (3, 4)}.get(config.kind, (1,))
    assert len(needed) in sizes
    # None too many, unless what was dropped was taken twice.
    if not any("dropped" in sentence for sentence in sentences):
      for left_out in range(len(needed)):
        fewer = needed[:left_out] + needed[left_out + 1 :]
        assert Simulator(fewer).answer(question) != words[at]

    answered = np.flatnonzero(example["answer"] >= 0)
    assert answered.tolist() == [LENGTH - 1]
    assert example["distance"][-1] == LENGTH - marked[0][0]
    nearest = LENGTH - (marked[-1][0] + len(marked[-1][1]))
    assert nearest >= config.min_distance(LENGTH)


@pytest.mark.parametrize("kind", KINDS)
def test_several_questions(kind):
  config = Config(kind=kind, num_questions=3)
  for index in range(20):
    example = Task(config, SEED).example("train", index, LENGTH)
    words = words_of(config, example)
    facts, asked = read(words)
    world = Simulator([sentence for _, sentence in facts], strict=True)
    assert [words[at] for _, at in asked] == [world.answer(q) for q, _ in asked]
    answer = np.full(LENGTH, -1)
    answer[[at - 1 for _, at in asked]] = range(3)
    np.testing.assert_array_equal(example["answer"], answer)
    starts = [start for start, _ in facts]
    for _, at in asked:
      assert at - example["distance"][at - 1] in starts
      assert example["distance"][at - 1] >= config.min_distance(LENGTH)
    if kind == "qa4":  # 28 questions at least, so no two alike
      assert len({tuple(question) for question, _ in asked}) == 3


def test_maps_lie_on_a_grid():
  config = Config(kind="qa4", num_facts=15, num_places=16)
  apart = 0  # facts about places of which neither was told of before
  for index in range(30):
    story = Task(config, SEED).story("train", index)
    told = [{words[1], words[6]} for words in story.sentences]
    apart += sum(not told[i] & set().union(*told[:i]) for i in range(1, 15))
    cells, known = {story.sentences[0][1]: (0, 0)}, 0
    while known < len(cells):  # the facts come in any order
      known = len(cells)
      for _, a, _, side, _, _, b, _ in story.sentences:
        dx, dy = STEPS[side]
        if b in cells:
          x, y = cells[b]
          assert cells.setdefault(a, (x + dx, y + dy)) == (x + dx, y + dy)
        elif a in cells:
          x, y = cells[a]
          cells[b] = x - dx, y - dy
    assert len(cells) == len(set(cells.values())) == 16
  assert apart > 30


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_can_happen_does(kind):
  config = Config(kind=kind, num_facts=7, num_people=3, num_objects=2)
  seen, asked, answers = set(), set(), set()
  for index in range(300):
    story = Task(config, SEED).story("test", index)
    seen |= {word for s in story.sentences for word in s}
    asked.add(story.questions[0].words[:2])
    answers.add(story.questions[0].answer)
  verbs = {
    "qa1": {"went"}, "qa4": {"is"},
    "qa5": {"went", "took", "dropped", "gave"},
  }.get(kind, {"went", "took", "dropped"})  # fmt: skip
  assert seen & VERBS == verbs
  names = config.vocabulary[config.first_name : config.first_filler]
  people, places, things = names[:3], names[3:11], names[11:]
  assert answers == set(people + things if kind == "qa5" else places)
  if kind == "qa5":
    assert {"who", "what"} == {words[0] for words in asked}


def test_facts_lie_uniformly_among_the_sentences():
  rng = np.random.default_rng(0)
  counts = collections.Counter()
  for _ in range(2100):
    hidden, places = babi.hide(rng, ["A", "B"], list("abcde"))
    assert [hidden[i] for i in places] == ["A", "B"]
    assert [s for s in hidden if s.islower()] == list("abcde")
    counts[tuple(places)] += 1
  assert len(counts) == 21
  # Chi-square, 20 degrees of freedom: five standard deviations above the mean.
  chi2 = sum((n - 100) ** 2 / 100 for n in counts.values())
  assert chi2 < 20 + 5 * math.sqrt(40)


def test_facts_lie_anywhere_before_the_gap():
  config = Config(num_facts=1, gap_share=0.5)
  starts = set()
  for index in range(1500):
    example = Task(config, SEED).example("train", index, 96)
    ((start, _),), _ = read(words_of(config, example))
    starts.add(start)
  end, _ = config.areas(96)
  assert max(starts) == end - 6
  # Two filler words are the fewest before a full stop.
  assert starts >= {0, *range(4, end - 6)}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_interference_is_the_share_of_names_in_filler(share):
  config = Config(interference=share)
  example = Task(config, SEED).example("train", 0, 10_000)
  end, questions_at = config.areas(10_000)
  filler = example["tokens"][end:questions_at]
  words = filler[filler >= config.first_name]
  stops = [config.vocabulary[t] for t in filler[filler < config.first_name]]
  assert set(stops) == {"."}  # no grammar: no sentence says anything
  assert 3 <= len(filler) / len(stops) <= 9
  names = words < config.first_filler
  # Of 4,000 draws: a standard deviation of at most 0.008.
  assert names.mean() == pytest.approx(share, abs=0.035)
  if share:
    assert len(np.unique(words[names])) == 4 + 8 + 4


def test_the_same_story_as_text():
  config = Config(kind="qa3")
  task = Task(config, SEED)
  for index in range(10):
    story = task.story("test", index)
    book = [f"It was chapter {i}." for i in range(50)]
    hidden, places = babi.hide(
      np.random.default_rng(0), [babi.text(s) for s in story.sentences], book
    )
    assert len(hidden) == 57 and [s for s in hidden if s in book] == book
    told = [hidden[i].rstrip(".").split() for i in places]
    asked = babi.text(story.questions[0].words)
    assert asked.startswith("Where was the ") and asked.endswith("?")
    question = asked[:-1].replace("Where", "where").split()
    assert Simulator(told, strict=True).answer(question) == (
      story.questions[0].answer
    )
    # And it is the story of the tokens.
    facts, _ = read(words_of(config, task.example("test", index, LENGTH)))
    assert [sentence for _, sentence in facts] == told
  assert babi.text(("the", "park", "is", ".")) == "The park is."


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_sentences_are_known(kind):
  config = Config(kind=kind)
  facts, questions = 0, 0
  for index in range(100):
    story = Task(config, SEED).story("train", index)
    facts = max(facts, *map(len, story.sentences))
    questions = max(questions, 1 + len(story.questions[0].words))
  assert (facts, questions) == babi.worlds.LONGEST[kind]


def test_another_process_makes_the_same_examples():
  code = (
    "from mattt_jax.tasks.babi import Config, Task\n"
    "for kind in ('qa1', 'qa2', 'qa3', 'qa4', 'qa5'):\n"
    "  task = Task(Config(kind=kind), 3)\n"
    "  print(task.example('tune', 5, 256)['tokens'].tobytes().hex())"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout.split()
  for kind, found in zip(KINDS, out, strict=True):
    task = Task(Config(kind=kind), SEED)
    task.example("train", 0, 512)  # what was asked before does not matter
    expected = task.example("tune", 5, 256)["tokens"].tobytes()
    assert bytes.fromhex(found) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_experiment(kind):
  tree = config_lib.template("babi")
  tree.task.kind = kind
  assert config_lib.from_config_dict(tree).task.min_distance(256) > 128


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(kind="qa6"), "task.kind='qa6' is not known: use one of qa1, qa2"),
    (dict(kind="qa5", num_facts=3), "num_facts=3 must be at least 4: fewer"),
    (dict(kind="qa4", num_facts=8), "num_facts=8 must be < task.num_places=8"),
    (dict(num_people=17), "task.num_people=17 must lie in 2 .. 16"),
    (dict(num_places=1), "task.num_places=1 must lie in 2 .. 16"),
    (dict(num_objects=0), "task.num_objects=0 must lie in 1 .. 16"),
    (dict(num_questions=0), "task.num_questions=0 must be at least 1"),
    (dict(num_facts=21), "too short for .*, 126 tokens .* 5 .* at least 260"),
    (dict(gap_share=0.45), "puts answers within 120 tokens .* reaches 125"),
    (dict(interference=2.0), "task.interference=2.0 must lie in"),
    (dict(answer_weight=0.0, context_weight=0.0), "leave nothing to learn"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  tree = config_lib.template("babi")
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fewest_facts_allow_a_question(kind):
  fewest = babi.worlds.FEWEST[kind]
  config = Config(kind=kind, num_facts=fewest, num_places=3, num_people=2)
  story = Task(config, SEED).story("train", 0)
  assert len(story.sentences) == fewest and len(story.questions) == 1
