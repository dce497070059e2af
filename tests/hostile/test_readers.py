"""Every reader of files: whatever the bytes are, it reads them or refuses in one short line."""

import ast
import dataclasses
import io
import json
import random
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import safetensors.torch
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline.base.artifacts import read_json, read_tensors, save_tensors
from pipeline.base.files import sha256_of_file
from pipeline.base.ranks import ALONE
from pipeline.codec.container import QuantizedTensor, encode_artifact, read_artifact
from pipeline.codec.foreign import load_artifact_model
from pipeline.codec.sections import ArtifactError, join_sections, split_sections
from pipeline.corpus.corpora import read_documents
from pipeline.data.byte_count import ByteTable, load_byte_table, save_byte_table
from pipeline.data.manifest import listed_shards, open_listed, read_manifest
from pipeline.data.shards import ShardError, open_shard, shard_paths, write_shard
from pipeline.data.tokenizer import load_tokenizer
from pipeline.interop import LAYOUTS, load_community
from pipeline.interop.adopt import read_arguments
from pipeline.interop.state_dict import read_state_dict
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.network import build
from pipeline.quant.roles import tensor_roles
from pipeline.quant.statistics import check_statistics
from pipeline.scoring.ledger import LEDGER_COLUMNS, Ledger, load_ledger, save_ledger
from pipeline.training.snapshot import Snapshots
from tests.corpus.configs import data_config
from tests.hostile.mutations import damage_a_member, damaged_bytes, damaged_tensor, damaged_value, reads_or_refuses
from tests.interop.test_interop_published import LAYOUT
from tests.networks import architecture
from tests.published_parts import random_tensors

NETWORKS = [build(architecture(name)) for name in ("tiny", "helix, linear", "folded, no gates, factorised", "frontier")]


def damage(path, choose):
    """Damage the bytes of a file."""
    path.write_bytes(damaged_bytes(path.read_bytes(), choose))


def damage_json(path, choose):
    """Damage a value of a JSON file, or its bytes."""
    if choose.random() < 0.7:
        path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), choose)))
    else:
        damage(path, choose)


def artifact_of(model):
    """Return the file of a fresh network, its matrices as codes."""
    tensors = {}
    for name, role in tensor_roles(model).items():
        weight = model.state_dict()[name]
        half = weight.half().numpy()
        codes = weight.mul(100).round().clamp(-127, 127).char().numpy()
        tensors[name] = half if role == "passthrough" else QuantizedTensor(codes, abs(half[:, 0]) + half.dtype.type(1))
    return encode_artifact(tensors, {"model": dataclasses.asdict(model.config)})


ARTIFACTS = [artifact_of(model) for model in NETWORKS]


def attempt_artifact(folder, choose):
    """Damage an artifact, inside its sections so that digests hold, and read it."""
    content = choose.choice(ARTIFACTS)
    sections = split_sections(content)
    if choose.random() < 0.7:
        sections["header"] = json.dumps(damaged_value(json.loads(sections["header"]), choose)).encode()
    else:
        name = choose.choice(list(sections))
        sections[name] = damaged_bytes(sections[name], choose)
    content = damaged_bytes(content, choose) if choose.random() < 0.1 else join_sections(sections)
    (folder / "model.fwy").write_bytes(content)
    reads_or_refuses(lambda: load_artifact_model(folder / "model.fwy"), ArtifactError)


def attempt_checkpoint(folder, choose):
    """Damage tensors, config or bytes of a checkpoint and read it."""
    model, path, kind = choose.choice(NETWORKS), folder / "checkpoint.safetensors", choose.randrange(3)
    tensors, config = model.state_dict(), dataclasses.asdict(model.config)
    if kind == 0:
        name = choose.choice(list(tensors))
        tensors[name] = damaged_tensor(tensors[name], choose)
    save_tensors(path, tensors, {"model": damaged_value(config, choose) if kind == 1 else config})
    if kind == 2:
        damage(path, choose)
    reads_or_refuses(lambda: load_checkpoint(path), ValueError)


def attempt_community(folder, choose):
    """Damage tensors, arguments or bytes of a community's checkpoint and import it."""
    layout, suffix = choose.choice(list(LAYOUTS)), choose.choice((".pt", ".safetensors"))
    arguments, shapes_of, _ = LAYOUT[layout]
    tensors, path, kind = random_tensors(shapes_of(arguments), 1), folder / f"weights{suffix}", choose.randrange(3)
    if kind == 0:
        name = choose.choice(list(tensors))
        tensors[name] = damaged_tensor(tensors[name], choose)
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(tensors, path)
    if kind == 2:
        damage(path, choose)
    arguments = damaged_value(arguments, choose) if kind == 1 else arguments
    reads_or_refuses(lambda: load_community(path, layout, arguments), ValueError)


MOMENT = torch.eye(6)
STATISTICS = {
    "moment/a/0": MOMENT,
    "moment/a/1": MOMENT * 2,
    "cross/a/0": MOMENT + 1,
    "tokens/a": torch.tensor(64),
    "uses/a/b": torch.tensor(2),
    "token_frequency": torch.arange(9),
    "sensitivity/head": torch.linspace(0, 1, 9),
}
META = {"checkpoint_sha256": "0" * 64, "calibrate": {"num_sequences": 8}}


def attempt_statistics(folder, choose):
    """Damage an entry, a name, the metadata or the bytes of statistics, and read them as quantize does."""
    path, statistics, kind = folder / "hessians.safetensors", dict(STATISTICS), choose.randrange(4)
    name = choose.choice(list(statistics))
    if kind == 0:
        statistics[name] = damaged_tensor(statistics[name], choose)
    elif kind == 1:
        other = choose.choice((f"{name}/more", "other", "", name.partition("/")[0], "a" * 500))
        statistics[other] = statistics.pop(name)
    save_tensors(path, statistics, damaged_value(META, choose) if kind == 2 else META)
    if kind == 3:
        damage(path, choose)
    reads_or_refuses(lambda: check_statistics(read_tensors(path)[0]), ValueError)


ROWS = 50
LEDGER = Ledger(
    target=np.arange(ROWS)[::-1],
    nats=np.linspace(0, 9, ROWS),
    bytes=np.ones(ROWS),
    group=np.zeros(ROWS),
    num_targets=ROWS,
    protocol={"kind": "sliding", "context_tokens": 4, "stride_tokens": 2, "mixture": None},
)


def attempt_ledger(folder, choose):
    """Damage a member of a ledger, its metadata or the whole file, and read it."""
    path, kind = folder / "ledger.npz", choose.randrange(4)
    save_ledger(path, LEDGER)
    with np.load(path) as file:
        arrays = dict(file)
    if kind == 0:
        meta = json.dumps(damaged_value(json.loads(arrays["meta"].tobytes()), choose))
        np.savez_compressed(path, **{**arrays, "meta": np.frombuffer(meta.encode(), np.uint8)})
    elif kind == 1:
        name, dtype = choose.choice([*LEDGER_COLUMNS, "meta"]), choose.choice(("<f8", "<i8", "S3", "?", "<c16", "<U2"))
        np.savez(path, **{**arrays, name: choose.choice((arrays[name][1:], arrays[name].astype(dtype), np.zeros(())))})
    elif kind == 2:
        damage_a_member(path, choose)
    else:
        damage(path, choose)
    reads_or_refuses(lambda: load_ledger(path), ValueError)


TABLE = ByteTable(np.arange(40), np.arange(40) % 2 == 0, np.arange(40) < 3)
TOKENS = np.arange(600, dtype=np.uint16) % 40


def write_prepared(folder):
    """Write a small folder of prepared data: two splits of one shard, one of them listed from elsewhere."""
    splits = {}
    for split, name in {"train": "train/train_000000.bin", "val": "elsewhere.bin"}.items():
        (folder / split).mkdir()
        write_shard(folder / name, TOKENS)
        listed = {"file": (folder / name).name, "sha256": sha256_of_file(folder / name), "tokens": len(TOKENS)}
        splits[split] = {"documents": 1, "tokens": 600, "targets": 599, "bytes": 900, "shards": [listed]}
    (folder / "val/val_shards.txt").write_text("../elsewhere.bin\n")
    manifest = {"unigram_bpb": 4.5, "vocab_size": 40, "bos_id": 1, "tokenizer_sha256": "0" * 64, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    save_byte_table(folder / "byte_table.npz", TABLE)


def attempt_prepared(folder, choose):
    """Damage one file of prepared data and read all that stages read of it."""
    write_prepared(folder)
    name = choose.choice(("byte_table.npz", "manifest.json", "val/val_shards.txt", "elsewhere.bin"))
    if name == "byte_table.npz" and choose.random() < 0.5:
        damage_a_member(folder / name, choose)
    elif name == "manifest.json":
        damage_json(folder / name, choose)
    else:
        damage(folder / name, choose)
    manifest = folder / "manifest.json"
    reads_or_refuses(lambda: load_byte_table(folder / "byte_table.npz"), ValueError)
    reads_or_refuses(lambda: read_manifest(manifest), ValueError)
    reads_or_refuses(lambda: shard_paths(folder / "val", "val"), ShardError)
    reads_or_refuses(lambda: open_listed(listed_shards(manifest, "val"), 40), (ShardError, ValueError))


def snapshots(folder, lines, tell):
    """Return the snapshots of a run in `folder`."""
    identity = {"seed": 1, "model": {"width": 4}, "torch": "2"}
    return Snapshots(folder, identity, 60.0, ALONE, torch.device("cpu"), lines, tell)


def restored(folder, told):
    """Return the step at which a run of a small network would go on, its seconds and its curve."""
    torch.manual_seed(0)
    with snapshots(folder, [], told.append) as reader:
        return reader.restore({"model": torch.nn.Linear(3, 2)})


def write_snapshot(folder):
    """Leave a snapshot of step 5."""
    with snapshots(folder, ["line"], lambda line: None) as writer:
        writer.restore({"model": torch.nn.Linear(3, 2)})
        writer.save(5, 1.5, [{"step": 5, "loss": 2.0}])


def attempt_snapshot(folder, choose):
    """Damage the manifest or the state of a snapshot and restore from it: from there, or from the beginning, told."""
    write_snapshot(folder)
    path = choose.choice(sorted(folder.iterdir()))
    (damage_json if path.name == "snapshot.json" else damage)(path, choose)
    told: list[str] = []
    step, seconds, _ = restored(folder, told)
    assert (step == 0) == (seconds == 0.0)
    assert step > 0 or len(told) == 1
    assert all("\n" not in line and len(line) < 1000 for line in told)


READERS = {
    "artifact": attempt_artifact,
    "checkpoint": attempt_checkpoint,
    "community": attempt_community,
    "statistics": attempt_statistics,
    "ledger": attempt_ledger,
    "prepared data": attempt_prepared,
    "snapshot": attempt_snapshot,
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100)
@given(choose=st.randoms(use_true_random=False))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, name, choose):
    folder = tmp_path_factory.mktemp("case")
    READERS[name](folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_damaged_files(tmp_path, name):
    for case in range(40_000 if name == "prepared data" else 10_000):  # four kinds of files
        (tmp_path / "case").mkdir()
        READERS[name](tmp_path / "case", random.Random(case))
        shutil.rmtree(tmp_path / "case")


TEXTS = [f"text number {number} " * 20 for number in range(60)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def checkpoint_bytes(**options):
    """Return what torch.save writes of a small state dict."""
    file = io.BytesIO()
    torch.save({"step": 5, "model": NETWORKS[0].state_dict()}, file, **options)
    return file.getvalue()


def state_dict_of(path):
    """Return the tensors of a community's checkpoint."""
    return read_state_dict(path, lambda line: None)


def documents_of(path):
    """Return the documents of a file of the user's."""
    return list(read_documents(data_config(files=(str(path),)), Path("unused")))


def written(write, *arguments):
    """Return a function that returns the bytes that `write` writes."""

    def content(folder, _model):
        write(folder / "written", *arguments)
        return (folder / "written").read_bytes()

    return content


def is_in_place(folder, _model):
    """Return the manifest of a folder of prepared data."""
    write_prepared(folder)
    return (folder / "manifest.json").read_bytes()


KINDS = {
    "archive.pt": (lambda *_: checkpoint_bytes(), state_dict_of),
    "old.pt": (lambda *_: checkpoint_bytes(_use_new_zipfile_serialization=False), state_dict_of),
    "weights.safetensors": (lambda *_: safetensors.torch.save(NETWORKS[0].state_dict()), state_dict_of),
    "hessians.safetensors": (written(save_tensors, STATISTICS, META), read_tensors),
    "model.fwy": (lambda *_: ARTIFACTS[0], load_artifact_model),
    "own.fwy": (lambda *_: ARTIFACTS[0], read_artifact),
    "shard.bin": (written(write_shard, TOKENS), lambda path: open_shard(path, 40)),
    "ledger.npz": (written(save_ledger, LEDGER), load_ledger),
    "byte_table.npz": (written(save_byte_table, TABLE), load_byte_table),
    "manifest.json": (is_in_place, read_manifest),
    "report.json": (lambda *_: json.dumps(META).encode(), read_json),
    "arguments.json": (lambda *_: json.dumps(META).encode(), read_arguments),
    "tokenizer.model": (lambda _, model: model.read_bytes(), load_tokenizer),
    "corpus.txt": (lambda *_: TEXTS[0].encode(), documents_of),
    "corpus.jsonl": (lambda *_: LINES, documents_of),
    "corpus.jsonl.zst": (lambda *_: zstandard.compress(LINES), documents_of),
    "corpus.parquet": (written(lambda path: parquet.write_table(pyarrow.table({"text": TEXTS}), path)), documents_of),
}
"""File -> (sound content, given a folder and a tokenizer; its reader)."""


def cut_or_flipped(content, choose):
    """Return content without its end, or with bits flipped: near the start, where formats are told, or anywhere."""
    if choose.random() < 0.3:
        return content[: choose.randrange(len(content))]
    damaged = bytearray(content)
    for _ in range(choose.choice((1, 1, 3))):
        within = min(choose.choice((8, 300, len(content))), len(content))
        damaged[choose.randrange(within)] ^= 1 << choose.randrange(8)
    return bytes(damaged)


def says_why(line, path):
    """Return whether a line names a file and says in words what is wrong with it: no number, no exception's name."""
    rest = line.replace(str(path), "").replace(path.name, "")
    cause = re.search(r"\((.*)\)", rest)
    is_bare = cause is not None and re.fullmatch(r"\W*\w*\W*", cause[1])
    is_named = path.name in line and line.isprintable()
    is_coded = re.search(r"Err(no|or) -?\d", rest)
    return is_named and not is_bare and not is_coded and len(re.findall("[a-z]{2,}", rest)) > 3


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_named_with_a_reason_in_words(tmp_path, toy_model, name):
    (content_of, read), choose = KINDS[name], random.Random(name)
    path, content = tmp_path / name, content_of(tmp_path, toy_model)
    path.write_bytes(content)
    read(path)
    lines = set()
    for _ in range(200):
        path.write_bytes(cut_or_flipped(content, choose))
        try:
            read(path)
        except (ValueError, ArtifactError, ShardError) as refusal:
            lines.add(str(refusal))
    assert lines
    assert [line for line in lines if not says_why(line, path)] == []


def test_sound_files_are_read(tmp_path):
    save_tensors(tmp_path / "statistics", STATISTICS, META)
    check_statistics(read_tensors(tmp_path / "statistics")[0])
    write_snapshot(tmp_path / "run")
    assert restored(tmp_path / "run", []) == (5, 1.5, [{"step": 5, "loss": 2.0}])


def test_configs_that_raised_something_else_are_one_line(shared, tmp_path):
    sections = split_sections(ARTIFACTS[0])
    for path in (shared / "hostile/parsers").glob("artifact_model*.json"):
        header = {**json.loads(sections["header"]), "meta": json.loads(path.read_text())}
        content = join_sections({**sections, "header": json.dumps(header).encode()})
        (tmp_path / "model.fwy").write_bytes(content)
        save_tensors(tmp_path / "checkpoint.safetensors", {"a": torch.ones(1)}, header["meta"])
        for read, name in ((load_artifact_model, "model.fwy"), (load_checkpoint, "checkpoint.safetensors")):
            started = time.monotonic()
            with pytest.raises((ArtifactError, ValueError), match=rf"^[^\n]*{name}: [^\n]*$") as caught:
                read(tmp_path / name)
            assert len(str(caught.value)) < 1000
            assert time.monotonic() - started < 5


def test_community_checkpoints_that_raised_something_else_are_one_line(shared, tmp_path):
    for path in (shared / "hostile/parsers").glob("community*"):
        content, _, arguments = path.read_bytes().partition(b"#CFG ")
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"^[^\n]{1,1000}$"):
            load_community(tmp_path / "weights.pt", "looped-unet", ast.literal_eval(arguments.decode()))
