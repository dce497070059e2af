"""`fairway report` after any stage: what is there is shown, over the seeds, in 80 columns; nothing is made up."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.base.artifacts import path_of, write_json
from pipeline.base.config import SECTIONS, load_params
from pipeline.reports.results import report_results, results_ending, results_json, results_table
from tests.conftest import REPO
from tests.stages.conftest import Project

FLOAT = {"kind": "blocks"}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The demo's parameters with three seeds, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    params = load_params(str(REPO / "params.yaml"), SECTIONS)
    params.seeds, params.evaluate = (1, 2, 3), dataclasses.replace(params.evaluate, items=("blocks",))
    return params


def score(item: str, bpb: float, weights: str) -> dict:
    return {"item": item, "val_bpb": bpb, "weights": weights, "protocol": FLOAT, "seconds": {"total": 2.0}}


def test_after_training_there_is_training(params):
    write_json(
        path_of("train_report", seed=1), {"seconds": 9.5, "steps": 6, "model_params": 1234, "final_train_loss": 3.5}
    )
    result = report_results(params)
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
    result = json.loads(results_json(report_results(params)))
    assert [row["gap_mbpb"] for row in result["seeds"]] == [7.8125] * 3
    assert (result["mean"]["float_bpb"], result["std"]["float_bpb"]) == (1.25, 0.25)
    assert result["seeds"][0]["evaluate_seconds"] == 4.0
    table = results_table(result)
    assert max(map(len, table.splitlines())) <= 80
    assert "quantization gap, mBPB" in table
    assert "+7.81   +7.81   +7.81   +7.81       0.00" in table


def test_a_damaged_report_is_one_line(params):
    path = path_of("train_report", seed=2)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"seeds/2/train/report\.json: not valid JSON"):
        report_results(params)


def test_a_record_and_a_verdict_of_other_artifacts_are_not_shown(params):
    """As after `dvc repro metrics`: the record is that of the configuration before."""
    params.seeds = (1,)
    stated = {"bytes_code": 300, "bytes_total": 1305, "seed_results": {"1": {"artifact_sha256": "of now"}}}
    for name in ("package", "submission"):
        write_json(path_of(name) / "submission.json", stated)
    checks = [{"verdict": "pass"}, {"verdict": "alarm"}]
    files = {"model.fwy": "of now", "train_gpt.py": "any"}
    audit = {"verdict": "pass", "checks": checks, "files_sha256": files}
    write_json(path_of("audit"), audit)
    for digest, endings in (
        ("of now", ["audit   pass with 1 alarm", "record  artifacts/submission/"]),
        ("of a changed budget", ["audit   not done yet", "record  not packaged and audited yet"]),
    ):
        write_json(path_of("quantize_report", seed=1), {"artifact_bytes": 1005, "artifact_sha256": digest})
        result = report_results(params)
        assert results_table(result).splitlines()[-2:] == endings
        assert result["total_bytes"] == (1305 if digest == "of now" else None)
    write_json(path_of("audit"), {**audit, "files_sha256": {**files, "model_seed2.fwy": "of a seed no more listed"}})
    write_json(path_of("quantize_report", seed=1), {"artifact_bytes": 1005, "artifact_sha256": "of now"})
    assert report_results(params)["verdict"] is None


def test_before_any_stage_the_next_command_is_named(params):
    assert results_table(report_results(params)).startswith("nothing has run yet: `dvc repro` runs it all")
    write_json(path_of("manifest"), {"unigram_bpb": 3.5, "splits": {"val": {"bytes": 1200}}})
    assert results_table(report_results(params)).startswith("unigram 3.5000 bpb on the same 1,200 val bytes\naudit")


def test_an_audit_of_other_parameters_says_so(finished: Project, monkeypatch: pytest.MonkeyPatch):
    """The digests that reports state are those of the parameters that their stages run with, and of no others.

    The record states its headline, the last item.
    """
    monkeypatch.chdir(finished.root)

    def told(section: str, **values: object) -> tuple[str, str]:
        params = load_params("params.yaml", SECTIONS)
        setattr(params, section, dataclasses.replace(getattr(params, section), **values))
        lines = results_ending(report_results(params))
        return lines[2], lines[-1]

    sound, changed = "audit   pass", "audit   pass, outdated"
    for section, values in (("evaluate", {"batch_tokens": 96}), ("package", {"blurb": "x"})):  # no figure depends on
        assert told(section, **values) == (sound, "record  artifacts/submission/")
    for stage, section, values in (
        ("prepare", "data", {"val_frac": 0.2}),
        ("package", "evaluate", {"items": ("ttt", "sliding")}),
        ("train", "train", {"warmup_steps": 3}),
        ("train", "model", {"logit_softcap": 11.0}),
        ("calibrate", "calibrate", {"sweeps": 2}),
        ("quantize", "budget", {"limit_bytes": 431_000}),
        ("train, calibrate", "launch", {"device": "auto"}),
    ):
        assert told(section, **values) == (changed, f"outdated {stage}; run `dvc repro`")
    assert told("budget", limit_bytes=365_000, code_reserve_bytes=340_000)[0] == f"{changed}, ABOVE the limit of now"
    protocols = load_params("params.yaml", ["evaluate"]).evaluate.protocols
    finer = dataclasses.replace(protocols["sliding"], stride_tokens=8)
    assert told("evaluate", protocols={**protocols, "sliding": finer})[1].startswith("outdated evaluate;")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("manifest", "train, calibrate, evaluate"),
        ("byte_table", "evaluate"),
        ("train_report", "calibrate, quantize, evaluate"),
        ("calibrate_report", "quantize"),
        ("quantize_report", "evaluate"),
    ],
)
def test_results_of_other_files_than_are_here_are_outdated(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, stages: str
):
    """As after `fairway prepare` of another corpus: the file, or the outputs that its maker's report states, change."""
    monkeypatch.chdir(project.root)
    path, params = path_of(name, seed=1), load_params("params.yaml", SECTIONS)
    content = path.read_bytes()
    path.unlink()  # what it may link to in DVC's cache stays
    if name.endswith("report"):
        report = json.loads(content)
        outputs = dict.fromkeys(report.get("outputs_sha256", ()), "another")
        write_json(path, {**report, "outputs_sha256": outputs, "artifact_sha256": "another"})
    else:
        path.write_bytes(content + b"\n")
    assert results_ending(report_results(params))[-1] == f"outdated {stages}; run `dvc repro`"
