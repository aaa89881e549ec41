"""Tables of results."""

from mattt_jax.report import tables


def test_markdown_has_a_row_for_each_label():
  cells = [tables.summary([1.0, 2.0, 4.5])]
  assert tables.markdown("system", [256], {"perk": cells}) == [
    "| system | 256 |",
    "|---|---|",
    "| perk | 2.500 [1.000, 4.500] |",
  ]
