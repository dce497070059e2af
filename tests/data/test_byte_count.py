"""Bytes per token against a slow oracle, per-document identity on real text, and the table's file."""

import itertools
import json
import math
import zipfile

import numpy as np
import pytest

from pipeline.data.byte_count import bits_per_byte, byte_table, count_bytes, load_byte_table, save_byte_table
from pipeline.data.tokenizer import load_tokenizer


def slow_bytes(processor, tokens):
    """Spell the rules out, one target at a time."""
    counts = []
    for previous, token in itertools.pairwise(tokens):
        piece = processor.id_to_piece(token)
        if token in (0, 1, 2, 3):
            counts.append(0)
        elif len(piece) == 6 and piece.startswith("<0x"):
            counts.append(1)
        elif piece[0] == "\u2581":
            counts.append(len(piece[1:].encode("utf-8")) + (0 if previous in (0, 1, 2, 3) else 1))
        else:
            counts.append(len(piece.encode("utf-8")))
    return counts


@pytest.mark.parametrize("pieces", [1024, 4096, 8192])
def test_every_pair_rule_against_the_oracle(shared, pieces):
    processor = load_tokenizer(shared / "data" / f"fineweb_{pieces}_bpe.model")
    table = byte_table(processor)
    tokens = np.random.default_rng(pieces).integers(0, pieces, 20000)
    tokens[::7] = np.random.default_rng(1).integers(0, 4, len(tokens[::7]))  # plenty of boundaries
    assert count_bytes(tokens, table).tolist() == slow_bytes(processor, tokens.tolist())


@pytest.mark.parametrize("pieces", [1024, 8192])
def test_document_bytes_equal_the_normalised_text(shared, pieces):
    """Documents with BOS between them: counts add up per document although no document is counted alone."""
    processor = load_tokenizer(shared / "data" / f"fineweb_{pieces}_bpe.model")
    table = byte_table(processor)
    lines = (shared / "data" / "fineweb_docs.jsonl").read_text(encoding="utf-8").split("\n")
    texts = [json.loads(line)["text"] for line in lines if line]
    token_lists = processor.encode(texts, add_bos=True)
    counted = count_bytes(np.concatenate([np.array(tokens) for tokens in token_lists]), table)
    position = -1
    for text, tokens in zip(texts, token_lists, strict=True):
        total = int(counted[max(position, 0) : position + len(tokens)].sum())
        position += len(tokens)
        assert total == len(processor.normalize(text).replace("\u2581", " ").encode())
    assert position == len(counted)


def test_rules_by_hand(toy_processor):
    table = byte_table(toy_processor)
    space = toy_processor.piece_to_id("\u2581")
    accent = [toy_processor.piece_to_id(f"<0x{byte:02X}>") for byte in "\u00fc".encode()]
    # BOS, space after a boundary, space after a space, two byte pieces, space after a byte piece, unknown, pad
    assert count_bytes(np.array([1, space, space, *accent, space, 3, 0]), table).tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert table.base_V.dtype == np.int16
    assert table.boundary_V.nonzero()[0].tolist() == [0, 1, 2, 3]


def test_short_streams_and_bad_ids(toy_processor):
    table = byte_table(toy_processor)
    assert count_bytes(np.array([], np.uint16), table).shape == (0,)
    assert count_bytes(np.array([1], np.uint16), table).shape == (0,)
    with pytest.raises(ValueError, match="do not fit a byte table of 512 pieces"):
        count_bytes(np.array([1, 512]), table)


def test_bits_per_byte():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0, rel=1e-15)
    with pytest.raises(ValueError, match="total_bytes"):
        bits_per_byte(1.0, 0)


def test_table_file_round_trip_and_damage(tmp_path, toy_processor):
    path = tmp_path / "byte_table.npz"
    table = byte_table(toy_processor)
    save_byte_table(path, table)
    assert all(np.array_equal(read, kept) for read, kept in zip(load_byte_table(path), table, strict=True))
    with zipfile.ZipFile(path) as archive:  # no clock inside: the file is a function of the table
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable byte table"):
        load_byte_table(path)
    save_byte_table(path, table._replace(base_V=table.base_V[1:]))
    with pytest.raises(ValueError, match="do not fit together"):
        load_byte_table(path)
    with pytest.raises(ValueError, match="run `dvc repro -f prepare`"):
        load_byte_table(tmp_path / "absent.npz")


def _without_suffixes(path, columns):
    with zipfile.ZipFile(path, "w") as archive:
        for name in columns:
            archive.writestr(name, b"text")


def _plain_array(path, columns):
    with open(path, "wb") as file:
        np.save(file, columns["base_V"])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_any_damaged_byte_of_a_table_is_one_line(tmp_path, toy_processor, method):
    path, table = tmp_path / "byte_table.npz", byte_table(toy_processor)
    save_byte_table(path, table)
    with zipfile.ZipFile(path) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    sound = path.read_bytes()
    for position in range(0, len(sound), 3):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 0xFF]) + sound[position + 1 :])
        try:
            load_byte_table(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017


@pytest.mark.parametrize("write", [_without_suffixes, _plain_array])
def test_other_files_than_a_table_are_one_line(tmp_path, toy_processor, write):
    path = tmp_path / "byte_table.npz"
    write(path, byte_table(toy_processor)._asdict())
    with pytest.raises(ValueError, match=r"byte_table\.npz: .*; run `dvc repro -f prepare`"):
        load_byte_table(path)


def test_a_table_that_would_fill_the_memory_is_not_unpacked(tmp_path, toy_processor):
    path = tmp_path / "byte_table.npz"
    np.savez_compressed(path, **byte_table(toy_processor)._asdict(), more=np.zeros(1 << 24, np.uint8))
    with pytest.raises(ValueError, match="not a readable byte table"):
        load_byte_table(path)


def test_the_shared_tables_are_refused(shared):
    for path in sorted((shared / "hostile" / "parsers").glob("byte_table*")):
        with pytest.raises(ValueError, match="; run `dvc repro -f prepare`"):
            load_byte_table(path)
