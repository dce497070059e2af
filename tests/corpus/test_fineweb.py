"""Published shards through the whole stage: taken as they are, counted, resumable, outside of DVC's outs."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from pipeline.base.progress import silent
from pipeline.corpus.config import DataConfig, FineWebConfig
from pipeline.corpus.encoding import EncodedBatch, encode_documents
from pipeline.corpus.hub import DownloadError
from pipeline.corpus.prepare import prepare
from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.data.byte_count import byte_table, count_bytes, load_byte_table
from pipeline.data.case_ops import CASE_FORMS
from pipeline.data.shards import ShardError, open_shards, shard_paths, write_shard
from pipeline.data.tokenizer import load_tokenizer
from tests.corpus.configs import data_config
from tests.corpus.hub_stand_in import REPOSITORY, HubStandIn

SHARD_TOKENS = 1500
DATASET = "datasets/datasets/fineweb10B_sp1024"


def shard_name(split: str, number: int) -> str:
    return f"{DATASET}/fineweb_{split}_{number:06d}.bin"


@dataclasses.dataclass
class Export:
    """A published export: its files, and what it was made from."""

    files: dict[str, bytes]
    splits: dict[str, EncodedBatch]
    num_shards: dict[str, int]


def export_documents(folder: Path, model: bytes, documents: list[str], shard_tokens: int = SHARD_TOKENS) -> Export:
    """Publish documents in the challenge's layout; the first 30 are val."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    table = byte_table(processor)
    splits = {
        "val": encode_documents(processor, table, documents[:30]),
        "train": encode_documents(processor, table, documents[30:]),
    }
    files = {"datasets/tokenizers/fineweb_1024_bpe.model": model}
    num_shards = {}
    for split, batch in splits.items():
        starts = range(0, len(batch.tokens_M), shard_tokens)
        num_shards[split] = len(starts)
        for number, start in enumerate(starts):
            path = folder / "shard.bin"
            write_shard(path, batch.tokens_M[start : start + shard_tokens])
            files[shard_name(split, number)] = path.read_bytes()
    manifest = {
        "datasets": [
            {
                "name": "fineweb10B_sp1024",
                "tokenizer_name": "sp_bpe_1024",
                "stats": {f"files_{split}": number for split, number in num_shards.items()},
            }
        ],
        "tokenizers": [{"name": "sp_bpe_1024", "model_path": "tokenizers/fineweb_1024_bpe.model"}],
    }
    files["datasets/manifest.json"] = json.dumps(manifest).encode()
    return Export(files, splits, num_shards)


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Export:
    """Return an export of made-up documents with a tokenizer of 1,024 pieces."""
    rng = np.random.default_rng(3)
    letters = [*"etaoinshrdlucm", "\u00e9", "\u4e2d"]
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(1500)]
    documents = [" ".join(rng.choice(words, rng.integers(3, 80))) for _ in range(300)]
    return export_documents(tmp_path_factory.mktemp("export"), train_tokenizer(documents, 1024), documents)


@pytest.fixture
def hub(export):
    """Return a running stand-in that serves the export."""
    with HubStandIn(export.files).serving() as running:
        yield running


@pytest.fixture
def config(hub, tmp_path) -> DataConfig:
    """Return a configuration of the stand-in: two train shards, kept in `tmp_path`/kept."""
    fineweb = FineWebConfig(
        variant="sp1024",
        train_shards=2,
        repository=REPOSITORY,
        revision="main",
        root="datasets",
        endpoint=hub.endpoint,
        folder=str(tmp_path / "kept"),
    )
    return data_config(source="fineweb", vocab_size=1024, fineweb=fineweb)


def changed(config: DataConfig, **fineweb: object) -> DataConfig:
    return dataclasses.replace(config, fineweb=dataclasses.replace(config.fineweb, **fineweb))


def run(config: DataConfig, out: Path) -> dict:
    return prepare(config, out, out.parent / "unused", silent)


def test_published_shards_without_capitals_count_the_bytes_of_the_text(tmp_path, config, hub):
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice([*"etaoinshrdlucm"], rng.integers(2, 9))).capitalize() for _ in range(1500)]
    documents = [" ".join(rng.choice(words, rng.integers(9, 80))) for _ in range(300)]
    model = train_tokenizer([*documents, *(text.lower() for text in documents)], 1024, CASE_FORMS["published"])
    hub.files = export_documents(tmp_path, model, documents).files
    manifest = run(dataclasses.replace(config, case_ops="published"), tmp_path / "data")
    assert manifest["splits"]["val"]["bytes"] == sum(len(text.encode()) for text in documents[:30])
    with pytest.raises(ValueError, match=r"^data\.case_ops: got None, expected published, the form that the tokenizer"):
        run(config, tmp_path / "other")


def test_shards_are_taken_as_they_are_and_counted(tmp_path, config, hub, export):
    """Documents and bytes equal what the texts say: their number and their UTF-8 lengths."""
    everything = changed(config, train_shards=export.num_shards["train"])
    out = tmp_path / "data"
    manifest = run(everything, out)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["origin"] == {"repository": REPOSITORY, "commit": hub.commit}
    assert (out / "tokenizer.model").read_bytes() == export.files["datasets/tokenizers/fineweb_1024_bpe.model"]
    processor = load_tokenizer(out / "tokenizer.model")
    assert manifest["bos_id"] == processor.bos_id()
    table = byte_table(processor)
    stored = load_byte_table(out / "byte_table.npz")
    assert all(np.array_equal(read, made) for read, made in zip(stored, table, strict=True))
    for split, batch in export.splits.items():
        entry = manifest["splits"][split]
        paths = shard_paths(out / split, split)
        names = [shard_name(split, number) for number in range(export.num_shards[split])]
        assert [shard["file"] for shard in entry["shards"]] == names
        assert [path.read_bytes() for path in paths] == [export.files[name] for name in names]
        assert [shard["sha256"] for shard in entry["shards"]] == [
            hashlib.sha256(export.files[name]).hexdigest() for name in names
        ]
        stream = np.concatenate(open_shards(paths, 1024))
        np.testing.assert_array_equal(stream, batch.tokens_M)
        assert (entry["tokens"], entry["targets"]) == (len(stream), len(stream) - 1)
        assert (entry["documents"], entry["bytes"]) == (batch.documents, batch.bytes)
        assert entry["bytes"] == int(count_bytes(stream, table).sum())
        assert shard_paths(out, split) == paths  # a folder above is fine, too


def test_an_export_whose_val_stands_in_train_is_refused_and_left_by_every_way_that_is_named(
    tmp_path, config, hub, export
):
    """Val of 30 documents, of which train holds the last 24, as in an export that counted its front twice.

    The broken shards stay pinned: to another revision that is nothing, and a branch that is mended says what to do.
    """
    bos_id = int(export.splits["val"].tokens_M[0])
    val_M = export.splits["val"].tokens_M
    starts = np.flatnonzero(val_M == bos_id)
    assert export.num_shards["train"] > 1
    write_shard(tmp_path / "shard.bin", np.concatenate([val_M[starts[6] :], export.splits["train"].tokens_M]))
    hub.files[shard_name("train", 0)] = (tmp_path / "shard.bin").read_bytes()
    commit = "e" * 40
    hub.exports[commit] = export.files
    with pytest.raises(ValueError, match=r"sp1024: 2\d of \d\d val .* in fineweb_train_000000\.bin; the.*fineweb\.rev"):
        run(config, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert run(changed(config, revision=commit), tmp_path / "other")["overlap"]["recurring"] == 0
    hub.files[shard_name("train", 0)] = export.files[shard_name("train", 0)]
    with pytest.raises(DownloadError, match=r"set data\.fineweb\.revision to the commit .* or remove the entry 'main'"):
        run(config, tmp_path / "data")
    pins = tmp_path / "kept" / REPOSITORY / "digests.json"
    pins.write_text(json.dumps({commit: json.loads(pins.read_text())[commit]}))
    assert run(config, tmp_path / "data")["overlap"]["recurring"] == 0


def test_counts_do_not_depend_on_how_much_is_counted_at_once(tmp_path, config, monkeypatch):
    whole = run(config, tmp_path / "data")
    monkeypatch.setattr("pipeline.corpus.fineweb._COUNTED_AT_ONCE_TOKENS", 7)
    assert run(config, tmp_path / "data") == whole


def test_outs_hold_no_shard(tmp_path, config):
    run(config, tmp_path / "data")
    names = {str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert names == {
        "tokenizer.model",
        "byte_table.npz",
        "manifest.json",
        "train/train_shards.txt",
        "val/val_shards.txt",
    }


def test_a_second_run_downloads_nothing_and_gives_the_same_bytes(tmp_path, config, hub):
    run(config, tmp_path / "one")
    assert len(hub.downloads()) == len(set(hub.downloads()))
    hub.requests.clear()
    assert run(config, tmp_path / "two") == json.loads((tmp_path / "one/manifest.json").read_text())
    assert hub.downloads() == []
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    fewer = run(changed(config, train_shards=1), tmp_path / "three")
    assert len(shard_paths(tmp_path / "three/train", "train")) == len(fewer["splits"]["train"]["shards"]) == 1
    assert hub.downloads() == []


def test_an_interrupted_run_continues(tmp_path, config, hub, export):
    """The run ends in the middle of the second train shard; the next one fetches what is missing and nothing else."""
    missing = shard_name("train", 1)
    del hub.files[missing]
    with pytest.raises(DownloadError, match=missing):
        run(config, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert shard_name("train", 0) in hub.downloads()
    hub.requests.clear()
    hub.files[missing] = export.files[missing]
    hub.cut_after[missing] = 1000
    run(config, tmp_path / "data")
    assert set(hub.downloads()) == {missing}
    assert [path.name for path in shard_paths(tmp_path / "data/train", "train")] == [
        Path(shard_name("train", number)).name for number in (0, 1)
    ]


def test_a_corrupted_shard_stops_the_stage_and_leaves_the_previous_outputs(tmp_path, config, hub, export):
    run(changed(config, train_shards=1), tmp_path / "data")
    before = (tmp_path / "data/manifest.json").read_bytes()
    name = shard_name("train", 1)
    hub.false_content[name] = export.files[name][:-1] + b"\0"
    with pytest.raises(DownloadError, match=f"{name}: expected digest .* got "):
        run(config, tmp_path / "data")
    assert not (tmp_path / "kept" / REPOSITORY / name).exists()
    assert (tmp_path / "data/manifest.json").read_bytes() == before
    assert len(shard_paths(tmp_path / "data/train", "train")) == 1


def test_a_shard_damaged_on_disk_is_fetched_anew(tmp_path, config, hub, export):
    run(config, tmp_path / "data")
    hub.requests.clear()
    path = shard_paths(tmp_path / "data/train", "train")[1]
    path.write_bytes(path.read_bytes()[:-2] + b"\0\0")
    run(config, tmp_path / "data")
    assert hub.downloads() == [shard_name("train", 1)]
    assert path.read_bytes() == export.files[shard_name("train", 1)]


def test_a_shard_of_another_vocabulary_is_refused(tmp_path, config, hub):
    write_shard(tmp_path / "shard.bin", np.array([1, 1024, 5]))
    hub.files[shard_name("val", 0)] = (tmp_path / "shard.bin").read_bytes()
    with pytest.raises(ShardError, match="token id 1024 lies beyond the vocabulary of 1024"):
        run(config, tmp_path / "data")


def test_a_relative_folder_is_found_from_anywhere(tmp_path, config, monkeypatch):
    """Lists are relative to themselves, so they do not depend on where a checkout lies nor on the working folder."""
    monkeypatch.chdir(tmp_path)
    run(changed(config, folder=".kept"), Path("artifacts/data"))
    assert (tmp_path / "artifacts/data/val/val_shards.txt").read_text().startswith("../../../.kept/")
    monkeypatch.chdir("/")
    assert all(path.is_file() for path in shard_paths(tmp_path / "artifacts/data/train", "train"))
    (tmp_path / ".kept").rename(tmp_path / "gone")
    with pytest.raises(ShardError, match="no such shard; run `dvc repro -f prepare`"):
        open_shards(shard_paths(tmp_path / "artifacts/data/train", "train"), 1024)


def test_what_the_export_does_not_hold(tmp_path, config, hub, export):
    available = export.num_shards["train"]
    with pytest.raises(ValueError, match=rf"train_shards: got 999, expected at most {available}, the train shards of"):
        run(changed(config, train_shards=999), tmp_path / "data")
    other = dataclasses.replace(config.fineweb, variant="sp4096")
    with pytest.raises(
        ValueError, match=r"variant: got 'sp4096', expected one that .*golf publishes \(fineweb10B_sp1024"
    ):
        run(dataclasses.replace(config, vocab_size=4096, fineweb=other), tmp_path / "data")
    with pytest.raises(DownloadError, match=r"^elsewhere/manifest\.json"):
        run(changed(config, root="elsewhere"), tmp_path / "data")
    without_val = hub.files["datasets/manifest.json"].replace(
        b'"files_val": %d' % export.num_shards["val"], b'"files_val": 0'
    )
    for content in (
        without_val,
        b"not json",
        b"[1]",
        b'{"datasets": [{"name": "fineweb10B_sp1024"}]}',
        b'{"datasets": 3}',
        b"\xff",
    ):
        hub.files["datasets/manifest.json"] = content
        with pytest.raises(ValueError, match=r"^datasets/manifest.json: not the manifest of an export"):
            run(config, tmp_path / "data")


def test_the_tokenizer_must_take_capitals_out_as_configured(tmp_path, config):
    marked = dataclasses.replace(config, case_ops="published")
    with pytest.raises(ValueError, match=r"^data\.case_ops: got 'published', expected null, the form that"):
        run(marked, tmp_path / "data")


def test_the_tokenizer_must_have_the_variants_pieces(tmp_path, config, hub, toy_model):
    hub.files["datasets/tokenizers/fineweb_1024_bpe.model"] = toy_model.read_bytes()
    with pytest.raises(ValueError, match=r"^data\.vocab_size: got 1024, expected 512, the pieces of datasets"):
        run(config, tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fineweb": None}, "fineweb: got None, expected a mapping with source 'fineweb'"),
        ({"source": "wikipedia-leads"}, "fineweb: got .*null otherwise"),
        ({"vocab_size": 512}, "vocab_size: got 512, expected 1024, the variant's"),
        (
            {"fineweb": {"variant": "sp8192_lossless_caps_caseops_v1_reserved"}},
            "vocab_size: got 1024, expected 8192, the variant's",
        ),
        ({"tokenizer_model": "a.model"}, "tokenizer_model: got 'a.model', expected null"),
        ({"max_documents": 5}, "max_documents: got 5, expected null"),
        ({"files": ("a.txt",)}, "files: got"),
    ],
)
def test_keys_that_do_not_belong_together(config, change, message):
    if isinstance(change.get("fineweb"), dict):
        change = {"fineweb": dataclasses.replace(config.fineweb, **change["fineweb"])}
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


@pytest.mark.parametrize(("key", "value"), [("train_shards", 0), ("repository", "nobody"), ("repository", "a/b/c")])
def test_bad_values_name_themselves(config, key, value):
    with pytest.raises(ValueError, match=f"{key}: got {value!r}"):
        changed(config, **{key: value})


def test_the_challenges_tokenizer_and_documents(tmp_path, shared, config, hub):
    """Real text and the real tokenizer: the manifest counts the documents and their bytes."""
    lines = (shared / "data/fineweb_docs.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line)["text"] for line in lines[:60]]
    real = export_documents(tmp_path, (shared / "data/fineweb_1024_bpe.model").read_bytes(), documents, 20_000)
    hub.files = real.files
    manifest = run(changed(config, train_shards=2), tmp_path / "data")
    val = manifest["splits"]["val"]
    assert (val["documents"], val["bytes"]) == (30, real.splits["val"].bytes)
    assert manifest["splits"]["train"]["tokens"] == 2 * 20_000
