"""The demo runs from start to end and reports what it computed."""

import json

from mattt_jax.commands import _demo as demo


def test_tiny_demo(tmp_path, capsys):
  results = demo.run(tmp_path / "out", tiny=True)
  out = capsys.readouterr().out
  assert json.loads((tmp_path / "out/results.json").read_text()) == results
  for name in ("recall.png", "document.png"):
    assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
  for system, label in demo.SYSTEMS.items():
    rows = results["recall"][system]["lengths"]
    assert list(rows) == ["64", "128"]
    assert label in out
  curves = results["document"]["loss_nats_per_byte"]
  # Chunk 1 is read with the weights from before any learning: no difference
  # can come from elsewhere than the inner loop.
  assert curves["on"][0] == curves["off"][0]
  assert curves["on"][-1] != curves["off"][-1]
  assert results["found"] in out
