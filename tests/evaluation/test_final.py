"""What a run ends with: its own task, parts off, other tasks."""

import jax
import pytest
import tiny
from flax import nnx

from mattt_jax.devices import meshes
from mattt_jax.evaluation import final
from mattt_jax.evaluation.evaluator import evaluate
from mattt_jax.evaluation.task_text import task_experiment
from mattt_jax.learners import build
from mattt_jax.tasks import associative_recall
from mattt_jax.training import trainer
from mattt_jax.ttt.parts import ALL

NAME = "associative_recall"
FEWER = f"{NAME}:num_pairs=1,num_queries=1"
EXPERIMENT = tiny.experiment(
  "episodic",
  eval__split="tune",
  eval__lengths=(32, 64),
  eval__tasks=(FEWER, f"{FEWER}@128"),
  eval__parts_off=True,
)


def measure(experiment):
  task = build.make_task(experiment)
  learner = nnx.split(build.build_learner(experiment, task.vocab_size))
  # Parameters that do something: those of a new memory are partly zero.
  params = jax.tree.map(lambda x: x + 0.1, learner[1])
  learner = learner[0], params
  found = final.measure(
    experiment, learner, task, step=9, mesh=meshes.make_mesh(1)
  )
  return found, learner, task


def test_all_that_was_asked_for():
  found, learner, task = measure(EXPERIMENT)
  whole = evaluate(EXPERIMENT, learner, task, "tune", (32, 64), step=9)
  assert {k: found[k] for k in whole} == whole
  assert whole["split"] == "tune"
  size = sum(x.size for x in jax.tree.leaves(learner[1]))
  assert found["parameters"] == size
  merged = nnx.merge(*learner)
  assert found["state_bytes"] == {
    "32": merged.state_bytes(32), "64": merged.state_bytes(64)
  }  # fmt: skip
  for part in ("inner", "memory"):
    off = evaluate(
      EXPERIMENT,
      learner,
      task,
      "tune",
      (32,),
      ALL._replace(**{part: False}),
      step=9,
    )["lengths"]["32"]
    assert found["parts_off"][part] == off
    assert off["loss"] != whole["lengths"]["32"]["loss"]
  assert [*found["tasks"]] == [FEWER, f"{FEWER}@128"]
  for text, lengths in ((FEWER, (32, 64)), (f"{FEWER}@128", (128,))):
    changed = task_experiment(EXPERIMENT, FEWER, lengths)
    fewer = associative_recall.Task(changed.task, EXPERIMENT.seed)
    read = evaluate(changed, learner, fewer, "tune", lengths, step=9)
    assert found["tasks"][text] == read["lengths"]
    assert [x["answers"] for x in read["lengths"].values()] == [3] * len(
      lengths
    )


def test_parts_that_are_not_there():
  experiment = tiny.experiment(
    eval__parts_off=True, inner__enabled=False, coordination__inner_off_share=0
  )
  found, *_ = measure(experiment)
  assert found["split"] == "test"
  assert (found["parts_off"], found["tasks"]) == ({}, {})
  assert [*found["state_bytes"]] == [*found["lengths"]] == ["32"]


@pytest.mark.parametrize(
  "text, message",
  [
    ("mqa", "Did you mean 'mqar'"),
    (f"{NAME}:pairs=1", "unknown field task.pairs"),
    (f"{NAME}@long", "@long must be @TOKENS"),
    (f"{NAME}@33", "chunk=8 must divide length=33"),
    (f"{NAME}:num_keys=99", "it has 118 tokens, the model 27"),
  ],
)
def test_bad_tasks(tmp_path, text, message):
  """Before anything is trained or written."""
  experiment = tiny.experiment(eval__tasks=(text,))
  with pytest.raises(ValueError, match="eval.tasks") as error:
    trainer.train(experiment, tmp_path / "run", mesh=meshes.make_mesh(1))
  assert text in str(error.value) and message in str(error.value)
  assert not (tmp_path / "run").exists()


def test_what_is_checked_before_training_is_not_read(monkeypatch):
  monkeypatch.setattr(final, "Reader", None)
  monkeypatch.setattr(final, "evaluate_with", None)
  final.check(EXPERIMENT, build.make_task(EXPERIMENT).vocab_size)


def test_bad_split():
  with pytest.raises(ValueError, match="eval.split='train'"):
    tiny.experiment(eval__split="train")
