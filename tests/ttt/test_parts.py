"""Which parts are on: as asked, as far as the system has them."""

import pytest
import tiny

from mattt_jax.ttt.parts import ALL, Parts, eval_parts, parts_of

NOTHING = Parts(inner=False, memory=False)


@pytest.mark.parametrize("memory", ["none", "episodic"])
@pytest.mark.parametrize("asked", [None, ALL, NOTHING, Parts(inner=False)])
def test_what_is_on(memory, asked):
  experiment = tiny.experiment(memory, eval__memory=False)
  there = Parts(inner=True, memory=memory != "none")
  assert parts_of(experiment) == there
  wanted = asked or Parts(inner=True, memory=False)  # as `eval` says
  assert eval_parts(experiment, asked) == Parts(
    inner=wanted.inner, memory=wanted.memory and there.memory
  )


def test_parts_are_told_apart_where_programs_are_kept():
  kept = {ALL: 1, NOTHING: 2, Parts(inner=False): 3, Parts(memory=False): 4}
  assert len(kept) == 4 and kept[Parts(True, True)] == 1
