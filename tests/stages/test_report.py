"""`fairway report` after any stage: what is there is shown, over the seeds, in 80 columns; nothing is made up."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.base.artifacts import path_of, write_json
from pipeline.base.config import load_params
from pipeline.reports.results import results_json, results_table, run_results
from tests.conftest import REPO

FLOAT = {"kind": "blocks"}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The demo's parameters with three seeds, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    params = load_params(str(REPO / "params.yaml"), ["seeds", "evaluate", "budget"])
    params.seeds, params.evaluate = (1, 2, 3), dataclasses.replace(params.evaluate, items=("blocks",))
    return params


def score(item: str, bpb: float, weights: str) -> dict:
    return {"item": item, "val_bpb": bpb, "weights": weights, "protocol": FLOAT, "seconds": {"total": 2.0}}


def test_after_training_there_is_training(params):
    write_json(
        path_of("train_report", seed=1), {"seconds": 9.5, "steps": 6, "model_params": 1234, "final_train_loss": 3.5}
    )
    result = run_results(params)
    assert result["seeds"][0]["train_seconds"] == 9.5
    assert result["mean"]["train_seconds"] is None
    lines = results_table(result).splitlines()
    assert lines[0].split()[-8:] == ["seed", "1", "seed", "2", "seed", "3", "mean", "deviation"]
    assert [line.split()[-5:] for line in lines if line.startswith("model params")] == [["1,234", "-", "-", "-", "-"]]
    assert lines[-2:] == ["audit   not done yet", "record  not packaged and audited yet"]
    assert not any(line.startswith(("float", "artifact")) for line in lines)


def test_gap_mean_and_deviation_are_over_the_seeds(params):
    for seed, bpb in ((1, 1.5), (2, 1.25), (3, 1.0)):
        write_json(path_of("scores", seed=seed, item="float"), score("float", bpb, "float"))
        write_json(path_of("scores", seed=seed, item="blocks"), score("blocks", bpb + 0.0078125, "artifact"))
    result = json.loads(results_json(run_results(params)))
    assert [row["gap_mbpb"] for row in result["seeds"]] == [7.8125] * 3
    assert (result["mean"]["float_bpb"], result["std"]["float_bpb"]) == (1.25, 0.25)
    assert result["seeds"][0]["evaluate_seconds"] == 4.0
    table = results_table(result)
    assert max(map(len, table.splitlines())) <= 80
    assert "quantization gap, mBPB" in table
    assert "+7.81" in table


def test_a_damaged_report_is_one_line(params):
    path = path_of("train_report", seed=2)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"seeds/2/train/report\.json: not valid JSON"):
        run_results(params)


def test_a_record_and_a_verdict_of_other_artifacts_are_not_shown(params):
    """As after `dvc repro metrics`: the record is that of the configuration before."""
    params.seeds = (1,)
    stated = {"bytes_code": 300, "bytes_total": 1305, "seed_results": {"1": {"artifact_sha256": "of now"}}}
    for name in ("package", "submission"):
        write_json(path_of(name) / "submission.json", stated)
    write_json(path_of("audit"), {"verdict": "pass", "files_sha256": {"model.fwy": "of now"}})
    for digest, endings in (
        ("of now", ["audit   pass", "record  artifacts/submission/"]),
        ("of a changed budget", ["audit   not done yet", "record  not packaged and audited yet"]),
    ):
        write_json(path_of("quantize_report", seed=1), {"artifact_bytes": 1005, "artifact_sha256": digest})
        result = run_results(params)
        assert results_table(result).splitlines()[-2:] == endings
        assert result["total_bytes"] == (1305 if digest == "of now" else None)
