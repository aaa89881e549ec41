"""Text documents as a tfds data set (imported late: tfds is slow to import)."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds


class TextBuilder(
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]
):
  """Writes documents, `{split: [(name, path)]}`, as array_record files."""

  name = "text"
  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    documents: Mapping[str, Sequence[tuple[str, Path]]],
    *,
    data_dir: Path,
  ):
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


def write(
  documents: Mapping[str, Sequence[tuple[str, Path]]], data_dir: Path
) -> None:
  """Writes documents, `{split: [(name, path)]}`, below `data_dir`."""
  # Nothing is downloaded, whatever tfds prints.
  tfds.disable_progress_bar()
  offline = tfds.download.DownloadConfig(try_download_gcs=False)
  with contextlib.redirect_stdout(io.StringIO()):
    builder = TextBuilder(documents, data_dir=data_dir)
    builder.download_and_prepare(download_config=offline)


def folder(data_dir: Path) -> Path:
  """Where below `data_dir` the files of the data set are."""
  return data_dir / TextBuilder.name / str(TextBuilder.VERSION)


def read(data_dir: Path) -> dict[str, list[tuple[str, bytes]]]:
  """Reads what `write` wrote below `data_dir`."""
  builder = tfds.builder_from_directory(folder(data_dir))
  return {
    split: [(_bytes(x["name"]).decode(), _bytes(x["text"])) for x in rows]
    for split, rows in builder.as_data_source().items()
  }


def read_published(name: str, text_key: str) -> dict[str, list[bytes]]:
  """Reads the texts of every split of a prepared tfds data set.

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
  return {
    split: [_bytes(x[text_key]) for x in rows]
    for split, rows in builder.as_data_source().items()
  }


def _bytes(text: str | bytes) -> bytes:
  return text.encode() if isinstance(text, str) else bytes(text)
