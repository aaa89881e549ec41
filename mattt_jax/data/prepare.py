"""Real documents in a directory, whole and with their checksums.

    books     six novels of Jane Austen, and Moby-Dick
    bible     the King James Bible, a document for each of its books
    squad     SQuAD 2.0 (dev): paragraphs.jsonl, questions.jsonl (qa_sets.py)
    hotpotqa  HotpotQA (dev, distractor setting): the same
    texts     the text files below a directory of one's own, as UTF-8

`manifest.json`, written last, names the origin of the documents and the sha256
of each. The same call again goes on where it stopped: it does not fetch or
write again what is there, nor replace what was changed.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mattt_jax.config import require, require_choice
from mattt_jax.data import packages, sources

MANIFEST = "manifest.json"
NAMES = (*packages.DATA_SETS, "texts")


def prepare(
  name: str,
  directory: str | os.PathLike,
  *,
  texts: str | os.PathLike = "",
  encoding: str = "utf-8",
) -> dict[str, Any]:
  """Writes a data set into `directory`, or what is missing of it.

  Args:
    name: as in the head of this file.
    directory: a new one, or that of the same data set.
    texts: for "texts", the directory to take them from.
    encoding: for "texts", that of the files; they are written as UTF-8.

  Returns:
    The manifest: `data_set`, `packages`, and `files`, {name: {sha256, bytes}}.

  Raises:
    ValueError: an unknown name, a command that is missing or fails, a package
      or a document that is not what it should be; the message has the fix.
  """
  require_choice("data set", name, NAMES)
  directory = Path(directory).expanduser().absolute()
  require(
    not directory.exists() or directory.is_dir(),
    f"{directory} is a file: name a directory",
  )
  manifest = _read_manifest(directory, name)
  if name == "texts":
    documents = _own_texts(os.fspath(texts), encoding, directory)
    origins = [{"name": str(Path(texts).expanduser().absolute())}]
  else:
    require(not texts, f"--from={texts} is for texts, not for {name}")
    if manifest and _whole(directory, manifest["files"]):
      return manifest
    pairs = [(p, packages.download(p)) for p in packages.DATA_SETS[name]]
    documents = (d for p, path in pairs for d in packages.documents(p, path))
    origins = [packages.origin(*pair) for pair in pairs]
  files = {file: _write(directory / file, text) for file, text in documents}
  for file in manifest.get("files", {}):
    require(
      file in files,
      f"{directory / file} was prepared before, but is no longer in "
      f"{origins[0]['name']}: use another directory, or remove this one",
    )
  manifest = {"data_set": name, "packages": origins, "files": files}
  content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
  _replace(directory / MANIFEST, content.encode())
  return manifest


def _read_manifest(directory: Path, name: str) -> dict[str, Any]:
  """The manifest that is there, or {}."""
  path = directory / MANIFEST
  if not path.exists():
    return {}
  try:
    manifest = json.loads(path.read_bytes())
    data_set, files = manifest["data_set"], manifest["files"]
    [entry["sha256"] for entry in files.values()]  # is every one there?
  except Exception as error:  # damage surfaces as almost any type
    raise ValueError(
      f"{path} is damaged ({type(error).__name__}: {error}): remove it and run "
      "the same command again"
    ) from error
  require(
    data_set == name,
    f"{directory} holds the data set {data_set!r}, not {name!r}: use another "
    "directory",
  )
  return manifest


def _whole(directory: Path, files: dict[str, Any]) -> bool:
  """Whether all files are there; raises if one is not what it was."""
  for name, entry in files.items():
    if not (directory / name).exists():
      return False
    _require_same(directory / name, entry["sha256"])
  return True


def _require_same(path: Path, digest: str) -> None:
  actual = packages.sha256(path)
  require(
    actual == digest,
    f"{path} has sha256 {actual}, but should have {digest}: it was changed, or "
    "what it is made from; remove it and run the same command again, or use "
    "another directory",
  )


def _write(path: Path, content: bytes) -> dict[str, Any]:
  """Writes a document unless it is there; returns its entry of the manifest."""
  digest = hashlib.sha256(content).hexdigest()
  if path.exists():
    _require_same(path, digest)
  else:
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
  return {"sha256": digest, "bytes": len(content)}


def _replace(path: Path, content: bytes) -> None:
  """Writes so that a reader finds the old file or the new one whole."""
  partial = path.with_name(f".{path.name}.partial")
  partial.write_bytes(content)
  os.replace(partial, path)


def _own_texts(
  root: str, encoding: str, directory: Path
) -> Iterator[tuple[str, bytes]]:
  """The files that the source "directory:`root`" reads, as UTF-8."""
  require(bool(root), "texts need --from=PATH, the directory to take them from")
  try:
    codecs.lookup(encoding)
  except LookupError:
    raise ValueError(
      f"--encoding={encoding!r} is not known: use utf-8, latin-1, cp1252, ..."
    ) from None
  folder = Path(root).expanduser().absolute()
  require(
    not directory.is_relative_to(folder),
    f"{directory} lies in --from={root}: name a directory outside of it",
  )
  for file in sources.text_files(root):
    try:
      text = file.path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{file.path} is not {encoding} text (byte {error.start}: "
        f"{error.reason}): name its encoding, --encoding=latin-1 (which reads "
        "any byte), or remove it"
      ) from None
    yield file.name, text.encode()
