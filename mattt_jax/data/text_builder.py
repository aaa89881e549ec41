"""Text documents as a tfds data set (imported late: tfds is slow to import)."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

Documents = Mapping[str, Sequence[tuple[str, Path]]]  # split -> [(name, path)]


class TextBuilder(
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]
):
  """Writes documents as array_record files."""

  name = "text"
  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, documents: Documents, data_dir: Path):
    self._documents = documents
    super().__init__(data_dir=data_dir, file_format="array_record")

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({"name": text(), "text": text()}),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    return {
      split: self._generate_examples(documents)
      for split, documents in self._documents.items()
    }

  def _generate_examples(self, documents) -> Iterator[tuple[str, dict]]:
    for name, path in documents:
      yield name, {"name": name, "text": path.read_bytes()}


def write(documents: Documents, data_dir: Path) -> None:
  """Writes documents below `data_dir`."""
  # Nothing is downloaded, whatever tfds prints.
  tfds.disable_progress_bar()
  offline = tfds.download.DownloadConfig(try_download_gcs=False)
  with contextlib.redirect_stdout(io.StringIO()):
    builder = TextBuilder(documents, data_dir)
    builder.download_and_prepare(download_config=offline)


def folder(data_dir: Path) -> Path:
  """The folder below `data_dir` with the files of the data set."""
  return data_dir / TextBuilder.name / str(TextBuilder.VERSION)


class Rows(Sequence[tuple[str, bytes]]):
  """(name, text) of each record of a prepared data set, read from disk at each
  access; without a feature `name_key` the name is the part and place in it."""

  def __init__(self, builder: Any, text_key: str, name_key: str = ""):
    self.folder = builder.data_path
    self.text_key, self._name_key = text_key, name_key
    infos = {k: v for k, v in builder.info.splits.items() if v.num_examples}
    self.files = [file for info in infos.values() for file in info.filepaths]
    self.parts: dict[str, range] = {}  # which records each split has
    end = 0
    for part, info in infos.items():
      self.parts[part] = range(end, end := end + info.num_examples)
    self._rows = builder.as_data_source(split="+".join(infos)) if infos else ()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    row = self._rows[index]
    text = _bytes(row[self.text_key])
    if self._name_key:
      return _bytes(row[self._name_key]).decode(), text
    (part,) = (part for part, has in self.parts.items() if index in has)
    return f"{part}/{index - self.parts[part].start:08d}", text


def prepared(folder: Path) -> Rows:
  """The rows that `write` wrote, by the `folder` of its data set."""
  return Rows(tfds.builder_from_directory(folder), "text", "name")


def read(rows: Rows) -> dict[str, list[tuple[str, bytes]]]:
  """Reads the names and texts of every split."""
  return {part: [rows[i] for i in has] for part, has in rows.parts.items()}


def published(name: str, text_key: str) -> Rows:
  """The texts of a prepared tfds data set.

  Raises:
    ValueError: unknown name, not prepared, or no such text feature.
  """
  field = f"task.source='tfds:{name}'"
  try:
    builder = tfds.builder(name, file_format="array_record")
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(f"{field} is no tfds data set: {error}") from None
  if not builder.is_prepared():
    raise ValueError(
      f"{field} is not prepared in {builder.data_dir}: get it with `pip "
      'install tensorflow && python -c "import tensorflow_datasets as tfds; '
      f"tfds.builder({name!r}, file_format='array_record')"
      '.download_and_prepare()"`'
    )
  features = builder.info.features
  known = sorted(
    key for key, f in features.items() if isinstance(f, tfds.features.Text)
  )
  if text_key not in known:
    raise ValueError(
      f"task.text_key={text_key!r} is no text feature of {field}: use one of "
      f"{', '.join(known) or '(there is none)'}"
    )
  return Rows(builder, text_key)


def _bytes(text: str | bytes) -> bytes:
  return text.encode() if isinstance(text, str) else bytes(text)
