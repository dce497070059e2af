"""The record folder, assembled from reports and files: nothing in it is typed by hand.

The one idea: the folder is a pure function of its inputs. Every number is computed from the seeds' reports or measured
on the file that ships; keys are sorted, the date is a parameter, and nothing depends on where or when it is assembled,
so that equal inputs give an equal `folder_digest`. The folder appears whole or not at all.

Checked by: tests/record/test_record.py.
"""

import ast
import dataclasses
import hashlib
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.files import atomic_folder, files_below, sha256_of_file
from pipeline.quant.config import BudgetConfig
from pipeline.record.build import check_budget
from pipeline.record.config import PackageConfig
from pipeline.record.readme import readme_text
from pipeline.record.ship import unwrap
from pipeline.record.significance import comparison_fields
from pipeline.record.statements import evaluation_seconds, log_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRun:
    """What one seed's stages left behind."""

    seed: int
    """The training seed."""
    artifact: Path
    """The quantized model."""
    train: dict
    """Report of train."""
    calibrate: dict
    """Report of calibrate."""
    quantize: dict
    """Report of quantize."""
    scores: dict[str, dict]
    """Score reports of `float` and of the record's item."""
    log: str
    """What training logged."""


def assemble(
    folder: Path,
    config: PackageConfig,
    budget: BudgetConfig,
    *,
    code: bytes,
    human_code: str,
    runs: Sequence[SeedRun],
    tokenizer: Path,
    headline: str,
    versions: Mapping[str, str],
    digests: Mapping[str, str],
    fingerprints: Mapping[str, str],
    config_digests: Mapping[int, str],
    prove: Callable[[Path], None],
) -> dict[str, Any]:
    """Write the record folder and return the fields of its submission.json.

    `code`: the bytes of train_gpt.py; `human_code`: its readable source; `headline`: the item whose score is the
    record's; `versions`: installed version of every package in `imported_packages(code)`; `digests`: further hex sha256
    by name for the logs (val shards); `fingerprints`: of the shards of each split (`data.manifest.fingerprint`);
    `config_digests`: of the recipe with each seed, by seed.
    `prove` is called with the complete folder before it takes its final name
    and raises when the folder does not hold what it says. An older folder is replaced.
    Raises ValueError when a size limit is exceeded or a report does not belong to its file.
    """
    _check_runs(runs, headline)
    check_budget(budget, len(code), {run.seed: run.artifact.stat().st_size for run in runs})
    with atomic_folder(folder) as partial:
        (partial / "train_gpt.py").write_bytes(code)
        _write_text(partial / "train_gpt_human.py", human_code)
        _write_text(partial / "requirements.txt", requirements_text(code, versions))
        (partial / "tokenizers").mkdir()
        shutil.copyfile(tokenizer, partial / "tokenizers" / tokenizer.name)
        shared_digests = {**digests, "train_gpt.py": hashlib.sha256(code).hexdigest()}
        shared_digests[tokenizer.name] = sha256_of_file(tokenizer)
        for run in runs:
            seed_digests = {**shared_digests, "config": config_digests[run.seed]}
            _write_seed(partial, run, artifact_name(runs, run.seed), code, seed_digests)
        submission = submission_fields(config, budget, len(code), runs, headline, fingerprints)
        _write_text(
            partial / "submission.json", json.dumps(submission, indent=2, sort_keys=True, allow_nan=False) + "\n"
        )
        readme = readme_text(
            submission,
            protocols={item: score["protocol"] for item, score in runs[0].scores.items()},
            scores={run.seed: run.scores for run in runs},
            file_bytes=_file_bytes(partial),
            artifacts={run.seed: artifact_name(runs, run.seed) for run in runs},
            tokenizer=f"tokenizers/{tokenizer.name}",
            num_processes=runs[0].train["num_processes"],
            unwrapped_bytes=len(unwrap(code).encode()),
            imports={run.seed: run.train["imported"] for run in runs if run.train["imported"]},
        )
        _write_text(partial / "README.md", readme)
        prove(partial)
    return submission


def _write_seed(folder: Path, run: SeedRun, name: str, code: bytes, digests: Mapping[str, str]) -> None:
    """Copy one seed's artifact into the folder and write its log."""
    artifact = folder / name
    shutil.copyfile(run.artifact, artifact)
    _check_artifact(artifact, run)
    seed_log = log_lines(
        run.log,
        list(run.scores.values()),
        code_bytes=len(code),
        unwrapped_bytes=len(unwrap(code).encode()),
        artifact_bytes=artifact.stat().st_size,
        digests={**digests, name: sha256_of_file(artifact)},
    )
    _write_text(folder / f"train_seed{run.seed}.log", seed_log)


def artifact_name(runs: Sequence[SeedRun], seed: int) -> str:
    """Return the artifact's file name in the folder: plain when the record has one seed."""
    return "model.fwy" if len(runs) == 1 else f"model_seed{seed}.fwy"


def submission_fields(
    config: PackageConfig,
    budget: BudgetConfig,
    code_bytes: int,
    runs: Sequence[SeedRun],
    headline: str,
    fingerprints: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fields of submission.json; what needs a baseline, or an audit, is null where there is none."""
    results = {str(run.seed): seed_result(run, headline) for run in runs}
    losses = [result["val_loss"] for result in results.values()]
    bpbs = [result["val_bpb"] for result in results.values()]
    bytes_total = code_bytes + max(result["artifact_bytes"] for result in results.values())
    return {
        "author": config.author,
        "github_id": config.github_id,
        "name": config.name,
        "blurb": config.blurb,
        "date": config.date,
        "track": config.track,
        "val_loss": statistics.fmean(losses),
        "val_bpb": statistics.fmean(bpbs),
        "val_loss_std": _sample_std(losses),
        "val_bpb_std": _sample_std(bpbs),
        "seeds": [run.seed for run in runs],
        "seed_results": results,
        "bytes_total": bytes_total,
        "bytes_code": code_bytes,
        "data_fingerprints": dict(fingerprints),
        "hardware": _distinct(run.train["hardware"] for run in runs),
        "pytorch_version": _distinct(run.train["torch_version"] for run in runs),
        "comparison_baseline": None if config.baseline is None else dataclasses.asdict(config.baseline),
        **comparison_fields(losses, config.baseline.val_losses if config.baseline else ()),
        "all_runs": [
            {"seed": run.seed, **{key: results[str(run.seed)][key] for key in ("val_loss", "val_bpb")}} for run in runs
        ],
        "compliance": {
            "headline_item": headline,
            "headline_protocol": dict(runs[0].scores[headline]["protocol"]),
            "limit_bytes": budget.limit_bytes,
            "within_limit": bytes_total <= budget.limit_bytes,
            "train_seconds_max": max(run.train["seconds"] for run in runs),
            "eval_seconds_max": max(evaluation_seconds(list(run.scores.values())) for run in runs),
        },
        "audit": {"version": None, "checks": []},
    }


def seed_result(run: SeedRun, headline: str) -> dict[str, Any]:
    """Return one seed's entry of submission.json, computed from its reports."""
    score, before = run.scores[headline], run.scores["float"]
    return {
        "val_loss": score["val_loss"],
        "val_bpb": score["val_bpb"],
        "pre_quant_val_bpb": before["val_bpb"],
        "quantized_val_bpb": score["val_bpb"] if score["protocol"] == before["protocol"] else None,
        "artifact_bytes": run.quantize["artifact_bytes"],
        "artifact_sha256": run.quantize["artifact_sha256"],
        "precision": run.train["precision"],
        "steps": run.train["steps"],
        "ended_by": run.train["ended_by"],
        "step_avg_ms": run.train["step_avg_ms"],
        "train_wallclock_ms": round(1000 * run.train["seconds"]),
        "calibration_ms": round(1000 * run.calibrate["seconds"]),
        "eval_time_s": evaluation_seconds(list(run.scores.values())),
        "val_tokens": score["tokens"],
        "target_tokens": score["targets"],
        "eval_bytes": score["bytes"],
    }


def imported_packages(code: bytes) -> list[str]:
    """Return the third-party packages that a train_gpt.py imports, wrapped or not, sorted."""
    source = unwrap(code)
    modules = set() if source.encode() == code else {"brotli"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).partition(".")[0])
    return sorted(modules - sys.stdlib_module_names)


def requirements_text(code: bytes, versions: Mapping[str, str]) -> str:
    """Return requirements.txt: each imported package at its exact version, a build's local suffix (+cpu) left out."""
    return "".join(f"{name}=={versions[name].partition('+')[0]}\n" for name in imported_packages(code))


def _file_bytes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files_below(folder))}


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())  # not write_text: line ends must not depend on the platform


def _check_runs(runs: Sequence[SeedRun], headline: str) -> None:
    seeds = [run.seed for run in runs]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: got {seeds}, expected at least one, each once")
    for run in runs:
        if run.scores.get(headline, {}).get("weights") != "artifact":
            raise ValueError(
                f"evaluate.items: got {list(run.scores)} for seed {run.seed}, "
                f"expected {headline!r} among them, scored on the artifact: it is the record's score"
            )


def _check_artifact(artifact: Path, run: SeedRun) -> None:
    if sha256_of_file(artifact) != run.quantize["artifact_sha256"]:
        raise ValueError(f"{run.artifact.name} of seed {run.seed}: not the file its report describes; quantize again")


def _sample_std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _distinct(values: Iterator[str]) -> str:
    return "; ".join(dict.fromkeys(values))
