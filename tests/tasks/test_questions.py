"""What all tasks do that ask about a stretch of a document they have read."""

import dataclasses
import re

import numpy as np
import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry
from mattt_jax.data import dialogue, tokenizer
from mattt_jax.data.splits import SPLITS

NAMES = ("code_lookup", "quote_attribution", "which_first")
ASKED = {
  "code_lookup": rb"\n# (arguments|\S+ is)",
  "quote_attribution": b"\nWho said: ",
  "which_first": b"\nWhich came first, ",
}


def module(rng):
  """Source of a Python module with naïve comments."""
  made = []
  for k in range(40):
    words = [f"{w}{k}" for w in rng.permutation(["au", "bé", "ci", "do"])]
    where = f"{words[3]}.{'xyz'[rng.integers(3)]}"
    made += [f"from {where} import {words[0]}, {words[1]}  # naïve"]
    arguments = ", ".join(words[: rng.integers(1, 5)])
    made += [f"def f{k}({arguments}):", f'  return "é", {words[0]}']
  return "\n".join(made)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """A directory of documents for each task."""
  made = {name: tmp_path_factory.mktemp(name) for name in NAMES}
  rng = np.random.default_rng(0)
  for k in range(8):
    for name in ("code_lookup", "which_first"):
      (made[name] / f"m{k}.py").write_text(module(rng))
  for name, text in list(dialogue.documents().items())[:8]:
    for task in ("quote_attribution", "which_first"):
      (made[task] / name).write_text("Naïve.\n\n" + text)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MATTT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield made


@pytest.fixture(params=NAMES)
def make(request, sources):
  """Makes a task of other settings than the defaults."""
  entry = registry.load("mattt_jax.tasks", request.param)
  config = entry.Config(
    source=f"directory:{sources[request.param]}", beyond=120
  )
  return lambda seed=0, **changes: entry.Task(
    dataclasses.replace(config, **changes), seed
  )


@pytest.fixture(scope="module")
def bpe(sources, tmp_path_factory):
  texts = [p.read_text() for d in sources.values() for p in d.iterdir()]
  path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
  path.write_bytes(tokenizer.train(texts, 400).content)
  return str(path)


def examples(task, length, most=25):
  for split in SPLITS:
    for index in range(min(most, task.size(split, length) or most)):
      yield split, index, task.example(split, index, length)


def whole(example):
  """Tokens that are not padding."""
  size = int((example["inner_weight"] > 0).sum())
  assert (example["inner_weight"][:size] == 1).all()
  assert not example["outer_weight"][size:].any()
  assert not example["targets"][size:].any()
  return np.append(example["tokens"][:1], example["targets"][:size])


def name_of(task):
  return type(task).__module__.rpartition(".")[2]


@pytest.mark.parametrize("length", [400, 1000])
def test_a_stretch_of_a_document_then_questions(make, length):
  task = make()
  texts = {
    split: [tokens.tobytes() for _, tokens in task._documents[split]]
    for split in SPLITS
  }
  several = 0
  for split, _, example in examples(task, length):
    read = bytes(whole(example).tolist())
    ask = ASKED[name_of(task)]
    at = re.search(ask, read).start()
    places = [text.find(read[:at]) for text in texts[split]]
    (place,) = (p for p in places if p >= 0)
    if split != "train":
      assert place % length == 0
    padded = len(read) < length + 1  # only where a document ends
    assert not padded or read[:at] in [t[-at:] for t in texts[split]]
    count = example["answer"].max() + 1
    assert len(re.findall(ask, read[at:])) == count <= task.config.num_questions
    several += count > 1
    assert read.endswith(b"\n") and not read.endswith(b"\n\n")
  assert several > 5


def test_held_out_windows_do_not_overlap(make):
  task, length = make(), 400
  for split in ("tune", "test"):
    reads = [
      task._read(split, index, length)
      for index in range(task.size(split, length))
    ]
    for document in {read.document for read in reads}:
      edges = sorted((r.start, r.stop) for r in reads if r.document == document)
      for (_, stop), (start, _) in zip(edges, edges[1:], strict=False):
        assert stop <= start


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_answers_and_choices(make, bpe, kind):
  task = make(tokenizer=bpe if kind == "bpe" else kind)
  encode, total = task.tokenizer.encode, 0
  for split, index, example in examples(task, 400):
    choices = task.choices(split, index, 400)
    assert len(choices) == example["answer"].max() + 1 > 0
    for number, choice in enumerate(choices):
      at = np.flatnonzero(example["answer"] == number)
      assert at[0] == choice.at and (np.diff(at) == 1).all()
      name = choice.names[choice.right]
      np.testing.assert_array_equal(
        encode(choice.before + name), example["targets"][at]
      )
      assert choice.before in (("",) if kind == "bytes" else ("", " "))
      end = task.tokenizer.decode(example["targets"][at[-1] : at[-1] + 2])
      assert "\n" in end  # the line ends with the answer, or after it
      assert len(set(choice.names)) == len(choice.names) > 1
      assert choice.right in choice.mentions
      assert 0 <= choice.mentions.min()
      assert choice.mentions.max() < len(choice.names)
      total += 1
  assert total > 30


@pytest.mark.parametrize("beyond", [0, 60, 250])
def test_evidence_is_out_of_reach(make, beyond):
  task, total = make(beyond=beyond, num_questions=1), 0
  for *_, example in examples(task, 500):
    at = np.flatnonzero(example["answer"] == 0)
    (distance,) = set(example["distance"][at].tolist())
    relevant = np.flatnonzero(example["relevant"])
    assert distance == at[0] - relevant[-1] > beyond
    total += 1
  assert total > 30


def test_distances_of_several_questions(make):
  task = make()
  for split, index, example in examples(task, 1000):
    relevant = np.zeros(1001, bool)
    read = task._read(split, index, 1000)
    for number, question in enumerate(read.questions):
      spans = [s for fact in question.evidence for s in fact.spans]
      places = np.concatenate([np.arange(*s) for s in spans]) - read.start
      relevant[places] = True
      first = np.flatnonzero(example["answer"] == number)[0]
      assert example["distance"][first] == first + 1 - places.max() > 120
    np.testing.assert_array_equal(example["relevant"], relevant[1:])


def test_the_same_bytes_for_the_same_arguments(make):
  first, second, other = make(), make(), make(seed=1)
  second.size("test", 900)  # what was asked before does not matter
  second.choices("train", 1, 500)
  differs = set()
  for split, index, example in examples(first, 400, 5):
    again = second.example(split, index, 400, step=3)
    for key, array in example.items():
      assert array.tobytes() == again[key].tobytes()
    third = other.example(split, index, 400)
    if third["tokens"].tobytes() != example["tokens"].tobytes():
      differs.add(split)
  assert differs >= {"train", "test"}


def test_weights(make):
  task = make(answer_weight=3.0, context_weight=0.5)
  for *_, example in examples(task, 400, 5):
    weight = np.where(example["answer"] >= 0, 3.0, 0.5)
    np.testing.assert_array_equal(
      example["outer_weight"], weight * example["inner_weight"]
    )


def test_what_cannot_be_asked(make, tmp_path):
  task = make()
  for split in SPLITS:
    with pytest.raises(ValueError, match=f"length=125: .*{split}.*beyond=120"):
      task.example(split, 0, 125)
  size = task.size("tune", 400)
  with pytest.raises(ValueError, match=f"{size} of length=400 have a question"):
    task.example("tune", size, 400)
  for k in range(3):
    (tmp_path / f"{k}.txt").write_text("nothing is said here. " * 50)
  with pytest.raises(ValueError, match="no document of split='train' has any"):
    make(source=f"directory:{tmp_path}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(num_questions=0), "task.num_questions=0 must be at least 1"),
    (dict(beyond=-1), "task.beyond=-1 must be at least 0"),
    (dict(beyond=256), "task.beyond=256 must be smaller than .*length, 256"),
    (dict(beyond=124), "within the 125 tokens .* use task.beyond=125 or more"),
    (
      dict(answer_weight=0.0, context_weight=0.0),
      "task.answer_weight=0 and task.context_weight=0 leave nothing",
    ),
    (dict(source="directory:/no/such"), "there is no directory"),
  ],
)
def test_settings_that_do_not_fit(name, changes, message):
  tree = config_lib.template(name)
  tree.task.update(changes)
  with pytest.raises(ValueError, match=message):
    config_lib.from_config_dict(tree)


@pytest.mark.parametrize("name", NAMES)
def test_every_length_has_room(name):
  tree = config_lib.template(name)
  tree.task.beyond = 300
  tree.eval.lengths = (512,)
  with pytest.raises(ValueError, match="must be smaller than length=256"):
    config_lib.from_config_dict(tree)
  tree.length = 512
  config_lib.from_config_dict(tree)
