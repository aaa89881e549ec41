"""A damaged checkpoint is never mistaken for a good one."""

import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mattt_jax import config
from mattt_jax.commands import cli
from mattt_jax.data import tokenizer
from mattt_jax.devices import meshes, sharding
from mattt_jax.tasks import language_modeling
from mattt_jax.training import checkpoint, load, trainer
from mattt_jax.training import workdir as workdir_lib


def make_state(step: int):
  key = jax.random.key(step)
  return {
    "step": jnp.int32(step),
    "params": {
      "w": jax.random.normal(key, (33, 7)),
      "b": jax.random.normal(key, (5,)).astype(jnp.bfloat16),
    },
  }


def same(a, b) -> bool:
  return all(
    jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
  """Checkpoints of steps 2 and 3 (1 was dropped), never changed."""
  directory = tmp_path_factory.mktemp("saved") / "checkpoints"
  store = checkpoint.Checkpoints(directory, keep=2)
  for step in (1, 2, 3):
    store.save(step, make_state(step), {"next": step}, {"lr": 0.5, "n": [1]})
  store.close()
  return directory


@pytest.fixture
def copy(saved, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restore_latest(directory):
  store = checkpoint.Checkpoints(directory, keep=2)
  try:
    return store.restore_latest(make_state(0))
  finally:
    store.close()


def test_round_trip_keeps_the_newest(saved):
  restored = restore_latest(saved)
  assert restored.step == 3
  assert same(restored.state, make_state(3))
  assert restored.data == {"next": 3}
  assert restored.config == {"lr": 0.5, "n": [1]}
  assert sorted(p.name for p in saved.iterdir()) == ["2", "3"]


def test_nothing_to_restore(tmp_path):
  assert restore_latest(tmp_path / "new") is None


def test_save_survives_donation_of_the_state(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / "c", keep=2)
  state = {"w": jnp.arange(100_000.0)}
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: -x, s), donate_argnums=0)
  store.save(1, state, {}, {})
  for _ in range(5):
    state = overwrite(state)
  store.close()
  store = checkpoint.Checkpoints(tmp_path / "c")
  restored = store.restore_latest({"w": jnp.zeros(100_000)})
  store.close()
  np.testing.assert_array_equal(restored.state["w"], np.arange(100_000.0))


def flip(path: pathlib.Path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1 << 2
  path.write_bytes(content)


def truncate(path: pathlib.Path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, pathlib.Path.unlink])
def test_damage_to_any_file_is_seen_or_harmless(
  saved, tmp_path, damage, caplog
):
  files = sorted(
    p.relative_to(saved) for p in (saved / "3").rglob("*") if p.is_file()
  )
  fell_back = []
  for number, file in enumerate(files):
    directory = tmp_path / str(number)
    shutil.copytree(saved, directory)
    damage(directory / file)
    caplog.clear()
    restored = restore_latest(directory)
    # Orbax keeps files that a restore does not need; those may be damaged.
    assert restored.step in (2, 3), file
    assert same(restored.state, make_state(restored.step)), file
    assert restored.data == {"next": restored.step}, file
    assert restored.config == {"lr": 0.5, "n": [1]}, file
    if restored.step == 2:
      fell_back.append(file)
      assert restored.damaged in ((3,), ()), file
  names = {f.parts[1] for f in fell_back}
  assert {"state", "data", "config", "checksum"} <= names, fell_back
  # The arrays themselves lie in the largest file.
  largest = max(files, key=lambda f: (saved / f).stat().st_size)
  assert largest in fell_back


def test_warning_names_the_step_and_the_reason(copy, caplog):
  (copy / "3" / "data" / "metadata").write_text("{")
  restored = restore_latest(copy)
  assert (restored.step, restored.damaged) == (2, (3,))
  text = caplog.text
  assert "checkpoints/3 cannot be read" in text and "JSON" in text
  assert "using the checkpoint of step 2" in text


def test_changed_number_in_json_is_seen(copy, caplog):
  path = copy / "3" / "data" / "metadata"
  path.write_text(path.read_text().replace("3", "4"))
  assert restore_latest(copy).step == 2
  assert "the checksum of data differs" in caplog.text


def test_arrays_of_another_step_are_seen(copy, caplog):
  shutil.rmtree(copy / "3" / "state")
  shutil.copytree(copy / "2" / "state", copy / "3" / "state")
  assert restore_latest(copy).step == 2
  assert "the checksum of " in caplog.text


def test_all_damaged_is_an_error(copy):
  for step in ("2", "3"):
    shutil.rmtree(copy / step / "state")
  with pytest.raises(checkpoint.CheckpointError) as error:
    restore_latest(copy)
  assert "all 2 checkpoints" in str(error.value)
  assert "checkpoints/2" in str(error.value)
  assert "checkpoints/3" in str(error.value)


def test_unfinished_save_is_not_a_checkpoint(copy):
  partial = copy / "4.orbax-checkpoint-tmp-7"
  shutil.copytree(copy / "3", partial)
  assert restore_latest(copy).step == 3
  until = time.monotonic() + 60
  while partial.exists() and time.monotonic() < until:
    time.sleep(0.01)  # a thread of orbax's removes it
  assert not partial.exists()


def test_step_of_a_damaged_checkpoint_can_be_saved_again(copy):
  shutil.rmtree(copy / "3" / "state")
  store = checkpoint.Checkpoints(copy, keep=2)
  store.set_aside(store.restore_latest(make_state(0)).damaged)
  assert store.steps() == [2]
  store.save(3, make_state(3), {"next": 3}, {})
  store.close()
  assert same(restore_latest(copy).state, make_state(3))
  assert (copy / "damaged-3").is_dir()


def test_restores_to_another_placement(saved):
  mesh = meshes.make_mesh(3)
  like = jax.device_put(make_state(0), sharding.replicated(mesh))
  split = NamedSharding(mesh, PartitionSpec("data"))
  like["params"]["w"] = jax.device_put(like["params"]["w"], split)
  store = checkpoint.Checkpoints(saved)
  restored = store.restore_latest(like)
  store.close()
  assert restored.state["params"]["w"].sharding == split
  np.testing.assert_array_equal(
    restored.state["params"]["w"], make_state(3)["params"]["w"]
  )


def test_checksum_sees_every_bit_and_every_exchange():
  x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  original = int(checkpoint.checksums({"x": x})["x"])
  seen = {original}
  for element in range(x.size):
    for bit in range(32):
      bits = x.view(np.uint32).copy()
      bits.flat[element] ^= np.uint32(1) << np.uint32(bit)
      seen.add(int(checkpoint.checksums({"x": bits})["x"]))
  assert len(seen) == 1 + x.size * 32
  exchanged = x[:, [1, 0, 2, 3]]
  assert int(checkpoint.checksums({"x": exchanged})["x"]) != original


def experiment(**changes) -> config.Experiment:
  tree = config.template("associative_recall", "none")
  tree.update_from_flattened_dict(changes)
  return config.from_config_dict(tree)


def test_workdir_of_other_settings_is_refused(tmp_path):
  mine = experiment()
  workdir_lib.bind(tmp_path / "w", mine)
  workdir_lib.bind(tmp_path / "w", mine)
  other = experiment(**{"seed": 4, "outer.learning_rate": 1e-4})
  with pytest.raises(ValueError) as error:
    workdir_lib.bind(tmp_path / "w", other)
  text = str(error.value)
  assert "seed: 0 -> 4" in text
  assert "outer.learning_rate: 0.005 -> 0.0001" in text
  assert "another workdir" in text
  assert len(text.splitlines()) == 3  # these two fields and no others


def test_the_mesh_may_be_another_one(tmp_path):
  workdir_lib.bind(tmp_path, experiment())
  workdir_lib.bind(tmp_path, experiment(**{"mesh.fsdp": 2}))


def test_workdir_settings_read_back_as_the_experiment(tmp_path):
  mine = experiment(**{"eval.lengths": (256, 512)})
  workdir_lib.bind(tmp_path, mine)
  tree = config.ConfigDict(workdir_lib.read_config(tmp_path))
  assert config.from_config_dict(tree) == mine


def test_workdir_whose_settings_are_unknown(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ValueError, match="no config.json"):
    workdir_lib.bind(tmp_path, experiment())
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json cannot be read"):
    workdir_lib.bind(tmp_path, experiment())
  (tmp_path / "file").touch()
  with pytest.raises(ValueError, match="is a file"):
    workdir_lib.bind(tmp_path / "file", experiment())


@pytest.fixture
def reading(tmp_path, monkeypatch):
  """Makes an experiment on texts with a tokenizer of so many tokens."""
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  texts = tmp_path / "texts"
  texts.mkdir()
  for name in "abc":
    (texts / f"{name}.txt").write_text(f"{name} and the others. " * 20)
  path = tmp_path / "bpe.json"

  def make(vocab=260):
    path.write_bytes(tokenizer.train(["and the others"] * 9, vocab).content)
    tree = config.template("language_modeling")
    tree.task.update(source=f"directory:{texts}", tokenizer=str(path))
    return config.from_config_dict(tree)

  return make, path


def test_the_tokenizer_stays_with_the_run(reading, tmp_path, monkeypatch):
  """A copy of it, from before the first step on."""
  make, path = reading
  mine = make()

  def stop(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(trainer, "_Run", stop)
  for _ in range(2):  # the second time it is there already
    with pytest.raises(KeyboardInterrupt):
      trainer.train(mine, tmp_path / "w", mesh=meshes.make_mesh(1))
    kept = tmp_path / "w" / "tokenizer"
    assert kept.read_bytes() == path.read_bytes()
  assert tokenizer.load(str(kept)).vocab_size == 260

  tree = config.ConfigDict(workdir_lib.read_config(tmp_path / "w"))
  assert config.from_config_dict(tree) == mine
  path.unlink()
  with pytest.raises(ValueError, match="a run keeps a copy of its own"):
    config.from_config_dict(tree)
  # Its settings with its copy are the same run.
  own = workdir_lib.with_own_tokenizer(tree.to_dict(), tmp_path / "w")
  assert own["task"]["tokenizer"] == str(kept)
  moved = config.from_config_dict(config.ConfigDict(own))
  assert workdir_lib.bind(tmp_path / "w", moved)
  seen = []

  def stand_in(experiment, workdir, best):
    assert not best
    seen.append(experiment)
    raise ValueError("enough")

  monkeypatch.setattr(load, "load_learner", stand_in)
  assert cli.main(["evaluate", f"--workdir={tmp_path / 'w'}"]) == 2
  assert seen[0] == moved
  path.write_bytes(kept.read_bytes())  # the fix that the message says
  assert config.from_config_dict(tree) == mine
  make(261)
  kept.write_bytes(path.read_bytes())  # another one in its place
  with pytest.raises(ValueError, match="has sha256"):
    config.from_config_dict(config.ConfigDict(own))


def test_another_tokenizer_is_refused(reading, tmp_path):
  """When a run goes on, and when it is read back to be evaluated."""
  make, _ = reading
  mine = make()
  workdir_lib.bind(tmp_path / "w", mine)
  saved = config.to_dict(mine)  # what each checkpoint holds
  other = make(261)  # another file in the same place
  digests = mine.task.tokenizer_sha256, other.task.tokenizer_sha256
  message = "task.tokenizer_sha256: {!r} -> {!r}".format(*digests)
  for call in (
    lambda: workdir_lib.bind(tmp_path / "w", other),
    lambda: load.load_learner(other, tmp_path / "w"),
    lambda: workdir_lib.require_same_config("checkpoint 3", saved, other),
  ):
    with pytest.raises(ValueError) as error:
      call()
    assert message in str(error.value)
  tree = config.ConfigDict(workdir_lib.read_config(tmp_path / "w"))
  with pytest.raises(ValueError, match=f"has sha256 {digests[1]}, not task.to"):
    config.from_config_dict(tree)


def test_bytes_need_no_file(tmp_path):
  assert language_modeling.Config().tokenizer == "bytes"
  task = type("Task", (), {"tokenizer": tokenizer.Bytes()})
  for made in (task, object()):
    workdir_lib.keep_tokenizer(tmp_path, made)
  assert not list(tmp_path.iterdir())
  for tree in ({"task": {"tokenizer": "bytes", "tokenizer_sha256": ""}}, {}):
    assert workdir_lib.with_own_tokenizer(tree, tmp_path) == tree
