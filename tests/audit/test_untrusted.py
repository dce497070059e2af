"""What comes from outside: measured before it is read, and every fault one line."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit import untrusted
from pipeline.audit.evaluator import judged, passed
from pipeline.audit.untrusted import (
    field,
    one_line,
    read_foreign_arrays,
    read_foreign_object,
    read_foreign_text,
    read_ledger,
    stated_number,
)


def test_a_line_stays_a_line_in_a_table() -> None:
    assert one_line("a | b\n\tc \x1b[31m\u00e9") == r"a / b c \x1b[31m\xe9"
    assert len(one_line("x" * 10**6)) < 300


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 10**5, '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}'])
def test_an_object_is_an_object_of_finite_numbers(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_foreign_object(tmp_path / "x.json")


def test_texts_are_bounded_and_decoded(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    for path in (tmp_path / "x", tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            read_foreign_text(path)
    monkeypatch.setattr(untrusted, "LARGEST_TEXT_BYTES", 10)
    (tmp_path / "x").write_bytes(b"a" * 11)
    with pytest.raises(ValueError, match=r"got .11 bytes., expected at most 10"):
        read_foreign_text(tmp_path / "x")


def test_fields_and_numbers_name_the_chain_that_breaks() -> None:
    content = json.loads('{"a": {"b": [1, true, "x", null]}}')
    assert stated_number(content, "file", "a", "b", 0) == 1
    for index in (1, 2, 3):
        with pytest.raises(ValueError, match=rf"file: a\.b\.{index}"):
            stated_number(content, "file", "a", "b", index)
    for keys in (("a", "c"), ("a", "b", 9), ("a", "b", 0, "d"), ("x",)):
        with pytest.raises(ValueError, match="nothing"):
            field(content, "file", *keys)


def test_arrays_are_bounded_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    columns = {name: np.zeros(1000, int) for name in ("target", "bytes", "group")} | {"nats": np.zeros(1000)}
    np.savez_compressed(path, **columns)
    assert path.stat().st_size < 10**4
    with pytest.raises(ValueError, match="unpacked size"):
        read_foreign_arrays(path, ["target"], 10**4)
    assert sorted(read_ledger(path, [], 10**6)) == sorted(columns)
    for name, wrong in (("nats", np.zeros(1000, int)), ("target", np.zeros(1000)), ("bytes", np.zeros(9, int))):
        np.savez(path, **{**columns, name: wrong})
        with pytest.raises(ValueError, match=f"x.npz: {name}"):
            read_ledger(path, [], 10**6)


def test_a_member_that_is_no_array_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("nats.npy", b"nothing")
    with pytest.raises(ValueError, match="nats: got 'bytes'"):
        read_foreign_arrays(tmp_path / "x.npz", ["nats"], 10**6)


def test_what_cannot_be_judged_fails() -> None:
    assert judged(lambda: passed("fine")).verdict == "pass"
    finding = judged(lambda: passed(str(1 // 0)))
    assert finding == ("fail", "cannot be judged: ZeroDivisionError: integer division or modulo by zero")
