"""Documents out of files of text: .txt, .jsonl, .jsonl.zst and .parquet.

The one idea: a file is an iterator of documents, streamed wherever the format allows, so that a corpus never has to fit
in memory; every document has its place in the file, and every fault names file and place in one line.

Checked by: tests/corpus/test_corpora.py, tests/inference/test_documents.py.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.checks import explain_failure, one_line

_READ_BYTES = 1 << 20
_PARQUET_ROWS = 1024
_ZSTD_WINDOW_BYTES = 1 << 31
"""The largest window that zstd decodes (`--long=31`); memory is taken only as far as a frame fills its own."""


class TextFormat(NamedTuple):
    """How documents lie in files."""

    field: str
    """Field of each line of a .jsonl, column of a .parquet."""
    separator: str | None
    """What stands between the documents of a .txt; None: the file is one."""
    field_key: str
    """Where `field` is set, for errors."""


class PlacedText(NamedTuple):
    """A text and where in its file it stands."""

    place: str
    """`:LINE` or `:ROW`, `#PART` between separators, from 1; empty where the file is one document."""
    text: str


def texts_of_file(path: Path, form: TextFormat) -> Iterator[PlacedText]:
    """Yield the documents of a file, blank ones included; what ends like no other kind is read as a .txt.

    ValueError, one line, when it is damaged, not UTF-8, or a line or row has no text.
    """
    reader = next((reader for suffix, reader in _READERS.items() if path.name.lower().endswith(suffix)), _read_txt)
    try:
        yield from reader(path, form)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({explain_failure(error)}); name another file") from error


def split_text(name: str, content: bytes, separator: str | None) -> Iterator[PlacedText]:
    """Yield the parts of a UTF-8 text between separators, or the whole; ValueError naming it when it is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error
    if separator is None:
        yield PlacedText("", text)
        return
    for number, part in enumerate(text.split(separator), start=1):
        yield PlacedText(f"#{number}", part)


def _read_txt(path: Path, form: TextFormat) -> Iterator[PlacedText]:
    yield from split_text(str(path), path.read_bytes(), form.separator)


def _read_jsonl(path: Path, form: TextFormat) -> Iterator[PlacedText]:
    with open(path, "rb") as file:
        yield from _json_texts(path, file, form)


def _read_jsonl_zst(path: Path, form: TextFormat) -> Iterator[PlacedText]:
    """Yield the texts of a zstd-compressed .jsonl, decompressed as it is read."""
    yield from _json_texts(path, _split_lines(_zstd_blocks(path)), form)


def _read_parquet(path: Path, form: TextFormat) -> Iterator[PlacedText]:
    """Yield the texts of a column in batches of rows."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            _check_column(path, table.schema_arrow, form)
            first_row = 1
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[form.field]):
                # By name: columns such as `text.source` come along.
                yield from _column_texts(path, batch.column(form.field), form, first_row)
                first_row += len(batch)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({explain_failure(error)}); fetch it anew") from error


_READERS: dict[str, Callable[[Path, TextFormat], Iterator[PlacedText]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".jsonl.zst": _read_jsonl_zst,
    ".parquet": _read_parquet,
}
TEXT_SUFFIXES = tuple(_READERS)
"""How the names of files with text end."""


def _json_texts(path: Path, lines: Iterable[bytes], form: TextFormat) -> Iterator[PlacedText]:
    """Yield the field of each non-blank line; ValueError naming file and line otherwise."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield PlacedText(f":{number}", _json_text(f"{path}, line {number}", line, form))


def _json_text(where: str, line: bytes, form: TextFormat) -> str:
    """Return the text of a line; ValueError, which begins with `where`, when it has none."""
    remedy = "correct or remove the line"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError included
        raise ValueError(f"{where}: not JSON ({explain_failure(error)}); {remedy}") from error
    text = entry.get(form.field) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        missing = isinstance(entry, dict) and form.field not in entry
        advice = f" (fields: {_listed(entry, form)}); set {form.field_key}, or" if missing else ";"
        raise ValueError(f"{where}: no field {form.field!r} with a string{advice} {remedy}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {form.field!r} holds half a surrogate pair; {remedy}") from error
    return text


def _listed(names: Iterable[str], form: TextFormat) -> str:
    """Return the names that are there and the one nearest to the field that is not."""
    found = list(names)
    nearest = difflib.get_close_matches(form.field, found, n=1, cutoff=0.0)
    return f"{one_line(', '.join(found), 100)}; nearest: {one_line(nearest[0])}" if nearest else "none"


def _check_column(path: Path, schema: Any, form: TextFormat) -> None:
    """Raise ValueError unless a parquet file has the column of the texts once, and strings in it."""
    import pyarrow

    columns, name = schema.names, form.field
    if name not in columns:
        raise ValueError(f"{path}: no column {name!r} (columns: {_listed(columns, form)}); set {form.field_key}")
    if columns.count(name) > 1:
        raise ValueError(f"{path}: {columns.count(name)} columns are named {name!r}; rename all but one")
    kind = schema.field(name).type
    values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if values not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise ValueError(f"{path}: column {name!r} holds {kind}, expected strings; convert it")


def _column_texts(path: Path, column: Any, form: TextFormat, first_row: int) -> Iterator[PlacedText]:
    """Yield the texts of an arrow column, nulls left out; ValueError naming file and row (from 1) when not UTF-8."""
    # Arrow writes and reads strings without looking; the fault shows when one is decoded.
    for row, value in enumerate(column, start=first_row):
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            fault = f"{form.field!r} is not UTF-8 at byte {error.start}"
            raise ValueError(f"{path}, row {row}: {fault}; correct or remove the row") from error
        if text is not None:
            yield PlacedText(f":{row}", text)


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file of zstd frames; ValueError when it is damaged or ends within a frame."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = None
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
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
