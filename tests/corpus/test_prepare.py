"""The whole stage on a small corpus: totals, determinism, failure without traces."""

import dataclasses
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest

from pipeline.base.progress import silent
from pipeline.corpus.corpora import text_digest
from pipeline.corpus.encoding import encode_documents
from pipeline.corpus.prepare import SplitWriter, prepare, split_of
from pipeline.data.byte_count import byte_table, count_bytes, load_byte_table
from pipeline.data.shards import open_shards, shard_paths
from pipeline.data.text import normalised_text
from pipeline.data.tokenizer import load_tokenizer
from tests.corpus.configs import data_config
from tests.corpus.test_encoding import published_model


@pytest.fixture
def corpus(tmp_path, toy_documents):
    """Return a configuration whose corpus holds the toy documents, one of them twice."""
    path = tmp_path / "corpus.jsonl"
    texts = [*toy_documents, toy_documents[0], " \u200b "]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return data_config(files=(str(path),), val_frac=0.2)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_outputs_hold_the_documents(tmp_path, corpus, toy_documents):
    out = tmp_path / "data"
    manifest = prepare(corpus, out, tmp_path / "cache", silent)
    assert manifest == json.loads((out / "manifest.json").read_text())
    processor = load_tokenizer(out / "tokenizer.model")
    table = load_byte_table(out / "byte_table.npz")
    assert all(np.array_equal(read, made) for read, made in zip(table, byte_table(processor), strict=True))
    assert manifest["tokenizer_sha256"] == hashlib.sha256((out / "tokenizer.model").read_bytes()).hexdigest()
    decoded = {}
    for split in ("train", "val"):
        entry = manifest["splits"][split]
        paths = shard_paths(out, split)
        assert [str(path.relative_to(out)) for path in paths] == [shard["file"] for shard in entry["shards"]]
        shards = open_shards(paths, 512)
        assert all(len(shard) == 4096 for shard in shards[:-1])
        assert [len(shard) for shard in shards] == [shard["tokens"] for shard in entry["shards"]]
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == [
            shard["sha256"] for shard in entry["shards"]
        ]
        stream = np.concatenate(shards)
        assert stream[0] == processor.bos_id()
        assert (len(stream), len(stream) - 1) == (entry["tokens"], entry["targets"])
        assert int(count_bytes(stream, table).sum()) == entry["bytes"]
        pieces = np.split(stream, np.flatnonzero(stream == processor.bos_id()))[1:]
        assert len(pieces) == entry["documents"]
        decoded[split] = [processor.decode(piece.tolist()) for piece in pieces]
    assert len(manifest["splits"]["train"]["shards"]) > 1
    expected = [normalised_text(processor, text) for text in [*toy_documents, toy_documents[0]]]
    assert sorted(decoded["train"] + decoded["val"]) == sorted(expected)
    assert not set(decoded["train"]) & set(decoded["val"])
    assert 0.1 < len(decoded["val"]) / len(expected) < 0.3


def test_near_duplicates_never_straddle_the_splits(tmp_path, corpus, toy_documents):
    path = tmp_path / "near.jsonl"
    spaced = [text.replace(" ", "\n \u00a0") + " " for text in toy_documents]
    decomposed = [unicodedata.normalize("NFD", text) for text in toy_documents]
    texts = [*toy_documents, *spaced, *decomposed]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    manifest = prepare(dataclasses.replace(corpus, files=(str(path),)), tmp_path / "data", tmp_path / "cache", silent)
    processor = load_tokenizer(tmp_path / "data" / "tokenizer.model")
    decoded = {}
    for split in ("train", "val"):
        stream = np.concatenate(open_shards(shard_paths(tmp_path / "data", split), 512))
        pieces = np.split(stream, np.flatnonzero(stream == processor.bos_id()))[1:]
        decoded[split] = {processor.decode(piece.tolist()).strip() for piece in pieces}
        assert manifest["splits"][split]["documents"] % 3 == 0
    assert not decoded["train"] & decoded["val"]


def test_batches_are_joined_once_per_shard_whatever_their_sizes(tmp_path, toy_documents, toy_processor, monkeypatch):
    """Small batches and shards, and one batch of many shards, give the stream of one pass in order."""
    table, joined = byte_table(toy_processor), []
    real = np.concatenate

    def counting(arrays, *args, **kwargs):
        joined.append(sum(map(len, arrays)))
        return real(arrays, *args, **kwargs)

    whole = encode_documents(toy_processor, table, toy_documents).tokens_M
    for size, shard_tokens in ((400, 1024), (7, 1024), (1, 10**9)):
        writer = SplitWriter(tmp_path / str(size), "train", shard_tokens, 512)
        joined.clear()
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.corpus.prepare.np.concatenate", counting)
            for first in range(0, len(toy_documents), size):
                writer.add(toy_processor, table, toy_documents[first : first + size])
            totals = writer.finish()
        shards = open_shards(shard_paths(tmp_path / str(size), "train"), 512)
        np.testing.assert_array_equal(real(shards), whole)
        assert [len(shard) for shard in shards[:-1]] == [shard_tokens] * (len(shards) - 1)
        assert totals.tokens == len(whole)
        # Encoding joins every token twice, the shards up to twice more; joining per batch would take hundreds of times.
        assert sum(joined) < 8 * len(whole)


@pytest.mark.parametrize(
    ("vocab_size", "reused", "fits"),
    [(259, None, False), (260, None, True), (257, "a.model", True), (0, "a.model", False), (65537, None, False)],
)
def test_only_a_tokenizer_to_train_needs_room_for_bytes(corpus, vocab_size, reused, fits):
    change = {"vocab_size": vocab_size, "tokenizer_model": reused}
    if fits:
        assert dataclasses.replace(corpus, **change).vocab_size == vocab_size
        return
    with pytest.raises(ValueError, match=f"vocab_size: got {vocab_size}, expected .*(260|65536)"):
        dataclasses.replace(corpus, **change)


def test_unigram_baseline_against_a_slow_oracle(tmp_path, corpus):
    out = tmp_path / "data"
    manifest = prepare(corpus, out, tmp_path / "cache", silent)
    train, val = (np.concatenate(open_shards(shard_paths(out, split), 512)).tolist() for split in ("train", "val"))
    seen = Counter(train)
    bits = -sum(math.log2((seen[token] + 1) / (len(train) + 512)) for token in val[1:])
    assert manifest["unigram_bpb"] == pytest.approx(bits / manifest["splits"]["val"]["bytes"], rel=1e-12)


def test_second_run_and_other_folder_give_the_same_bytes(tmp_path, corpus):
    first = prepare(corpus, tmp_path / "one", tmp_path / "cache", silent)
    before = tree(tmp_path / "one")
    assert prepare(corpus, tmp_path / "two" / "deep", tmp_path / "cache", silent) == first
    assert tree(tmp_path / "two" / "deep") == before
    (tmp_path / "one" / "train" / "train_000099.bin").write_bytes(b"stale")
    prepare(corpus, tmp_path / "one", tmp_path / "cache", silent)
    assert tree(tmp_path / "one") == before
    assert str(tmp_path).encode() not in b"".join(before.values())


def test_reused_tokenizer_is_copied_and_must_fit(tmp_path, corpus, toy_model):
    reusing = dataclasses.replace(corpus, tokenizer_model=str(toy_model))
    prepare(reusing, tmp_path / "data", tmp_path / "cache", silent)
    assert (tmp_path / "data" / "tokenizer.model").read_bytes() == toy_model.read_bytes()
    misfit = dataclasses.replace(reusing, vocab_size=600)
    with pytest.raises(ValueError, match=r"toy\.model has 512 pieces, but data\.vocab_size is 600; set data"):
        prepare(misfit, tmp_path / "other", tmp_path / "cache", silent)


def test_capitals_are_taken_out_in_the_form_of_the_tokenizer(tmp_path, corpus, toy_documents):
    titled = tmp_path / "titled.jsonl"
    texts = [f"{text.title()} NASA \ue005\ue004" for text in toy_documents]
    titled.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cased = dataclasses.replace(corpus, files=(str(titled),), case_ops="before-space")
    trained = prepare(cased, tmp_path / "data", tmp_path / "cache", silent)
    processor = load_tokenizer(tmp_path / "data" / "tokenizer.model")
    assert sum(split["bytes"] for split in trained["splits"].values()) == sum(
        len(normalised_text(processor, text).encode()) for text in texts
    )
    assert load_byte_table(tmp_path / "data" / "byte_table.npz").base_V[4:8].tolist() == [0, 0, 0, 0]
    reusing = dataclasses.replace(cased, tokenizer_model=str(tmp_path / "data" / "tokenizer.model"))
    assert prepare(reusing, tmp_path / "again", tmp_path / "cache", silent) == trained
    for misfit in (None, "published"):
        with pytest.raises(ValueError, match=f"data.case_ops: got {misfit!r}, expected before-space, the form"):
            prepare(dataclasses.replace(reusing, case_ops=misfit), tmp_path / "other", tmp_path / "cache", silent)


def test_a_tokenizer_that_adds_a_space_at_the_end_is_refused(tmp_path, corpus):
    path = tmp_path / "suffix.model"
    path.write_bytes(published_model(treat_whitespace_as_suffix=True, pad_id=0, bos_id=1, eos_id=2, unk_id=3))
    pieces = load_tokenizer(path).vocab_size()
    reusing = dataclasses.replace(corpus, tokenizer_model=str(path), vocab_size=pieces)
    with pytest.raises(ValueError, match="adds a space to the end of every document; use another"):
        prepare(reusing, tmp_path / "data", tmp_path / "cache", silent)


@pytest.mark.parametrize("name", ["cjk", "emoji_only"])
def test_the_shared_corpora_without_spaces_are_prepared(tmp_path, corpus, shared, name):
    path = shared / "hostile" / "corpus_without_spaces" / f"{name}.jsonl"
    spaceless = dataclasses.replace(corpus, files=(str(path),), vocab_size=600 if name == "cjk" else 300)
    manifest = prepare(spaceless, tmp_path / "data", tmp_path / "cache", silent)
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    assert sum(split["bytes"] for split in manifest["splits"].values()) == sum(len(text.encode()) for text in texts)


def test_val_files_are_val_and_their_copies_leave_train(tmp_path, corpus, toy_documents):
    held_out = tmp_path / "held" / "out.txt"
    held_out.parent.mkdir()
    kept = ["A text of its own.", toy_documents[3], f" {toy_documents[5]}\n"]
    held_out.write_text("<|end|>".join([*kept, kept[0]]), encoding="utf-8")
    config = dataclasses.replace(
        corpus, val_files=(str(held_out.parent),), val_frac=None, document_separator="<|end|>", max_documents=100
    )
    manifest = prepare(config, tmp_path / "data", tmp_path / "cache", silent)
    assert manifest["left_out_documents"] == 2
    assert {name: split["documents"] for name, split in manifest["splits"].items()} == {"train": 98, "val": 4}
    processor = load_tokenizer(tmp_path / "data" / "tokenizer.model")
    decoded = {}
    for split in ("train", "val"):
        stream = np.concatenate(open_shards(shard_paths(tmp_path / "data", split), 512))
        pieces = np.split(stream, np.flatnonzero(stream == processor.bos_id()))[1:]
        decoded[split] = [processor.decode(piece.tolist()) for piece in pieces]
    assert decoded["val"] == [normalised_text(processor, text) for text in [*kept, kept[0]]]
    left = toy_documents[:3] + toy_documents[4:5] + toy_documents[6:100]
    assert decoded["train"] == [normalised_text(processor, text) for text in left]
    everything = dataclasses.replace(config, files=(str(held_out),))
    with pytest.raises(ValueError, match=r"data\.files: got 4 documents, all in data\.val_files too; name other text"):
        prepare(everything, tmp_path / "data", tmp_path / "cache", silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_files": ("a.txt",)}, "val_frac: got 0.2, expected null: data.val_files say what is held out"),
        ({"val_frac": None}, "val_frac: got None, expected a share between 0 and 1 without val_files"),
    ],
)
def test_either_a_share_or_files_are_held_out(corpus, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(corpus, **change)


def test_what_is_advised_for_a_corpus_of_one_document_helps(tmp_path, corpus, toy_documents):
    (tmp_path / "book.txt").write_text("\n\n".join(toy_documents), encoding="utf-8")
    (tmp_path / "other.txt").write_text("Another text.", encoding="utf-8")
    book = dataclasses.replace(corpus, files=(str(tmp_path / "book.txt"),))
    with pytest.raises(ValueError, match=r"got one document, .* data\.document_separator .* data\.val_files .*null$"):
        prepare(book, tmp_path / "data", tmp_path / "cache", silent)
    for change in ({"document_separator": "\n\n"}, {"val_files": (str(tmp_path / "other.txt"),), "val_frac": None}):
        prepare(dataclasses.replace(book, **change), tmp_path / "data", tmp_path / "cache", silent)


@pytest.mark.parametrize("number", [2, 3, 40])
@pytest.mark.parametrize("val_frac", [1e-9, 1 - 1e-9])
def test_the_share_that_is_advised_leaves_no_split_empty(tmp_path, corpus, toy_documents, number, val_frac):
    small = dataclasses.replace(corpus, max_documents=number, val_frac=val_frac, vocab_size=300)
    with pytest.raises(ValueError, match="set it to") as caught:
        prepare(small, tmp_path / "data", tmp_path / "cache", silent)
    advised = float(re.search(r"set it to ([\d.e-]+),", str(caught.value))[1])
    digests = [text_digest(text) for text in toy_documents[:number]]
    assert {split_of(digest, advised) for digest in digests} == {"train", "val"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"val_frac": 1e-9}, "leaves val none of 402 documents; set it to 0."),
        ({"val_frac": 1 - 1e-9}, "leaves train none of 402 documents; set it to 0."),
        ({"vocab_size": 30000}, "the text yields only"),
        ({"tokenizer_model": "absent.model"}, "no such tokenizer"),
    ],
)
def test_failure_leaves_nothing_behind(tmp_path, corpus, change, words):
    with pytest.raises(ValueError, match=r"\S") as caught:
        prepare(dataclasses.replace(corpus, **change), tmp_path / "out" / "data", tmp_path / "cache", silent)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_failure_late_in_the_run_keeps_the_old_outputs(tmp_path, corpus):
    out = tmp_path / "data"
    prepare(corpus, out, tmp_path / "cache", silent)
    before = tree(out)

    def interrupted(done, total, note):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, out, tmp_path / "cache", interrupted)
    assert tree(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "data"]


def test_progress_reaches_its_total(tmp_path, corpus):
    calls = []
    prepare(corpus, tmp_path / "data", tmp_path / "cache", lambda *call: calls.append(call))
    assert calls[-1][:2] == (402, 402)
    assert all(0 <= done <= total and total > 0 for done, total, _ in calls)


def test_split_depends_on_content_alone(toy_documents):
    digests = [hashlib.sha256(text.encode()).digest() for text in toy_documents]
    small, large = ({d for d in digests if split_of(d, frac) == "val"} for frac in (0.05, 0.3))
    assert small < large  # raising val_frac only moves documents into val
    assert split_of(bytes(32), 1e-12) == "val"
    assert split_of(b"\xff" * 32, 0.999) == "train"
    assert split_of(b"\x80" + bytes(31), 0.5) == "train"  # the share is below val_frac, not at it
    assert split_of(b"\x7f" + bytes(31), 0.5) == "val"
