"""The record folder: every number from reports and files, equal inputs give equal bytes, limits are enforced."""

import dataclasses
import hashlib
import json
import os
import statistics
from pathlib import Path

import pytest
from scipy import stats

from pipeline.base.files import folder_digest, sha256_of_file
from pipeline.quant.config import BudgetConfig
from pipeline.record.build import budget_note
from pipeline.record.config import BaselineConfig, PackageConfig
from pipeline.record.record import SeedRun, assemble, imported_packages, requirements_text, seed_result
from pipeline.record.ship import wrap
from pipeline.verification.reading import read_log

CONFIG = PackageConfig(
    name="Toy record",
    author="A. Author",
    github_id="author",
    blurb="A toy.",
    date="2030-01-02",
    track="toy",
    readable=False,
    baseline=None,
)
BUDGET = BudgetConfig(limit_bytes=5_000, code_reserve_bytes=1_000, tolerance_frac=0.01)
SOURCE = "import os\nimport numpy as np\nfrom torch import nn\nprint(np, nn, os)\n"
CODE = SOURCE.encode()
VERSIONS = {"torch": "2.13.0+cpu", "numpy": "2.0.1", "brotli": "1.2.0"}


def score(kind: str, weights: str, loss: float, **settings: int) -> dict:
    return {
        "item": kind,
        "protocol": {"kind": kind, "context_tokens": 8, **settings},
        "weights": weights,
        "val_loss": loss,
        "val_bpb": loss / 2,
        "nats": loss * 99,
        "bytes": 250,
        "targets": 99,
        "tokens": 100,
        "seconds": {"total": 1.25},
    }


def make_run(home: Path, seed: int, model_bytes: int = 2_000) -> SeedRun:
    home.mkdir(parents=True, exist_ok=True)
    artifact = home / f"artifact{seed}.bin"
    artifact.write_bytes(hashlib.shake_256(str(seed).encode()).digest(model_bytes))
    loss = 3 + seed / 1000
    return SeedRun(
        seed=seed,
        artifact=artifact,
        train={
            "seed": seed,
            "device": "cpu",
            "hardware": "2 CPU cores",
            "torch_version": "2.13.0",
            "num_processes": 2,
            "model_params": 10,
            "precision": "bf16",
            "steps": 4,
            "ended_by": "steps",
            "seconds": 2.5,
            "step_avg_ms": 625.0,
            "tokens": 32,
            "final_train_loss": 3.0,
            "imported": None,
        },
        calibrate={"tokens": 64, "seconds": 0.5},
        quantize={"artifact_bytes": model_bytes, "artifact_sha256": hashlib.sha256(artifact.read_bytes()).hexdigest()},
        scores={"float": score("blocks", "float", loss - 0.5), "ttt": score("ttt", "artifact", loss, stride_tokens=4)},
        log="step:4/4 train_loss:3.0000\n",
    )


def build(home: Path, seeds: tuple[int, ...] = (7, 8), **changes) -> tuple[Path, dict]:
    tokenizer = home / "inputs" / "toy.model"
    runs = [make_run(home / "inputs", seed) for seed in seeds]
    tokenizer.write_bytes(b"pieces")
    arguments = {
        "config": CONFIG,
        "budget": BUDGET,
        "code": CODE,
        "human_code": SOURCE,
        "runs": runs,
        "tokenizer": tokenizer,
        "headline": "ttt",
        "versions": VERSIONS,
        "digests": {"val_0.bin": "aa"},
        "fingerprints": {"train": "bb", "val": "cc"},
        "config_digests": {seed: f"00{seed}" for seed in range(10)},
        "prove": lambda folder: None,
    }
    folder = home / "out" / "submission"
    return folder, assemble(folder, **{**arguments, **changes})


def test_folder_holds_the_files_and_numbers_of_the_reports(tmp_path):
    folder, submission = build(tmp_path)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == [
        "README.md",
        "model_seed7.fwy",
        "model_seed8.fwy",
        "requirements.txt",
        "submission.json",
        "tokenizers/toy.model",
        "train_gpt.py",
        "train_gpt_human.py",
        "train_seed7.log",
        "train_seed8.log",
    ]
    assert json.loads((folder / "submission.json").read_text()) == submission
    assert submission["val_loss"] == statistics.fmean([3.007, 3.008])
    assert submission["val_loss_std"] == pytest.approx(0.001 / 2**0.5)
    assert submission["bytes_total"] == len(CODE) + 2_000
    seven = submission["seed_results"]["7"]
    assert (seven["pre_quant_val_bpb"], seven["quantized_val_bpb"]) == (2.507 / 2, None)
    assert (seven["train_wallclock_ms"], seven["eval_time_s"]) == (2500, 1.25)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["submission"]


def test_the_loss_of_quantization_is_stated_where_the_headline_is_scored_like_the_float_weights(tmp_path):
    (tmp_path / "inputs").mkdir()
    run = make_run(tmp_path / "inputs", 7)
    run.scores["blocks"] = score("blocks", "artifact", 3.2)
    result = seed_result(run, "blocks")
    assert (result["pre_quant_val_bpb"], result["quantized_val_bpb"]) == (2.507 / 2, 1.6)


def test_log_states_what_ships(tmp_path):
    folder, _ = build(tmp_path, code=wrap(SOURCE))
    text = (folder / "train_seed7.log").read_text()
    (log,), size = read_log("train_seed7.log", text.encode()).runs, (folder / "train_gpt.py").stat().st_size
    assert text.startswith("step:4/4 train_loss:3.0000\n")
    assert f"\nCode size unwrapped: {len(SOURCE)} bytes\n" in text
    assert [log.last(name) for name in ("model bytes", "total bytes")] == [2000, size + 2000]
    assert [figure.value for figure in log.latest("code bytes")] == [size, len(SOURCE)]
    assert [str(line.score.val_bpb) for line in log.scores] == ["1.50350000"]
    shipped = [folder / "train_gpt.py", folder / "model_seed7.fwy", folder / "tokenizers" / "toy.model"]
    digests = {path.name: sha256_of_file(path) for path in shipped}
    assert log.digests == {"config": "007", "val_0.bin": "aa", **digests}


def test_readme_numbers_come_from_the_same_folder(tmp_path):
    folder, submission = build(tmp_path)
    text = (folder / "README.md").read_text()
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert f"| `{path.relative_to(folder).as_posix()}` | {path.stat().st_size:,} |" in text
    assert f"**val_bpb {submission['val_bpb']:.8f}**" in text
    assert "| 8 | ttt | artifact | 3.00800000 | 1.50400000 | 99 | 250 |" in text
    assert "`fairway audit FOLDER`" in text
    assert "--nproc_per_node=2 train_gpt.py --seed 8 --data DIR --tokenizer tokenizers/toy.model" in text
    assert "only after all targets of that chunk are scored" in text


def test_equal_inputs_at_other_paths_give_the_same_digest_and_a_changed_byte_does_not(tmp_path):
    first, _ = build(tmp_path / "here")
    second, _ = build(tmp_path / "somewhere" / "else")
    assert folder_digest(first) == folder_digest(second)
    again, _ = build(tmp_path / "here")
    assert folder_digest(again) == folder_digest(second)
    (second / "README.md").write_text("other")
    assert folder_digest(first) != folder_digest(second)


def test_one_seed_has_a_plain_artifact_name_and_no_deviation(tmp_path):
    folder, submission = build(tmp_path, seeds=(7,))
    assert (folder / "model.fwy").exists()
    assert submission["val_bpb_std"] is None


def test_code_over_its_reserve_names_the_parameter_and_the_value_needed(tmp_path):
    message = r"^budget.code_reserve_bytes: got 1000, expected at least 1001, .*quantize again$"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, code=b"#" * 1000 + b"\n")
    build(tmp_path, code=b"#" * 999 + b"\n")


def test_total_over_the_limit_is_refused(tmp_path):
    runs = [make_run(tmp_path / "inputs", 7, model_bytes=4_950)]
    with pytest.raises(ValueError, match=rf"budget.limit_bytes: got 5000, expected at least {4950 + len(CODE)}"):
        build(tmp_path, seeds=(), runs=runs)


@pytest.mark.parametrize("old_folder", [False, True])
def test_a_failed_proof_leaves_the_old_state(tmp_path, old_folder):
    if old_folder:
        before = folder_digest(build(tmp_path)[0])

    def fail(folder: Path) -> None:
        assert (folder / "README.md").exists()
        raise RuntimeError("scores differ")

    with pytest.raises(RuntimeError, match="scores differ"):
        build(tmp_path, seeds=(7,), prove=fail)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == (["submission"] if old_folder else [])
    assert not old_folder or folder_digest(tmp_path / "out" / "submission") == before


def test_artifact_must_be_the_one_of_its_report(tmp_path):
    run = make_run(tmp_path / "inputs", 7)
    run.artifact.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"artifact7\.bin of seed 7: not the file its report describes"):
        build(tmp_path, seeds=(), runs=[run])


@pytest.mark.parametrize(("headline", "seeds"), [("float", (7,)), ("absent", (7,)), ("ttt", (7, 7)), ("ttt", ())])
def test_runs_that_give_no_score_are_refused(tmp_path, headline, seeds):
    (tmp_path / "inputs").mkdir()
    with pytest.raises(ValueError, match=r"evaluate\.items|seeds: got"):
        build(tmp_path, seeds=seeds, headline=headline)


def test_requirements_are_what_the_file_imports():
    wrapped = wrap(SOURCE + "x = 1\n" * 400)
    assert imported_packages(CODE) == ["numpy", "torch"]
    assert imported_packages(wrapped) == ["brotli", "numpy", "torch"]
    assert requirements_text(wrapped, VERSIONS) == "brotli==1.2.0\nnumpy==2.0.1\ntorch==2.13.0\n"


def test_every_file_is_on_the_disk_before_the_folder_takes_its_name(tmp_path, monkeypatch):
    synced: list[tuple[Path, bool]] = []
    final = tmp_path / "out" / "submission"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), final.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder, _ = build(tmp_path)
    before = {path.name for path, named in synced if not named}
    assert before >= {path.name for path in folder.rglob("*")}
    assert synced[-1] == (final.parent, True)


def test_budget_note_tells_the_distance_and_only_slack_that_counts():
    assert budget_note(BUDGET, 999, 4_900) == "2.000 % below budget.limit_bytes"
    lower = "; budget.code_reserve_bytes could be 100 lower"
    assert budget_note(BUDGET, 900, 5_000) == f"0.000 % below budget.limit_bytes{lower}"


def test_seeds_are_tested_against_the_baseline(tmp_path):
    baseline = BaselineConfig(name="Last week's", val_losses=(3.020, 3.021, 3.022))
    folder, submission = build(tmp_path, (7, 8, 9), config=dataclasses.replace(CONFIG, baseline=baseline))

    losses = [submission["seed_results"][seed]["val_loss"] for seed in ("7", "8", "9")]
    for key, margin in (("p_value", 0.0), ("p_value_0005nats", 0.005)):
        shifted = [loss - margin for loss in baseline.val_losses]
        test = stats.ttest_ind(shifted, losses, equal_var=False, alternative="greater")
        assert submission[key] == pytest.approx(test.pvalue, rel=1e-9)
    assert submission["comparison_baseline"] == {"name": "Last week's", "val_losses": (3.020, 3.021, 3.022)}
    text = (folder / "README.md").read_text()
    assert "Baseline: Last week's, nats per target of its seeds: 3.02000000, 3.02100000, 3.02200000." in text
    assert f"| 0 | {submission['t_statistic']:.4f} | {submission['p_value']:.3g} | 3 |" in text


def test_one_seed_is_not_tested(tmp_path):
    baseline = BaselineConfig(name="Last week's", val_losses=(3.020, 3.021))
    folder, submission = build(tmp_path, (7,), config=dataclasses.replace(CONFIG, baseline=baseline))

    assert submission["p_value"] is None
    assert "One seed shows no spread: no test." in (folder / "README.md").read_text()
