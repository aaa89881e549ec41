"""README: its memory runs, its links resolve, and it stays short."""

import importlib
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mattt_jax import config, memory, registry
from mattt_jax.devices import meshes
from mattt_jax.memory.base import Pairs
from mattt_jax.training import trainer

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
  *ROOT.glob("*.md"),
  *(ROOT / "docs").glob("*.md"),
  *(ROOT / name / "README.md" for name in ("launch", "results", "tests")),
]


def links(text: str) -> list[str]:
  """Targets of all links that lie in this repository."""
  found = re.findall(r"\]\(\s*([^)\s]+)\s*\)", text)
  return [x for x in found if "://" not in x]


def anchors(text: str) -> set[str]:
  """The names under which the headings of a page can be linked to."""
  heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
  return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in heads}


@pytest.mark.parametrize(
  "page", PAGES, ids=lambda x: f"{x.parent.name}/{x.stem}"
)
def test_links_resolve(page):
  broken = []
  for link in links(page.read_text()):
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists() or (
      anchor and anchor not in anchors(target.read_text())
    ):
      broken.append(link)
  assert broken == []


def test_every_page_and_folder_is_reached_from_the_readme():
  assert {f"docs/{x.name}" for x in (ROOT / "docs").glob("*.md")} <= set(
    links(README)
  )
  map_of_folders = README.split("\n## Map\n")[1].split("\n## ")[0]
  listed = set(re.findall(r"[\w]+", map_of_folders))
  there = {
    path.stem
    for path in (ROOT / "mattt_jax").iterdir()
    if (path / "__init__.py").exists() or path.suffix == ".py"
  }
  assert there - {"__init__", "main"} <= listed


def test_it_is_read_in_two_minutes():
  lines = README.splitlines()
  assert len(lines) <= 200
  assert {"make demo", "make test", "pip install"} <= {
    command
    for command in ("make demo", "make test", "pip install")
    if any(command in line for line in lines[:30])
  }


@pytest.fixture
def recent(tmp_path, monkeypatch):
  """README's memory, saved where memories are looked for; its module."""
  (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
  assert "class Config(BaseConfig)" in block
  (tmp_path / "recent.py").write_text(block)
  monkeypatch.setattr(memory, "__path__", [*memory.__path__, str(tmp_path)])
  importlib.invalidate_caches()
  yield registry.load(config.MEMORIES, "recent")
  sys.modules.pop("mattt_jax.memory.recent")
  del memory.recent


def test_the_memory_recalls_what_was_written(recent):
  dim, chunk, capacity = 16, 4, 6
  made = recent.Config(capacity=capacity).make(dim, chunk, nnx.Rngs(0))
  hidden = jax.random.normal(jax.random.key(1), (3 * chunk, dim))
  state = made.init_state(64)
  for i in range(3):
    part = slice(i * chunk, (i + 1) * chunk)
    state = made.write(
      state,
      Pairs(
        hidden_CxD=hidden[part],
        value_CxD=hidden[part],
        next_token_C=jnp.arange(100, 100 + 3 * chunk)[part],
        surprise_C=jnp.zeros(chunk),
        gradient_C=None,
        relevant_C=jnp.zeros(chunk, bool),
        valid_C=jnp.asarray([True, True, True, False]),  # the last is padding
      ),
    )
  # Nine pairs were valid; six fit.
  np.testing.assert_array_equal(state.token_M, [104, 105, 106, 108, 109, 110])
  read = made.read(state, hidden)
  total = jnp.exp(read.log_prob_CxJ).sum(1) + jnp.exp(read.log_null_C)
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)
  best = jnp.take_along_axis(
    read.token_CxJ, jnp.argmax(read.log_prob_CxJ, 1)[:, None], axis=1
  )
  stored = jnp.asarray([4, 5, 6, 8, 9, 10])
  np.testing.assert_array_equal(best[stored, 0], 100 + stored)
  assert (read.log_null_C[stored] < jnp.log(0.01)).all()


def test_the_memory_trains_and_is_read(recent, tmp_path):
  settings = registry.load_config("recall:tiny,system=ttt_recent")
  settings.memory.capacity = 128
  experiment = config.from_config_dict(settings)
  found = trainer.train(experiment, tmp_path, mesh=meshes.make_mesh(1))
  assert found["step"] == experiment.train.steps
  measured = found["train"]
  assert np.isfinite(measured["loss"]) and measured["memory_share"] > 0
  assert (
    found["evaluation"]["state_bytes"]["64"]["memory"] == 128 * (16 + 1) * 4
  )
