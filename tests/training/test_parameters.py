"""What training starts from, what it moves, and what it leaves alone."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import experiment, rows

from mattt_jax.devices import meshes
from mattt_jax.learners import build
from mattt_jax.training import load, parameters, trainer

ONE = meshes.make_mesh(1)
VOCAB = 28
LEARNED = ("pointer/*", "inner/*")


def settings(**changes):
  return experiment(
    "episodic", model__num_layers=2, inner__learn_rate=True,
    train__trainable=LEARNED, train__micro_batch=1, **changes,
  )  # fmt: skip


def shapes(**changes):
  return build.abstract_learner(settings(**changes), VOCAB)[1]


def of_another_seed() -> nnx.State:
  made = settings(seed=7)
  vocab = build.make_task(made).vocab_size
  return nnx.split(build.build_learner(made, vocab))[1]


def numbers(params) -> dict[str, np.ndarray]:
  return parameters.named(jax.device_get(params))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The work directory of a run from given parameters, those, the result."""
  workdir, start = tmp_path_factory.mktemp("run"), of_another_seed()
  result = trainer.train(settings(), workdir, mesh=ONE, init=lambda _: start)
  return workdir, start, result


def final(workdir):
  learner, step = load.load_learner(settings(), workdir)
  return numbers(nnx.split(learner)[1]), step


def test_only_what_is_trainable_moves(run):
  workdir, start, _ = run
  before, (after, step) = numbers(start), final(workdir)
  assert step == 14 and before.keys() == after.keys()
  for name, x in before.items():
    moves = name.startswith(("model/pointer/", "inner/"))
    assert moves != np.array_equal(x, after[name]), name
  # W_0 among them, from which the inner loop learns all the same.
  trained = [row for row in rows(workdir) if row["kind"] == "train"]
  assert all(row["inner_grad_norm"] > 0 for row in trained)


def test_checkpoints_hold_all_parameters_and_moments_of_the_trainable(run):
  workdir, start, _ = run
  folder = workdir / "checkpoints" / "14" / "checksum" / "metadata"
  saved = folder.read_text()
  for name in numbers(start):
    moments = [f"/{moment}/{name}" in saved for moment in ("mu", "nu")]
    assert f"params/{name}" in saved
    assert moments == 2 * [name.startswith(("model/pointer/", "inner/"))], name


def test_a_run_goes_on_bit_for_bit_and_does_not_ask_init(run, tmp_path):
  def never(_):
    raise AssertionError("a checkpoint is there")

  workdir, _, result = run
  again = shutil.copytree(workdir, tmp_path / "w")
  (again / "evaluation.json").unlink()
  shutil.rmtree(again / "checkpoints" / "14")
  resumed = trainer.train(settings(), again, mesh=ONE, init=never)
  assert resumed["evaluation"] == result["evaluation"]
  assert rows(again) == rows(workdir)
  jax.tree.map(np.testing.assert_array_equal, final(again), final(workdir))


def test_other_trainable_parameters_are_other_settings(run):
  with pytest.raises(ValueError, match="train.trainable: .*'pointer/.*'suf"):
    trainer.train(experiment(
      "episodic", model__num_layers=2, inner__learn_rate=True,
      train__micro_batch=1, train__trainable=("suffix/*",),
    ), run[0], mesh=ONE)  # fmt: skip


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda x: x.pop("model/embedding"),
     r"init gives model/embedding as nothing, .* wants \(28, 16\) float32"),
    (lambda x: x.update({"model/more": x["model/embedding"]}),
     r"init gives model/more as \(28, 16\) float32, .* wants nothing"),
    (lambda x: x.update({"model/embedding": np.ones((29, 16), np.float32)}),
     r"model/embedding as \(29, 16\) float32, .* wants \(28, 16\) float32"),
    (lambda x: x.update({"model/embedding": np.ones((28, 16))}),
     r"model/embedding as \(28, 16\) float64, .* wants \(28, 16\) float32"),
  ],
)  # fmt: skip
def test_given_parameters_that_do_not_fit(change, message):
  like = shapes()
  arrays = {k: np.ones(x.shape, x.dtype)
            for k, x in parameters.named(like).items()}  # fmt: skip
  fitting = parameters.fitting(arrays, like)
  assert jax.tree.structure(fitting) == jax.tree.structure(like)
  change(arrays)
  with pytest.raises(ValueError, match=message):
    parameters.fitting(arrays, like)


def test_a_glob_that_matches_nothing_is_said_before_there_is_a_run(tmp_path):
  made = experiment(train__trainable=("suffix/*", "prefx/mlp/*"))
  message = r"train.trainable=.*'prefx/mlp/\*' matches no .* suffix/mlp/w"
  with pytest.raises(ValueError, match=message):
    trainer.train(made, tmp_path / "w", mesh=ONE)
  assert not (tmp_path / "w").exists()


def test_nothing_to_train():
  with pytest.raises(ValueError, match=r"train.trainable=\(\) leaves nothing"):
    experiment(train__trainable=())


def test_parts_are_the_whole():
  params = shapes()
  moved, frozen = parameters.split(params, ("*/wq", "inner/log_rate_T"))
  assert parameters.named(moved).keys() == {
    "inner/log_rate_T", "model/pointer/wq", "model/prefix/attention/wq",
    "model/suffix/attention/wq",
  }  # fmt: skip
  assert not set(parameters.named(moved)) & set(parameters.named(frozen))
  whole = nnx.merge_state(moved, frozen)
  assert jax.tree.structure(whole) == jax.tree.structure(params)
  everything, nothing = parameters.split(params, parameters.ALL)
  assert jax.tree.structure(everything) == jax.tree.structure(params)
  assert not jax.tree.leaves(nothing)
