"""When the inner loop learns during outer training, and how fast."""

import numpy as np
import pytest

from mattt_jax.config import InnerConfig
from mattt_jax.ttt.coordination import inner_on, rate_scale


@pytest.mark.parametrize("off_share", [0.0, 0.25, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("start", [0, 7])
def test_off_share_is_exact_after_the_start(off_share, start):
  config = InnerConfig(start_step=start, off_share=off_share)
  on = [inner_on(config, step) for step in range(start + 1000)]
  assert not any(on[:start])
  for steps in (100, 500, 1000):  # evenly spread, not only in the end
    off = steps - sum(on[start : start + steps])
    assert abs(off - off_share * steps) <= 1, steps
  if off_share == 0.5:
    assert on[start : start + 4] == [True, False, True, False]


def test_disabled_is_never_on():
  config = InnerConfig(enabled=False)
  assert not any(inner_on(config, step) for step in range(20))


def test_rate_warms_up_linearly_over_outer_steps():
  config = InnerConfig(learning_rate=0.5, warmup_init=0.1, warmup_steps=10)
  rates = [0.5 * float(rate_scale(config, step)) for step in range(12)]
  expected = [0.1 + 0.4 * min(1, (step + 1) / 10) for step in range(12)]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert np.isclose(rates[3], 0.26)  # what the published code uses there


@pytest.mark.parametrize(
  "settings", [dict(warmup_steps=0), dict(warmup_steps=5, learning_rate=0.0)]
)
def test_no_warm_up(settings):
  assert rate_scale(InnerConfig(**settings), 0) == 1.0
