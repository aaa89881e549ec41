"""Fetches real texts into a directory."""

from absl import flags

from mattt_jax.commands import launch
from mattt_jax.data import prepare, sources


def _define(values: flags.FlagValues) -> None:
  source = {"from": "for texts: the directory to take them from"}
  launch.strings(values, "", **source)
  encoding = "for texts: that of the files"
  launch.strings(values, "utf-8", encoding=encoding)


def _run(values: flags.FlagValues, name: str, directory: str) -> None:
  manifest = prepare.prepare(
    name, directory, texts=values["from"].value or "", encoding=values.encoding
  )
  size = sum(file["bytes"] for file in manifest["files"].values())
  print(f"{len(manifest['files'])} files, {size:,} bytes, in {directory}/")
  if all(file.endswith(sources.SUFFIXES) for file in manifest["files"]):
    records = sources.array_records(f"directory:{directory}")
    print(f"As a tfds data set (array_record) in {records}/")
    print(f"Use them with --config.task.source=directory:{directory}")


COMMAND = launch.Command(
  example="books data/books", run=_run, define=_define, words=("NAME", "DIR")
)
