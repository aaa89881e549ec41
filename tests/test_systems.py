"""Every system of the table fits every experiment, and is what it says."""

import pytest

from mattt_jax import config as config_lib
from mattt_jax import registry, systems
from mattt_jax.data import tokenizer
from mattt_jax.registry import load_config

SYSTEMS = systems.names()
# The ablation makes its four systems itself (see test_experiments).
EXPERIMENTS = sorted(set(registry.experiments()) - {"ablation"})


@pytest.fixture(scope="module")
def books(tmp_path_factory):
  """What `experiments/books.py` reads, in small: documents, a tokenizer."""
  root = tmp_path_factory.mktemp("data") / "books"
  root.mkdir()
  for name in ("a", "b", "c"):
    (root / f"{name}.txt").write_text(f"The book {name}. " * 20)
  tokenizer.train_file(f"directory:{root}", 260, root.with_suffix(".json"))
  return root


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("size", ["tiny", ""])
def test_settings_fit(experiment, name, size, books):
  data = f"books={books}" if experiment == "books" else ""
  arg = ",".join(filter(None, [size, f"system={name}", data]))
  config_lib.from_config_dict(load_config(f"{experiment}:{arg}"))


def test_books_must_be_prepared():
  with pytest.raises(ValueError, match="mattt prepare books elsewhere && "):
    load_config("books:books=elsewhere")


def test_each_has_one_line_about_it():
  lines = systems.summaries()
  assert set(lines) <= set(SYSTEMS)
  for name, line in lines.items():
    assert 10 < len(line) < 80 and "\n" not in line, name


@pytest.mark.parametrize("memory", ["episodic", "associative"])
def test_two_by_two(memory):
  found = {}
  for name in systems.square(memory):
    made = config_lib.from_config_dict(load_config(f"recall:system={name}"))
    found[made.inner.enabled, made.memory.read is not None] = made
  assert len(found) == 4
  # Nothing differs but the two parts.
  base = config_lib.to_dict(found[False, False])
  for made in found.values():
    lines = config_lib.differences(base, config_lib.to_dict(made))
    assert all(x.startswith(("inner.enabled", "memory.")) for x in lines), lines


def test_a_system_leaves_nothing_of_the_one_before():
  tree = load_config("recall:system=ttt_memory")
  systems.apply(tree, "sliding_window")
  assert tree.to_dict() == load_config("recall:system=sliding_window").to_dict()


def test_steps_keep_what_the_experiment_sets_besides():
  tree = load_config("rule:system=ttt_memory,steps=7")
  expected = load_config("rule:system=ttt_memory")
  expected.train.steps = 7
  assert tree.to_dict() == expected.to_dict()
  assert tree.memory.feed and tree.coordination.inner_off_share == 0
  # Schedules depend on the steps.
  recall = load_config("recall:system=ttt_memory_scheduled,steps=10")
  assert recall.coordination.inner_start == 4


def test_a_system_has_one_name():
  settings = [
    load_config(f"recall:system={name}").to_dict() for name in SYSTEMS
  ]
  assert all(settings[i] not in settings[:i] for i in range(len(settings)))
  for old, new in systems.RENAMED.items():
    assert old not in SYSTEMS and new in SYSTEMS
    with pytest.raises(ValueError, match=f"'{old}' has .*: use system={new}"):
      load_config(f"recall:system={old}")


def test_unknown():
  with pytest.raises(ValueError, match="system='tttt' is not known.*mean 'ttt"):
    load_config("recall:system=tttt")
