"""The whole course at toy size: what runs, what reruns, what the record reproduces, what bad input says."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.artifacts import ROOT
from pipeline.base.files import folder_digest
from pipeline.model.checkpoint import load_checkpoint
from pipeline.scoring.ledger import load_ledger
from tests.scoring.scoring_toys import PHASED
from tests.stages.conftest import TINY, make_project, unfolded

EVALUATIONS = {"evaluate@1-blocks", "evaluate@1-sliding", "evaluate@1-ttt"}
ARTIFACTS = ROOT
SEED = "seeds/1"
LIMIT = TINY["budget"]["limit_bytes"]
BUDGET = LIMIT - TINY["budget"]["code_reserve_bytes"]
TOLERANCE = TINY["budget"]["tolerance_frac"] * LIMIT


def scores(project, item: str) -> dict:
    """Return the score report of an item of seed 1."""
    return json.loads((project.root / ARTIFACTS / SEED / f"evaluate/scores-{item}.json").read_text())


def submission_of(project) -> dict:
    """Return the statements of the audited record."""
    return json.loads((project.root / ARTIFACTS / "submission/submission.json").read_text())


def test_every_stage_leaves_its_outputs(finished):
    root = finished.root / ARTIFACTS
    manifest = json.loads((root / "data/manifest.json").read_text())
    report = json.loads((root / SEED / "train/report.json").read_text())
    quantized = json.loads((root / SEED / "quantize/report.json").read_text())
    rows = list(csv.DictReader((root / SEED / "train/curve.csv").read_text().splitlines()))
    assert manifest["splits"]["val"]["targets"] == scores(finished, "sliding")["targets"]
    assert manifest["splits"]["val"]["bytes"] == scores(finished, "ttt")["bytes"]
    assert report["steps"] == 6 == int(rows[-1]["step"])
    assert quantized["artifact_bytes"] == (root / SEED / "quantize/model.fwy").stat().st_size
    assert quantized["budget"]["reached"]
    assert {layer["role"] for layer in quantized["layers"]} == {"matrix", "table", "embedding"}
    assert load_checkpoint(root / SEED / "train/checkpoint.safetensors").config.model_dim == 32


def test_scores_are_those_of_their_ledgers_and_the_gap_is_small(finished):
    for item in ("float", "blocks", "sliding", "ttt"):
        ledger = load_ledger(finished.root / ARTIFACTS / SEED / f"evaluate/ledger-{item}.npz")
        assert ledger.val_bpb == scores(finished, item)["val_bpb"]
    # Six steps leave a model near its initialisation; a quantizer that loses more than this is broken.
    assert abs(scores(finished, "blocks")["val_bpb"] - scores(finished, "float")["val_bpb"]) < 0.03
    assert scores(finished, "float")["weights"] == "float"


def test_code_and_artifact_land_just_below_the_limit(finished):
    submission = submission_of(finished)
    assert submission["bytes_total"] <= LIMIT
    code = (finished.root / ARTIFACTS / "submission/train_gpt.py").stat().st_size
    artifact = (finished.root / ARTIFACTS / "submission/model.fwy").stat().st_size
    assert submission["bytes_total"] == code + artifact
    assert BUDGET - TOLERANCE <= artifact <= BUDGET


def test_report_ends_with_the_table(finished):
    printed = finished.run("fairway", "report").stdout
    words = " ".join(printed.split())
    for text in ("float", "ttt", "blocks", "sliding", "artifact bytes", "of them code", "unigram", "audit pass"):
        assert text in words
    assert printed.rstrip().endswith("artifacts/submission/")
    result = json.loads(finished.run("fairway", "report", "--json").stdout)
    assert result["seeds"][0]["ttt_bpb"] == scores(finished, "ttt")["val_bpb"]


def test_metrics_and_plots_show_scores_and_curve(project):
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    files = {Path(name).relative_to(ARTIFACTS).as_posix(): entry["data"] for name, entry in metrics.items()}
    assert set(files) == {"metrics/1.json", "audit/metrics.json"}
    assert not any(isinstance(value, dict | list) for figures in files.values() for value in figures.values())
    figures, submission = files["metrics/1.json"], submission_of(project)
    assert figures["sliding_bpb"] == scores(project, "sliding")["val_bpb"]
    assert figures["headline_bpb"] == figures["ttt_bpb"] == submission["val_bpb"]
    assert figures["gap_mbpb"] == 1000 * (figures["blocks_bpb"] - figures["float_bpb"])
    assert files["audit/metrics.json"]["verdict"] == "pass"
    assert files["audit/metrics.json"]["total_bytes"] == submission["bytes_total"]
    assert files["audit/metrics.json"]["code_bytes"] == submission["bytes_code"]
    assert files["audit/metrics.json"]["audit_seconds"] > 0
    assert {f"{stage}_seconds" for stage in ("train", "calibrate", "quantize", "evaluate")} <= figures.keys()
    project.run("dvc", "plots", "show", "-o", "plots")
    first_loss = (project.root / ARTIFACTS / SEED / "train/curve.csv").read_text().splitlines()[1].split(",")[1]
    assert first_loss[:12] in (project.root / "plots/index.html").read_text()


def test_a_second_repro_runs_nothing(project):
    assert project.repro() == []


@pytest.mark.slow
def test_a_quantize_parameter_reruns_quantize_evaluate_and_package(project):
    project.edit(quantize={"damp_frac": 0.02})
    assert set(project.repro("package")) == {"quantize@1", *EVALUATIONS, "package"}


@pytest.mark.slow
def test_the_smallest_program_is_proven_like_the_readable_one(project):
    project.edit(package={"readable": False})
    assert project.repro("package") == ["package"]
    record = project.root / ARTIFACTS / "package"
    assert (record / "train_gpt.py").stat().st_size < 0.3 * (record / "train_gpt_human.py").stat().st_size
    submission = json.loads((record / "submission.json").read_text())
    assert submission["val_bpb"] == scores(project, "ttt")["val_bpb"]


@pytest.mark.slow
def test_the_smallest_program_is_audited_like_the_readable_one(project):
    project.edit(package={"readable": False})
    assert project.repro() == ["package", "audit"]


def test_a_protocol_reruns_its_own_item_and_package(project):
    project.edit(
        evaluate={
            "protocols": {**_protocols(project), "blocks": {"kind": "blocks", "context_tokens": 16, "mixture": None}}
        }
    )
    assert set(project.would_run("package")) == {"evaluate@1-blocks", "package"}


def test_a_protocol_without_a_context_has_the_models_and_no_other(project):
    assert scores(project, "blocks")["protocol"]["context_tokens"] == TINY["model"]["context_tokens"]
    project.edit(model={"context_tokens": 16})
    done = project.run("fairway", "evaluate", "--seed", "1", "--item", "blocks", check=False)
    says = "model.context_tokens: got 16, expected 32, as in artifacts/seeds/1/quantize/model.fwy; run `dvc repro`"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"fairway: error: {says}")


def _protocols(project) -> dict:
    return project.yaml.load((project.root / "params.yaml").read_text())["evaluate"]["protocols"]


def test_editing_the_scorer_touches_no_model(project):
    with open(project.root / "pipeline/scoring/windows.py", "a") as file:
        file.write("# edited\n")
    assert project.changed() == {"evaluate-float@1", *EVALUATIONS, "package"}


def test_editing_the_quantizer_never_retrains(project):
    with open(project.root / "pipeline/quant/gptq.py", "a") as file:
        file.write("# edited\n")
    changed = project.changed()
    assert "quantize@1" in changed
    assert not changed & {"prepare", "train@1", "evaluate-float@1"}


def test_what_removed_seeds_and_items_left_reaches_no_record_and_nothing_is_proven_twice(project):
    """DVC hashes the folder of all seeds: leftovers would make package and audit run again where they do not lie."""
    seeds, before = project.root / ARTIFACTS / "seeds", (project.root / "dvc.lock").read_text()
    leftovers = ["9/train/checkpoint.safetensors", "1/evaluate/scores-old.json", "1/evaluate/ledger-old.npz", "1/notes"]
    for name in leftovers:
        (seeds / name).parent.mkdir(parents=True, exist_ok=True)
        (seeds / name).write_text(name)
    assert project.changed() == {"metrics@1", "package", "audit"}
    done = project.run("dvc", "repro")
    ran = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'metrics@1':"]
    again = project.run("dvc", "repro", "-s", "-f", "package").stderr
    assert "seed 1 (1 of 1) was proven before" in again
    assert (project.root / "dvc.lock").read_text() == before
    assert project.changed() == set()
    for name in leftovers:
        assert not (seeds / name).exists()
        assert (project.root / ARTIFACTS / "state/removed" / name).read_text() == name
    assert not (seeds / "9").exists()


@pytest.mark.slow
def test_a_seed_added_is_the_only_one_proven_and_a_clone_without_the_removed_one_runs_nothing(project, tmp_path: Path):
    for number in (2, 3):
        project.edit(seeds=list(range(1, number + 1)))
        stderr = project.run("dvc", "repro").stderr
    assert stderr.count("was proven before") == 2
    project.edit(seeds=[1, 3])
    project.run("dvc", "repro")
    project.run("git", "add", ".")
    project.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "seeds 1 and 3")
    project.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    project.run("dvc", "push")
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = project.at(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    clone.run("dvc", "pull")
    assert clone.repro() == []


def test_packaging_in_another_clone_gives_the_same_folder(finished, tmp_path: Path):
    clone = make_project(tmp_path / "elsewhere" / "clone", finished.programs)
    shutil.copytree(finished.root / ARTIFACTS, clone.root / ARTIFACTS, symlinks=True)
    shutil.rmtree(clone.root / ARTIFACTS / "package")
    clone.run("fairway", "package")
    assert folder_digest(clone.root / ARTIFACTS / "package") == folder_digest(finished.root / ARTIFACTS / "package")


def test_the_record_states_what_its_files_hold(finished):
    *lines, last = unfolded(finished.run("fairway", "verify").stdout).splitlines()
    assert {re.split(" {2,}", line)[0] for line in lines} == {"agreement"}
    assert re.fullmatch(r"compared (\d+) of \1 statements, 0 contradictions", last)


def test_a_record_that_contradicts_itself_is_not_packaged(project):
    path = project.root / ARTIFACTS / SEED / "evaluate/scores-ttt.json"
    score = json.loads(path.read_text())
    path.write_text(json.dumps({**score, "bytes": score["bytes"] + 9}))
    failed = project.run("fairway", "package", check=False)
    assert failed.returncode == 1
    assert "implied bytes: seed_results.1.eval_bytes" in failed.stderr


@pytest.fixture
def alone(finished, tmp_path: Path) -> Path:
    """Return an empty folder with nothing but train_gpt.py, the tokenizer and the data."""
    record = tmp_path / "record"
    shutil.copytree(finished.root / ARTIFACTS / "data", record / "data")
    shutil.copytree(finished.root / ARTIFACTS / "submission/tokenizers", record / "tokenizers")
    shutil.copyfile(finished.root / ARTIFACTS / "submission/train_gpt.py", record / "train_gpt.py")
    return record


def test_the_record_trains_from_scratch_to_the_same_artifact(finished, alone: Path):
    printed = finished.at(alone).run(sys.executable, "-I", "train_gpt.py").stdout
    ours = (finished.root / ARTIFACTS / SEED / "quantize/model.fwy").read_bytes()
    assert (alone / "model.fwy").read_bytes() == ours
    log = (finished.root / ARTIFACTS / "submission/train_seed1.log").read_text().splitlines()
    final = [line for line in log if line.startswith("final_")]
    assert final == [line for line in printed.splitlines() if line.startswith("final_")]
    assert len(final) == 1


def test_the_record_trains_under_torchrun_on_two_processes(finished, alone: Path):
    command = ["torchrun", "--standalone", "--nproc_per_node=2", "train_gpt.py", "--seed", "1"]
    printed = finished.at(alone).run(*command).stdout
    two = float(printed.split("final_ttt_document_mixture_exact val_loss:")[1].split()[0])
    # Six bf16 steps on a tiny model: rank gradients round before they are averaged.
    assert two == pytest.approx(scores(finished, "ttt")["val_loss"], abs=0.02)
    assert (alone / "model.fwy").stat().st_size <= BUDGET


def test_the_train_stage_runs_on_two_processes(project):
    project.edit(launch={"num_processes": 2})
    project.run("fairway", "train", "--seed", "1")
    report = json.loads((project.root / ARTIFACTS / SEED / "train/report.json").read_text())
    assert report["num_processes"] == 2
    assert report["steps"] == 6


def ledger_bytes(project, item: str) -> bytes:
    return (project.root / ARTIFACTS / SEED / f"evaluate/ledger-{item}.npz").read_bytes()


@pytest.mark.parametrize("item", ["float", "ttt"])
def test_the_evaluate_stage_writes_one_ledger_on_one_and_two_processes(project, item: str):
    alone, report = ledger_bytes(project, item), scores(project, item)
    project.edit(launch={"num_processes": 2})
    project.run("fairway", "evaluate", "--seed", "1", "--item", item)
    assert ledger_bytes(project, item) == alone
    again = scores(project, item)
    assert (report["num_processes"], again["num_processes"]) == (1, 2)
    assert again["per_document"] == report["per_document"]
    assert set(again["seconds"]) == {"decode", "load", "compile", "score", "total"}
    assert sum(again["seconds"].values()) <= 2 * again["seconds"]["total"]


def test_documents_and_adapters_are_scored_by_stage_and_record_alike(project, tmp_path: Path):
    documents = {"documents": True, "bos_id": 1, "context_tokens": 32, "mixture": None}
    rule = {"chunk_tokens": 16, "batch_documents": 4, "rank": 2, "learning_rate": 0.001, "beta1": 0.0, "beta2": 0.999}
    project.edit(
        evaluate={
            "items": ["blocks", "documents", "lora", "phased"],
            "protocols": {
                **_protocols(project),
                "documents": {"kind": "blocks", **documents},
                "lora": {"kind": "lora-ttt", **documents, **rule, "eps": 1e-8},
                "phased": {**PHASED, "context_tokens": 32, "short_chunks": [[4, 2], [12, 4]]},
            },
        }
    )
    evaluated = {f"evaluate@1-{item}" for item in ("documents", "lora", "phased")}
    assert set(project.repro("package")) == {*evaluated, "package"}
    log = (project.root / ARTIFACTS / "package/train_seed1.log").read_text()
    assert [line.split()[0] for line in log.splitlines() if line.startswith("final_")] == ["final_ttt_phased_exact"]
    readme = (project.root / ARTIFACTS / "package/README.md").read_text()
    assert "3 documents in a row hand on the first matrices of their adapters. Once the first 4 documents" in readme


def test_the_record_scores_the_same_on_two_processes(finished, alone: Path):
    shutil.copyfile(finished.root / ARTIFACTS / "submission/model.fwy", alone / "model.fwy")
    printed, columns = [], []
    for launcher in ([sys.executable, "-I"], ["torchrun", "--standalone", "--nproc_per_node=2"]):
        options = ["train_gpt.py", "--evaluate-only", "model.fwy", "--ledger", "ledger"]
        printed.append(finished.at(alone).run(*launcher, *options).stdout.splitlines())
        with np.load(alone / "ledger/ttt.npz") as rows:
            columns.append({name: rows[name].tobytes() for name in rows.files})
        shutil.rmtree(alone / "ledger")
    timeless = [[line for line in lines if not line.startswith("total_eval_time")] for lines in printed]
    assert timeless[0] == timeless[1]
    assert columns[0] == columns[1]


def test_scoring_that_cannot_meet_its_limit_stops_in_one_line(project):
    before = ledger_bytes(project, "ttt")
    project.edit(evaluate={"limit_seconds": 0.001})
    message = fails(project, "fairway", "evaluate", "--seed", "1", "--item", "ttt")
    assert "scoring stopped after" in message
    assert "evaluate.limit_seconds is 0.001" in message
    assert ledger_bytes(project, "ttt") == before


def fails(project, *command: str) -> str:
    """Run a command that must exit 1 with exactly one error line and return that line."""
    done = project.run(*command, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("fairway: error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


@pytest.fixture
def shard(project) -> Path:
    """Return the first train shard, as a plain file that may be damaged."""
    path = project.root / ARTIFACTS / "data/train/train_000000.bin"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def _corrupt_token(content: bytes) -> bytes:
    tokens = np.frombuffer(content, "<u2").copy()
    tokens[512 + 100] = 9999
    return tokens.tobytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-10], "train_000000.bin"),
        (lambda content: b"\x00\x00\x00\x00" + content[4:], "20240520"),
        (_corrupt_token, "9999"),
    ],
    ids=["truncated", "wrong magic", "token beyond the vocabulary"],
)
def test_a_damaged_shard_stops_training_in_one_line(project, shard: Path, damage, message: str):
    checkpoint = project.root / ARTIFACTS / SEED / "train/checkpoint.safetensors"
    before = checkpoint.read_bytes()
    shard.write_bytes(damage(shard.read_bytes()))
    line = fails(project, "fairway", "train", "--seed", "1")
    assert message in line
    assert "dvc repro" in line
    assert checkpoint.read_bytes() == before
    assert not list(checkpoint.parent.glob("*.partial"))


def test_a_missing_shard_folder_names_the_remedy(project):
    shutil.rmtree(project.root / ARTIFACTS / "data/train")
    assert "prepare" in fails(project, "fairway", "train", "--seed", "1")


def test_a_damaged_shard_under_torchrun_is_one_line(project, shard: Path):
    shard.write_bytes(shard.read_bytes()[:-10])
    project.edit(launch={"num_processes": 2})
    assert "train_000000.bin" in fails(project, "fairway", "train", "--seed", "1")


def test_an_empty_corpus_is_one_line_and_leaves_nothing(project):
    (project.root / "corpus/documents.jsonl").write_text("")
    shutil.rmtree(project.root / ARTIFACTS)
    line = fails(project, "fairway", "prepare")
    assert "corpus" in line
    assert not [path for path in (project.root / ARTIFACTS).rglob("*") if path.is_file()]


def test_a_budget_too_small_names_one_that_works(project):
    model = project.root / ARTIFACTS / SEED / "quantize/model.fwy"
    before = model.read_bytes()
    project.edit(budget={"limit_bytes": LIMIT - BUDGET + 1000})
    line = fails(project, "fairway", "quantize", "--seed", "1")
    needed = int(line.split("raise budget.limit_bytes to at least ")[1].split()[0])
    assert model.read_bytes() == before
    project.edit(budget={"limit_bytes": needed})
    project.run("fairway", "quantize", "--seed", "1")


def test_code_larger_than_its_reserve_names_the_reserve(project):
    project.edit(budget={"code_reserve_bytes": 1000})
    line = fails(project, "fairway", "package")
    assert "budget.code_reserve_bytes: got 1000, expected at least" in line
    assert (project.root / ARTIFACTS / "package/train_gpt.py").exists()


def test_a_config_that_does_not_match_the_artifact_is_one_line(project):
    project.edit(model={"model_dim": 64})
    assert "model.model_dim: got 64, expected 32" in fails(project, "fairway", "package")


def test_a_vocabulary_that_does_not_match_the_shards_is_one_line(project):
    project.edit(model={"vocab_size": 300})
    assert "300" in fails(project, "fairway", "train", "--seed", "1")


def test_hessians_of_another_checkpoint_are_refused(project):
    checkpoint = project.root / ARTIFACTS / SEED / "train/checkpoint.safetensors"
    project.edit(train={"max_steps": 3})
    checkpoint.unlink()
    project.run("fairway", "train", "--seed", "1")
    assert "run `dvc repro calibrate@1`" in fails(project, "fairway", "quantize", "--seed", "1")
