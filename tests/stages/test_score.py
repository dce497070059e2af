"""`fairway score`: what `evaluate` reports of the same documents, from files of any kind; bad input is one line."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
import torch.nn.functional as F
from pyarrow import parquet

from pipeline.corpus.corpora import text_digest
from pipeline.corpus.prepare import split_of
from pipeline.data.tokenizer import load_tokenizer
from pipeline.model.checkpoint import load_checkpoint
from pipeline.scoring.ledger import load_ledger
from tests.stages.conftest import TINY, Project
from tests.stages.test_cli import fairway

SEED = "artifacts/seeds/1"
CHECKPOINT = f"{SEED}/train/checkpoint.safetensors"


@pytest.fixture(scope="module")
def val(finished: Project, tmp_path_factory) -> Path:
    """Return a .jsonl of the documents that `prepare` held out, in their order."""
    lines = (finished.root / "corpus/documents.jsonl").read_text().splitlines(keepends=True)
    held_out = [
        line for line in lines if split_of(text_digest(json.loads(line)["text"]), TINY["data"]["val_frac"]) == "val"
    ]
    path = tmp_path_factory.mktemp("val") / "val.jsonl"
    path.write_text("".join(held_out))
    return path


def scored(project: Project, *options: str) -> dict:
    return json.loads(project.run("fairway", "score", "--json", *options).stdout)


def evaluated(project: Project, item: str) -> dict:
    return json.loads((project.root / SEED / f"evaluate/scores-{item}.json").read_text())


@pytest.mark.parametrize("item", ["float", "blocks", "sliding", "ttt"])
def test_joined_val_documents_score_what_evaluate_reports_to_the_last_bit(item, finished: Project, val: Path) -> None:
    source = ["--model", CHECKPOINT] if item == "float" else []
    found, expected = scored(finished, str(val), "--joined", "--protocol", item, *source), evaluated(finished, item)
    assert found["total"]["bpb"] == expected["val_bpb"]
    assert (found["total"]["nats"], found["total"]["bytes"]) == (expected["nats"], expected["bytes"])
    assert found["total"]["documents"] == expected["per_document"]["documents"]
    assert max(each["bpb"] for each in found["documents"]) == pytest.approx(expected["per_document"]["bpb_worst"])
    assert found["protocol"] == expected["protocol"]


def test_the_dearest_tokens_are_those_of_the_ledger(finished: Project, val: Path) -> None:
    ledger = load_ledger(finished.root / SEED / "evaluate/ledger-sliding.npz")
    found = scored(finished, str(val), "--joined", "--protocol", "sliding", "--dearest", "20")["dearest"]
    np.testing.assert_allclose([each["bits"] for each in found], np.sort(ledger.nats)[:-21:-1] / math.log(2))


@torch.no_grad()
def test_a_document_alone_costs_the_nats_of_a_loop_in_plain_torch(finished: Project, tmp_path: Path) -> None:
    text = "tea for two, \u00e9t\u00e9 and 42"
    path = tmp_path / "text.txt"
    path.write_text(text)
    tokens = load_tokenizer(finished.root / "artifacts/data/tokenizer.model").encode(text, add_bos=True)
    model = load_checkpoint(finished.root / CHECKPOINT).eval()
    logits_TV = model(torch.tensor([tokens[:-1]]))[0]
    assert len(tokens) <= model.config.context_tokens, "shorter than one sequence"
    nats = float(F.cross_entropy(logits_TV, torch.tensor(tokens[1:]), reduction="sum"))
    (document,) = scored(finished, str(path), "--model", CHECKPOINT)["documents"]
    assert document == {
        "name": str(path),
        "text_bytes": len(text.encode()),
        "bytes": len(text.encode()),
        "tokens": len(tokens) - 1,
        "nats": pytest.approx(nats, rel=1e-5),  # float32 sums of another order
        "bpb": pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5),
    }


def test_files_separators_and_stdin_are_documents_alike(finished: Project, tmp_path: Path) -> None:
    parts = ["tea for two", "one ant", "nine hens sat"]
    (tmp_path / "parts.txt").write_text("\n\n".join(parts))
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_text(part)
    (tmp_path / "folder").mkdir()
    parquet.write_table(pyarrow.table({"body": parts}), tmp_path / "folder/rows.parquet")
    ways = {
        "parts": [str(tmp_path / "parts.txt"), "--separator", r"\n\n"],
        "lines": [str(tmp_path / "lines.jsonl")],
        "files": [str(tmp_path / f"{number}.txt") for number in range(3)],
        "rows": [str(tmp_path / "folder"), "--text-field", "body"],
    }
    found = {way: scored(finished, *options) for way, options in ways.items()}
    figures = [
        [(each["bytes"], each["tokens"], each["nats"]) for each in report["documents"]] for report in found.values()
    ]
    assert figures[0] == figures[1] == figures[2] == figures[3]
    assert [each["name"] for each in found["parts"]["documents"]] == [f"{tmp_path}/parts.txt#{n}" for n in (1, 2, 3)]
    whole = scored(finished, str(tmp_path / "parts.txt"))["documents"]
    assert [each["name"] for each in whole] == [f"{tmp_path}/parts.txt"]


def test_the_table_and_the_notes(finished: Project, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("tea for two\n")
    done = finished.run("fairway", "score", str(tmp_path / "a.txt"), "--dearest", "2")
    head, row, note, blank, dearest, *tokens = done.stdout.splitlines()
    assert (head.split()[0], blank, len(tokens)) == ("document", "", 2)
    assert re.match(r"\S+/a\.txt +11 +\d+ +\d\.\d{4}$", row)
    assert note == "bytes are those of the text as its tokenizer reads it: 11 of 12"
    assert dearest.split()[:3] == ["bits", "document", "token"]
    assert done.stderr.startswith(f"model {SEED}/quantize/model.fwy | cpu\ntokenizer artifacts/data/tokenizer.model\n")


def test_stdin_is_read(finished: Project) -> None:
    command = [sys.executable, "-m", "stages.cli", "score", "-", "--json"]
    done = subprocess.run(command, input=b"tea", cwd=finished.root, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["documents"][0]["bytes"] == 3
    done = subprocess.run(command, input=b"", cwd=finished.root, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"fairway: error: -: no text to score; expected at least one document that is not blank\n"


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", [], "{path}: no text to score; expected at least one document that is not blank"),
        (b" \n", [], "{path}: no text to score"),
        ("\u200b".encode(), [], "{path}: nothing is left of the text in artifacts/data/tokenizer.model; score another"),
        (b"\xff\xfe", [], "{path}: not UTF-8 at byte 0; convert the file to UTF-8"),
        (b"a", ["--separator", ""], "--separator: got '', expected at least one character"),
        (
            b"a",
            ["--protocol", "slidin"],
            "--protocol: got 'slidin', expected one of float, blocks, sliding, ttt, of par",
        ),
        (b"a", ["--model", "artifacts/data"], "SOURCE: artifacts/data/ holds neither"),
        (
            b"a",
            ["--protocol", "ttt", "--model", CHECKPOINT],
            "protocol.mixture: got 'document', expected null or one of",
        ),
        (b"a", ["nowhere.txt"], "FILE: got 'nowhere.txt', which names no file"),
        (
            b"a",
            ["pipeline"],
            "FILE: got 'pipeline', a folder without a file that ends in .txt, .jsonl, .jsonl.zst, .parq",
        ),
        (
            b"a",
            ["corpus", "--text-field", "txt"],
            "corpus/documents.jsonl, line 1: no field 'txt' with a string (fields: ",
        ),
    ],
)
def test_bad_input_is_one_line(content, options, says, finished: Project, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    done = finished.run("fairway", "score", str(path), *options, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"fairway: error: {says.format(path=path)}")
    assert "Traceback" not in done.stderr


def test_wrong_usage_exits_2(repo: Path) -> None:
    assert fairway("score", cwd=repo).returncode == 2
    assert fairway("score", "README.md", "--dearest", "-1", cwd=repo).returncode == 2
