"""A separator that no text file holds is said, and what the line advises divides the files."""

import re

import pytest
from ruamel.yaml import YAML

from pipeline.corpus.corpora import read_documents
from pipeline.corpus.separators import separator_note
from tests.corpus.configs import data_config


@pytest.mark.parametrize(
    ("written", "content", "advised"),
    [
        (r"'\n\n'", b"one\n\ntwo", r'"\n\n"'),
        (r"'\n\n'", b"one\r\n\r\ntwo", r'"\r\n\r\n"'),
        (r'"\n\n"', b"one\r\n\r\ntwo", r'"\r\n\r\n"'),
        (r'"\r\n\r\n"', b"one\n\ntwo", r'"\n\n"'),
        (r"'\t'", b"one\ttwo", r'"\t"'),
    ],
)
def test_what_is_advised_divides_the_files(tmp_path, written: str, content: bytes, advised: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("alone")
    separator = YAML(typ="safe").load(written)
    note = separator_note(data_config(files=(str(tmp_path),), document_separator=separator))
    assert note is not None
    assert note.endswith(
        f"stands in none of 2 .txt files, each of which is one document; {advised} does, in double quotes"
    )
    config = data_config(files=(str(tmp_path),), document_separator=YAML(typ="safe").load(advised))
    assert separator_note(config) is None
    assert list(read_documents(config, tmp_path)) == ["one", "two", "alone"]


def test_one_file_that_holds_it_is_enough_and_only_text_files_count(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    assert separator_note(data_config(files=(str(tmp_path),), document_separator="<end>")) is None
    (tmp_path / "b.txt").write_text("two three")
    note = separator_note(data_config(files=(str(tmp_path),), document_separator="<end>"))
    assert re.search(r'"<end>" stands in none of 1 \.txt files, .*; null says the same$', note or "")
    (tmp_path / "c.txt").write_text("four<end>five")
    assert separator_note(data_config(files=(str(tmp_path),), document_separator="<end>")) is None
    assert separator_note(data_config(files=(str(tmp_path),), document_separator=None)) is None
