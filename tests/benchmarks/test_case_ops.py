"""The benchmark of case-ops: it counts what prepare writes, trains every arm alike, and goes on where it stopped."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.case_ops import ARMS, count_tokens, train_arms
from pipeline.base.config import load_params
from tests.corpus.configs import data_config
from tests.networks import TINY, changed


@pytest.fixture(scope="module")
def data(tmp_path_factory, toy_documents):
    path = tmp_path_factory.mktemp("corpus") / "titled.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text.title()} {text}"}) + "\n" for text in toy_documents))
    return data_config(files=(str(path),), vocab_size=400)


def test_fewer_tokens_stand_for_the_same_bytes(data, tmp_path: Path) -> None:
    rows = count_tokens({"toy": data}, [400], tmp_path)["toy"]["400"]
    assert [*rows] == [*ARMS]
    assert len({row["bytes"] for row in rows.values()}) == 1
    assert rows["none"]["relative"] == 0
    assert rows["fused"]["tokens"] < rows["published"]["tokens"]


def test_runs_are_paired_by_seed_and_made_once(data, repo: Path, tmp_path: Path) -> None:
    demo = load_params(repo / "recipes" / "demo.yaml", ["data", "model", "train", "evaluate"])
    demo.model = changed(TINY, {"vocab_size": 400})
    demo.train = dataclasses.replace(demo.train, batch_tokens=256, warmup_steps=1, warmdown_frac=None, loop_stages=None)
    demo.train = dataclasses.replace(demo.train, max_seconds=None, max_steps=2)
    demo.evaluate.protocols["sliding"] = dataclasses.replace(
        demo.evaluate.protocols["sliding"], context_tokens=16, stride_tokens=8
    )
    found = train_arms(demo, "toy", data, [3], tmp_path)
    assert [(run["arm"], run["seed"], run["steps"]) for run in found["runs"]] == [(arm, 3, 2) for arm in ARMS]
    bpb = {run["arm"]: run["bpb"] for run in found["runs"]}
    assert found["difference_to_none"]["fused"]["mean"] == bpb["fused"] - bpb["none"]
    (kept,) = tmp_path.glob("toy-*/fused-3.json")
    kept.write_text(json.dumps({"arm": "fused", "seed": 3, "steps": 2, "bpb": 9.0}))
    assert train_arms(demo, "toy", data, [3], tmp_path)["difference_to_none"]["fused"]["mean"] == 9.0 - bpb["none"]
    demo.train = dataclasses.replace(demo.train, max_steps=1)
    again = train_arms(demo, "toy", data, [3], tmp_path)
    assert {run["steps"] for run in again["runs"]} == {1}, "runs by other settings"
