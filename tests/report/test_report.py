"""What is reported stands in the files that it links to."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
REPORT, README = ROOT / "docs" / "report.md", ROOT / "README.md"
COORDINATION = ROOT / "docs" / "coordination.md"
NUMBER = r"-?\b\d[\d,]*\.\d{2,4}\b"
INTERVAL = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"
SECTIONS = [
  *(
    (REPORT, part) for part in re.split("^##+ ", REPORT.read_text(), flags=re.M)
  ),
  *(
    (README, part)
    for part in re.split("^## ", README.read_text(), flags=re.M)
    if part.startswith("What the evidence says")
  ),
  (COORDINATION, COORDINATION.read_text()),
]


def linked(path, text):
  """The files of this repository that a section links to."""
  targets = re.findall(r"\]\(\s*([^)#\s]+)[^)]*\)", text)
  return [path.parent / x for x in targets if "://" not in x]


def name(section):
  path, text = section
  return f"{path.stem}: {text.splitlines()[0]}"


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_numbers_and_tables_are_those_of_the_linked_files(section):
  path, text = section
  files = linked(path, text)
  missing = [str(x) for x in files if not x.exists()]
  assert not missing
  source = "\n".join(x.read_text() for x in files if x.suffix == ".md")
  numbers = re.findall(NUMBER, text)
  if path == COORDINATION:  # its tables are made of several, some are rounded
    numbers = [x for x in numbers if re.search(r"\.\d{3}$", x)]
  if path == REPORT:
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert [x for x in lines if x not in source.splitlines()] == []
    numbers += re.findall(INTERVAL, " ".join(text.split()))
  known = {*re.findall(NUMBER, source), *re.findall(INTERVAL, source)}
  assert [x for x in numbers if x not in known] == []


def test_who_has_not_learned_a_task_has_no_number_in_the_readme():
  (evidence,) = [x for path, x in SECTIONS if path == README]
  table = (ROOT / "results" / "retention.md").read_text()
  (rivals,) = [x for x in evidence.splitlines() if "rivals" in x]
  assert not re.search(r"\d\.\d", rivals)
  for system in ("full attention", "gated delta net", "titans", "rag",
                 "infini attention", "memorizing transformer"):  # fmt: skip
    assert f"| {system} | not learned in 240 steps |" in table
    assert system in rivals.lower().replace("-", " ")


def test_there_are_numbers_to_check():
  text = REPORT.read_text()
  assert len(re.findall(r"\d\.\d{3}", text)) > 50
  assert len([x for x in text.splitlines() if x.startswith("| ")]) > 10
