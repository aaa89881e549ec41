"""Published sets of questions about long texts, from files on local disk.

    narrativeqa:PATH  NarrativeQA (arXiv 1712.07040), Hugging Face's parquet
    quality:PATH      QuALITY (2112.08608), the htmlstripped train and dev files
    longbench:PATH    LongBench (2308.14508), the jsonl files of its data.zip
    babilong:PATH     BABILong (2406.10149), Hugging Face's json or parquet
    ruler_jsonl:PATH  RULER (2404.06654), as its code, or nvidia-long-context-
                      eval, writes it (without --remove_newline_tab)
    stories           six tales of our own, a few lines long: nothing to fetch

PATH is a file or a directory to search. Nothing is ever downloaded; an error
about missing files names the command that gets them.

PG-19 (1911.05507) is text without questions, a source of language_modeling:
source="tfds:pg19", text_key="book_text" (which needs tensorflow to prepare), or
"directory:PATH" after `gcloud storage cp -r 'gs://deepmind-gutenberg/*' PATH`.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mattt_jax.config import require
from mattt_jax.data import ruler_text, sources
from mattt_jax.data.splits import SPLITS

Row = dict[str, Any]
STORIES = "stories"
_OWN_SPLITS = {"train": "train", "validation": "tune", "dev": "tune",
               "test": "test"}  # fmt: skip
_PARQUET_ROWS = 64  # read at a time: one holds a whole book
# Sets whose context is solved examples: what stands between them, and before
# the question.
_FEW_SHOT = {"trec": "\n", "lsht": "\n", "triviaqa": "\n\n", "samsum": "\n\n"}


@dataclasses.dataclass(frozen=True)
class Record:
  """A question about a text.

  The prompt is `context + ask`. Answer i follows after `leads[i]`; answers
  without a lead are other ways to say the same.
  """

  id: str
  context: str
  question: str
  answers: tuple[str, ...]
  metric: str  # the set's own, by name
  document: str = ""  # the text that questions share; "": the record's id
  split: str = ""  # its own: "train", "validation", "dev", "test", or none
  choices: tuple[str, ...] = ()  # one of them is answers[0]; (): none
  # Every answer of the task, for "babilong" and LongBench's classifications.
  labels: tuple[str, ...] = ()
  ask: str = ""  # "": the question, in a plain form
  leads: tuple[str, ...] = (" ",)
  # [first, after the last) character of the context: what decides the answer;
  # (): not known.
  evidence: tuple[tuple[int, int], ...] = ()

  def __post_init__(self):
    require(
      all(isinstance(x, str) for x in (self.context, *self.answers))
      and bool(self.answers) and all(self.answers),
      f"record {self.id!r} needs texts: a context, and answers",
    )  # fmt: skip
    require(
      not self.choices or self.answers[0] in self.choices,
      f"record {self.id!r}: its answer {self.answers[0]!r} is no choice",
    )
    if not self.document:
      object.__setattr__(self, "document", self.id)
    if not self.ask:
      question = f"Question: {self.question}\n" if self.question else ""
      object.__setattr__(self, "ask", f"\n\n{question}Answer:")


@dataclasses.dataclass(frozen=True)
class Set:
  """A set's files, how to read them, and the command that gets them."""

  files: tuple[str, ...]  # patterns of their names
  read: Callable[[str, Row], Iterable[Record]]  # of a row: its place, and it
  get: str  # a command


def check(source: str) -> None:
  """Raises the `ValueError` of `load` for an unknown set or missing files."""
  if source != STORIES:
    _files(source)


def load(source: str) -> dict[str, tuple[Record, ...]]:
  """The records of each split, in the order of the files.

  A set with a train and a held-out part keeps them (a single held-out part
  gives half of its documents to tune, half to test). Otherwise documents are
  dealt by a hash of their names, as in data/sources.py.

  Raises:
    ValueError: an unknown set, no files, a row that is not of the set's schema,
      fewer than three documents, pyarrow is missing.
  """
  records = list(_stories() if source == STORIES else _published(source))
  records = _with_labels(records)
  documents = {r.document: _OWN_SPLITS.get(r.split, "") for r in records}
  parts = set(documents.values())
  if "train" in parts and parts - {"train"}:
    if not {"tune", "test"} <= parts:
      held_out = [d for d in documents if documents[d] != "train"]
      held_out.sort(key=lambda d: hashlib.sha256(d.encode()).digest())
      require(
        len(held_out) > 1,
        f"task.source={source!r} holds one held-out document: tune and test "
        "need one each, add more",
      )
      for i, document in enumerate(held_out):
        documents[document] = ("tune", "test")[i % 2]
  else:
    dealt = sources.split_by_name(list(documents), source)
    documents = {d: split for split, names in dealt.items() for d in names}
  return {
    split: tuple(r for r in records if documents[r.document] == split)
    for split in SPLITS
  }


def ruler_record(name: str, prompt: str, answers: Iterable[str]) -> Record:
  """A sample of RULER; its last line is the question."""
  answers = tuple(answers)
  context, newline, question = prompt.rpartition("\n")
  leads = ruler_text.leads(prompt, len(answers))
  return Record(
    name, context, question, answers,
    "string_match_all" if leads else "string_match_part",
    ask=newline + question, leads=leads or (" ",),
  )  # fmt: skip


def _narrativeqa(place: str, row: Row) -> Iterator[Record]:
  document = row["document"]
  yield Record(
    place, document["text"], row["question"]["text"],
    tuple(answer["text"] for answer in row["answers"]), "rouge_l",
    document["id"], Path(place).name.partition("-")[0],
  )  # fmt: skip


def _quality(place: str, row: Row) -> Iterator[Record]:
  for question in row["questions"]:
    choices = tuple(question["options"])
    gold = question["gold_label"]  # counted from 1; the test file has none
    require(1 <= gold <= len(choices), f"gold_label={gold} is no option")
    yield Record(
      question["question_unique_id"], row["article"], question["question"],
      (choices[gold - 1],), "accuracy", row["article_id"],
      place.partition(".htmlstripped.")[2].partition(":")[0], choices,
    )  # fmt: skip


def _longbench(place: str, row: Row) -> Iterator[Record]:
  name, question = row["dataset"].removesuffix("_e"), row["input"]
  answers, classes = tuple(row["answers"]), tuple(row["all_classes"] or ())
  code = name in ("lcc", "repobench-p")  # goes on where the context ends
  ask = (question or "\n") if code else ""
  if name in _FEW_SHOT:  # the question is in the form of the examples
    ask = _FEW_SHOT[name] + question
  yield Record(
    # The file too: LongBench-E is drawn from the same rows.
    f"{place.partition(':')[0]}:{row['_id']}", row["context"], question,
    answers, f"longbench:{name}", row["_id"],
    choices=classes if answers[:1] and answers[0] in classes else (),
    labels=classes, ask=ask, leads=("",) if code else (" ",),
  )  # fmt: skip


def _babilong(place: str, row: Row) -> Iterator[Record]:
  target = (row["target"],)
  yield Record(place, row["input"], row["question"], target, "babilong")


def _ruler(place: str, row: Row) -> Iterator[Record]:
  yield ruler_record(place, row["input"], row["outputs"])


def _hugging_face(name: str) -> str:
  return f"hf download {name} --repo-type dataset --local-dir {{path}}"


SETS = {
  "narrativeqa": Set(
    ("*.parquet",), _narrativeqa, _hugging_face("deepmind/narrativeqa")
  ),
  "quality": Set(
    ("*.htmlstripped.train", "*.htmlstripped.dev"), _quality,
    "curl -L --create-dirs -o {path}/quality.zip https://github.com/nyu-mll/"
    "quality/raw/main/data/v1.0.1/QuALITY.v1.0.1.zip && unzip {path}/"
    "quality.zip -d {path}",
  ),
  "longbench": Set(
    ("*.jsonl",), _longbench,
    _hugging_face("zai-org/LongBench data.zip")
    + " && unzip {path}/data.zip -d {path}",
  ),
  "babilong": Set(
    ("[0-9]*[kM].json", "qa*.parquet"), _babilong,
    _hugging_face("RMT-team/babilong"),
  ),
  "ruler_jsonl": Set(
    ("*.jsonl",), _ruler,
    "pip install nvidia-long-context-eval, then its data/prepare.py --save_dir "
    "{path} --task niah_single_1 --model_template_type base ...",
  ),
}  # fmt: skip


def _files(source: str) -> tuple[Set, list[tuple[str, Path]]]:
  """The set, and its files with their names below PATH, sorted."""
  kind, _, name = source.partition(":")
  require(
    kind in SETS and bool(name),
    f"task.source={source!r} is not known: use {STORIES!r}, "
    f"{', '.join(f'{k}:PATH' for k in SETS)}, ruler:KIND or babi:KIND",
  )
  chosen, root = SETS[kind], Path(name).expanduser()
  fix = f"get them with `{chosen.get.format(path=name)}`"
  require(root.exists(), f"task.source={source!r}: no {root}: {fix}")
  if root.is_file():
    return chosen, [(root.name, root)]
  paths = {p for files in chosen.files for p in root.rglob(files)}
  listed = sorted((p.relative_to(root).as_posix(), p) for p in paths)
  # A download keeps its own files in a hidden folder, .cache.
  listed = [x for x in listed if not x[0].startswith(".") and x[1].is_file()]
  require(
    bool(listed),
    f"task.source={source!r}: {root} has no files {', '.join(chosen.files)}: "
    f"{fix}",
  )
  return chosen, listed


def _published(source: str) -> Iterator[Record]:
  chosen, files = _files(source)
  contexts: dict[str, str] = {}  # each once: rows repeat whole books
  for name, path in files:
    place = name
    try:
      for number, row in enumerate(_rows(path)):
        place = f"{name}:{number}"
        for record in chosen.read(place, row):
          context = contexts.setdefault(record.document, record.context)
          if context is not record.context and context == record.context:
            record = dataclasses.replace(record, context=context)
          yield record
    except ImportError as error:
      raise ValueError(
        f"task.source={source!r}: {path} needs the package pyarrow: "
        "pip install 'mattt-jax[parquet]'"
      ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      raise ValueError(
        f"task.source={source!r}: {place} is not of the schema of "
        f"{source.partition(':')[0]} ({type(error).__name__}: {error}): fix or "
        f"remove it; `{chosen.get.format(path='PATH')}` gets the files that are"
      ) from error


def _with_labels(records: list[Record]) -> list[Record]:
  """Makes every answer in a file of BABILong a label of that file's task."""
  labels: dict[str, dict[str, None]] = {}
  for r in records:
    if r.metric == "babilong":
      named = dict.fromkeys(x.strip() for x in r.answers[0].split(","))
      labels.setdefault(r.id.rpartition(":")[0], {}).update(named)
  return [
    dataclasses.replace(r, labels=tuple(labels[r.id.rpartition(":")[0]]))
    if r.metric == "babilong"
    else r
    for r in records
  ]


def _rows(path: Path) -> Iterator[Row]:
  """The rows of a parquet file, of a JSON list, or of lines of JSON."""
  if path.suffix == ".parquet":
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(_PARQUET_ROWS):
      yield from batch.to_pylist()
    return
  with path.open(encoding="utf-8-sig") as lines:
    is_list = path.suffix == ".json" and lines.read(64).lstrip()[:1] == "["
    lines.seek(0)
    if is_list:
      yield from json.load(lines)
    else:
      yield from (json.loads(line) for line in lines if line.strip())


@functools.cache
def _stories() -> tuple[Record, ...]:
  lines = Path(__file__).with_name("stories.jsonl").read_text(encoding="utf-8")
  return tuple(
    Record(
      f"{story['title']}:{number}", story["text"], question["question"],
      (question["choices"][0],), "f1", story["title"],
      # In another order, or the first would always be right.
      choices=tuple(sorted(question["choices"])),
    )
    for story in map(json.loads, lines.splitlines())
    for number, question in enumerate(story["questions"])
  )  # fmt: skip
