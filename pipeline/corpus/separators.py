"""A separator of documents that no text file holds: most often one that was written otherwise than it was meant.

YAML keeps `\\n` as two characters in single quotes and makes a line break of it in double quotes. Files with Windows
line ends hold no two line feeds in a row. Neither is mended here: what is scored are the bytes of the files.

Checked by: tests/corpus/test_separators.py.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.corpus.config import DataConfig
from pipeline.corpus.source_files import find_source_files
from pipeline.corpus.text_files import TEXT_SUFFIXES, TextFormat, texts_of_file

_ESCAPES = {r"\r": "\r", r"\n": "\n", r"\t": "\t"}


def separator_note(config: DataConfig) -> str | None:
    """Return, one line, that no .txt of `files` holds `document_separator`, and the remedy; None where one does.

    ValueError when a file is absent or no text.
    """
    separator = config.document_separator
    if config.source != "text" or separator is None:
        return None
    files = find_source_files(config.files, TEXT_SUFFIXES, "data.files")
    texts = [path for path in files if path.name.lower().endswith(".txt")]
    if not texts or _is_held(separator, texts):
        return None
    meant = next((other for other in _other_spellings(separator) if _is_held(other, texts)), None)
    remedy = "null says the same" if meant is None else f"{json.dumps(meant)} does, in double quotes"
    return (
        f"data.document_separator: {json.dumps(separator)} stands in none of {len(texts):,} .txt files, each of which "
        f"is one document; {remedy}"
    )


def _is_held(separator: str, files: Iterable[Path]) -> bool:
    whole = TextFormat("text", None, "data.text_field")
    return any(separator in placed.text for path in files for placed in texts_of_file(path, whole))


def _other_spellings(separator: str) -> list[str]:
    """Return what a separator may have been meant as: its escapes as characters, line ends of either system."""
    for escape, character in _ESCAPES.items():
        separator = separator.replace(escape, character)
    unix = separator.replace("\r\n", "\n")
    return [separator, unix, unix.replace("\n", "\r\n")]
