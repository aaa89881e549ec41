"""Chosen and written answers, against texts into which they are spliced."""

import itertools
import json
import types

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from mattt_jax.commands import cli
from mattt_jax.evaluation import answers, bootstrap, suite
from mattt_jax.evaluation.reader import Reader, state_of
from mattt_jax.learners import build
from mattt_jax.tasks.base import Question
from mattt_jax.training import load
from mattt_jax.ttt.learner import Learner
from mattt_jax.ttt.parts import ALL, Parts
from mattt_jax.ttt.tokens import tokens_of

VOCAB, CHUNK, LENGTH, WHOLE = 27, 8, 32, 48
EXPERIMENT = tiny.experiment("episodic", inner__learning_rate=1.0)


def make():
  graphdef, params = nnx.split(build.build_learner(EXPERIMENT, VOCAB))
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  # Or the fast weights and the memory would hardly count.
  return graphdef, treedef.unflatten(
    x + 0.3 * jax.random.normal(k, x.shape)
    for k, x in zip(keys, leaves, strict=True)
  )


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  seq = rng.integers(0, VOCAB, (2, LENGTH + 1)).astype(np.int32)
  return {
    "tokens": seq[:, :-1],
    "targets": seq[:, 1:],
    "inner_weight": (rng.random((2, LENGTH)) < 0.8).astype(np.float32),
    "relevant": np.zeros((2, LENGTH), bool),
  }


@pytest.fixture(scope="module")
def learner():
  graphdef, params = make()

  @jax.jit
  def read(tokens):
    def one(tokens_L):
      out = nnx.merge(graphdef, params).read_whole(tokens_L)
      return out.loss_C.reshape(-1)

    return jax.vmap(one)(tokens)

  return Reader((graphdef, params), EXPERIMENT), read


def state_before(reader, batch, at, row):
  """A sequence's state before the chunk in which target `at` lies."""
  states = reader.states(tokens_of(batch), WHOLE)
  return state_of(next(itertools.islice(states, at // CHUNK, None)), row)


def spliced(example, at, candidates, size):
  """`size` texts that go on with a candidate, and are padded to WHOLE."""
  arrays = {k: np.zeros((size, WHOLE), x.dtype) for k, x in example.items()}
  for row, candidate in enumerate(candidates):
    seq = [*example["tokens"][: at + 1], *candidate]
    end = len(seq) - 1
    arrays["tokens"][row, :end] = seq[:-1]
    arrays["targets"][row, :end] = seq[1:]
    weight = [*example["inner_weight"][:at], *[1] * len(candidate)]
    arrays["inner_weight"][row, :end] = weight
  return tokens_of(arrays)


@pytest.mark.parametrize(
  "at, row",
  [
    (11, 0),
    (13, 1),  # the second candidate crosses the end of the chunk
    (15, 1),  # all but the first token are in the next one
    (16, 0),  # the first target of a chunk
    (30, 1),  # the second goes on after the last token
    (2, 1),
  ],
)
def test_loss_of_choices_is_that_of_texts_with_them(learner, batch, at, row):
  reader, read = learner
  rng = np.random.default_rng(at)
  choices = tuple(rng.integers(0, VOCAB, size) for size in (3, 7, 1))
  question = Question(at, choices, ("",), 1)
  state = state_before(reader, batch, at, row)
  example = {key: x[row] for key, x in batch.items()}
  found = reader.choice_losses(state, tokens_of(example), question, (4, 16))
  texts = spliced(example, at, choices, VOCAB)
  expected = [
    loss_L[at : at + len(choice)].mean()
    for loss_L, choice in zip(read(texts), choices, strict=False)
  ]
  np.testing.assert_allclose(found, expected, rtol=2e-5)


LETTERS = types.SimpleNamespace(
  decode=lambda tokens: "".join(chr(97 + t) for t in tokens), vocab_size=VOCAB
)


def greedy(read, example, at, room):
  """Of every token, the one that costs least after all before it."""
  written = []
  while len(written) < room:
    texts = [[*written, token] for token in range(VOCAB)]
    loss_VxL = read(spliced(example, at, texts, VOCAB))
    written.append(int(loss_VxL[:, at + len(written)].argmin()))
  return written


@pytest.mark.parametrize("at", [13, 15, 16])
def test_written_is_the_argmax_of_whole_reads(learner, batch, at):
  reader, read = learner
  # A session learns of every token that it reads itself.
  example = {key: x[1] for key, x in batch.items()}
  ones = batch | {"inner_weight": np.ones((2, LENGTH), np.float32)}
  example["inner_weight"] = ones["inner_weight"][1]
  state = state_before(reader, ones, at, 1)
  expected = LETTERS.decode(greedy(read, example, at, 11))

  def write(end=""):
    question = Question(at, (), ("",), 11, end)
    return reader.write(state, tokens_of(example), question, LETTERS, WHOLE)

  assert write() == expected
  end = expected[4:6]
  assert write(end) == expected.partition(end)[0]


def test_parts_that_are_off_stay_off(batch):
  learner = make()
  tokens_L = tokens_of({key: x[0] for key, x in batch.items()})
  found = []
  question = Question(13, (np.arange(9), np.arange(3)), ("",), 11)
  for parts in (ALL, Parts(inner=False, memory=False)):
    reader = Reader(learner, EXPERIMENT, parts=parts)
    state = state_before(reader, batch, 13, 0)
    found.append((
      reader.choice_losses(state, tokens_L, question, (4, 16)),
      reader.write(state, tokens_L, question, LETTERS, WHOLE),
    ))  # fmt: skip
  # Chunk 1 is the first in which anything learned or written counts.
  start = reader.learner.init_state(WHOLE)
  for was, now in zip(
    jax.tree.leaves((state.fast, state.memory)),
    jax.tree.leaves((start.fast, start.memory)),
    strict=True,
  ):
    np.testing.assert_array_equal(was, now)
  (on, said), (off, other) = found
  assert np.abs(on - off).min() > 1e-3 and said != other


def test_scores(monkeypatch):
  """Losses and texts by hand: equals and nan are wrong, one choice is none."""
  two, three = (np.arange(2),) * 2, (np.arange(2),) * 3
  by_hand = {  # at -> (choices, losses, guess is right, text)
    0: (three, [1.0, 2.0, 3.0], True, "an Anna."),
    1: (three, [1.0, 1.0, 3.0], False, "Anna and Ben"),
    9: (two, [np.nan, 1.0], False, "Ben"),
    4: (two, [2.0, 1.0], True, "Anna"),
    6: ((two[0], np.arange(4)), [-1.0, 1.0], True, ""),
    2: (two[:1], [1.0], True, "Anna"),
  }

  def question(at):
    choices, _, guess, _ = by_hand[at]
    room = 20 if at == 4 else 3
    own = {"metric": "babilong", "asked": "Who?", "labels": ("Anna", "Ben")}
    return Question(
      at, choices, ("Anna", "Bo"), room, guesses={"rule": guess},
      **(own if at == 1 or at == 4 else {}),
    )  # fmt: skip

  asked = [[question(0), question(1), question(9)], [], [question(4)]]
  asked += [[question(6), question(2)]]
  experiment = tiny.experiment()
  contexts, shapes = set(), set()

  def check(state, tokens_L, question):
    (index,) = set(tokens_L.tolist())
    assert question in asked[index]
    assert state.tolist() == [question.at // CHUNK, index % 2]

  def states(reader, tokens, context_length):
    contexts.add(context_length)
    for number in itertools.count():  # a state says which it is
      yield np.array([[number, 0], [number, 1]])

  def losses(reader, state, tokens_L, question, shape):
    shapes.add(shape)
    check(state, tokens_L.tokens, question)
    return np.array(by_hand[question.at][1])

  def write(reader, state, tokens_L, question, *_):
    check(state, tokens_L.tokens, question)
    return by_hand[question.at][3]

  monkeypatch.setattr(Reader, "write", write)
  monkeypatch.setattr(Reader, "states", states)
  monkeypatch.setattr(Reader, "choice_losses", losses)
  learner = build.build_learner(experiment, VOCAB)
  task = types.SimpleNamespace(
    tokenizer=LETTERS,
    size=lambda *_: None,
    example=lambda split, index, length: {
      "tokens": np.full(length, index, np.int32),
      "targets": np.zeros(LENGTH, np.int32),
      "inner_weight": np.ones(LENGTH, np.float32),
      "relevant": np.zeros(LENGTH, bool),
    },
  )
  row = answers.measure(
    Reader(learner, experiment), task, "tune", LENGTH, asked,
    ("choice", "written"),
  )  # fmt: skip
  assert shapes == {(3, 16)}  # 4 tokens from 6 on end in the next chunk
  assert contexts == {LENGTH + 24}  # room for 20, and one more
  intervals = row.pop("intervals")
  assert row == pytest.approx({
    "sequences": 4,
    "choice_questions": 5,
    "choice_accuracy": 2 / 5,
    "choice_chance": (1 / 3 + 1 / 3 + 1 / 2 * 3) / 5,
    "choice_rule": 3 / 5,
    "written_questions": 6,
    "written_exact_match": 3 / 6,  # articles and full stops do not count
    "written_f1": (1 + 1 / 2 + 0 + 1 + 0 + 1) / 6,
    "written_string_match": 4 / 6,
    "written_only_label": 1 / 2,  # of the two that are of such a set
  })  # fmt: skip
  assert intervals["choice_accuracy"] == bootstrap.interval(
    np.array([1, 0, 0, 1]), np.array([3, 0, 1, 1])
  )
  assert set(intervals) == {name for name in row if "_" in name} - {
    "choice_questions", "written_questions"
  }  # fmt: skip


CONFIG = """
from mattt_jax.config import template

def get_config(arg=""):
  config = template("documents_qa")
  config.update(length=256, chunk=16)
  config.model.update(dim=8, num_layers=1, num_suffix=1, num_heads=2,
                      mlp_dim=8, fast_mlp_dim=8, window=8)
  config.eval.update(sequences=2, batch_size=2, choices=3)
  return config
"""


def test_evaluate_answers(tmp_path, capsys, monkeypatch):
  (tmp_path / "mine.py").write_text(CONFIG)
  argv = ["evaluate", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}"]
  out = tmp_path / "evaluate.jsonl"
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(
    load,
    "load_learner",
    lambda experiment, _, **__: (build.build_learner(experiment, 256), 1),
  )
  summary = {"sequences": 2, "loss": 1.0, "intervals": {"loss": [0.5, 1.5]}}
  monkeypatch.setattr(
    suite, "evaluate_with", lambda *_, **__: {"lengths": {"256": dict(summary)}}
  )
  assert cli.main(argv) == 0
  for _ in range(2):  # the second time, it is there
    capsys.readouterr()
    assert cli.main([*argv, "--answers=written,choice,forced"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3:-1] == [
      "loss", "choice_accuracy", "choice_chance", "written_exact_match",
      "written_f1",
    ]  # fmt: skip
    forced, row = map(json.loads, out.open())
  assert forced.pop("scoring") == "forced"
  assert row["scoring"] == "forced,choice,written" and row["loss"] == 1.0
  assert row["choice_questions"] == row["written_questions"] == 2
  assert row["choice_chance"] == pytest.approx(1 / 3)
  assert len(row["intervals"]) == 6
  # Rows of before there were ways to choose from are forced ones.
  out.write_text(json.dumps(forced) + "\n")
  assert cli.main([*argv, "--answers=forced"]) == 0
  assert len(out.read_text().splitlines()) == 1

  def error(*more):
    capsys.readouterr()
    assert cli.main([*argv, *more]) == 2
    return capsys.readouterr().err

  assert "answers='chosen' is not known: use one of" in error(
    "--answers=forced,chosen"
  )
  message = error("--tasks=language_modeling", "--answers=choice")
  assert "task 'language_modeling' has no questions" in message
  assert "documents_qa, long_qa, name_cloze" in message
  message = error(
    "--tasks=long_qa:source=ruler:vt", "--lengths=4096", "--answers=choice"
  )
  assert "no question has choices: use --answers=written" in message
  message = error(
    "--tasks=name_cloze:out_of_reach=False,beyond=250,source=stdlib,"
    "num_mentions=9999", "--answers=choice",
  )  # fmt: skip
  assert "nothing is asked in 2 sequences: use a larger length" in message
  row = {"input": "", "context": "x", "answers": ["y"], "all_classes": None}
  rows = [row | {"_id": f"{n}", "dataset": "vcsum"} for n in range(3)]
  (tmp_path / "vcsum.jsonl").write_text("\n".join(map(json.dumps, rows)))
  chinese = f"--tasks=long_qa:source=longbench:{tmp_path}/vcsum.jsonl"
  with monkeypatch.context() as patch:
    patch.setattr(answers, "measure", None)  # before anything is read
    message = error(chinese, "--answers=written")
  assert "scores vcsum by Chinese words" in message
  monkeypatch.setattr(Learner, "streams", False)
  message = error("--answers=written")
  assert "answers=written needs a system that carries a state" in message
