"""The results of a run, as far as it has come: one value per seed for each figure, mean and deviation over the seeds.

The one idea: what a stage has not left behind yet is None, so that the same table serves after any of them. The gap is
what quantization costs: the artifact's bpb less the float model's, under the protocol of item `float`.

Checked by: tests/stages/test_report.py.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import params_digest, path_of, read_json
from pipeline.base.checks import counted
from pipeline.base.config import Params
from pipeline.base.files import sha256_of_file

SECONDS = ("train", "calibrate", "quantize", "evaluate")
"""Stages of a seed whose reports say how long they took."""
_DEVIATION = "deviation"
"""Column of what has no sign."""


def run_results(params: Params, run: Path = Path()) -> dict[str, Any]:
    """Return the results of all seeds and of the record of folder `run`; ValueError for a report that is damaged."""
    manifest, audit = read_report(run / path_of("manifest")) or {}, read_report(run / path_of("audit")) or {}
    rows, digests = [seed_results(params, seed, run) for seed in params.seeds], _artifact_digests(params, run)
    packaged, audited = (_record_of(digests, run / path_of(name)) for name in ("package", "submission"))
    audited_artifacts = {digest for name, digest in audit.get("files_sha256", {}).items() if name.endswith(".fwy")}
    is_audited = set(digests.values()) == audited_artifacts
    submission = audited or packaged
    return {
        "seeds": rows,
        "mean": _over_seeds(rows, statistics.fmean, 1),
        "std": _over_seeds(rows, statistics.stdev, 2),
        "unigram_bpb": manifest.get("unigram_bpb"),
        "val_bytes": manifest.get("splits", {}).get("val", {}).get("bytes"),
        "code_bytes": submission.get("bytes_code"),
        "total_bytes": submission.get("bytes_total"),
        "limit_bytes": params.budget.limit_bytes,
        "verdict": audit.get("verdict") if is_audited else None,
        "alarms": sum(check["verdict"] == "alarm" for check in audit.get("checks", [])) if is_audited else None,
        "record": str(run / path_of("submission")) if audited else None,
        "record_item": submission.get("compliance", {}).get("headline_item"),
    }


def report_results(params: Params) -> dict[str, Any]:
    """Return the results of the run in this folder, and `changed`: the stages whose results are not of what is here.

    `params`: with all sections.
    """
    results = run_results(params)
    changed = [*_changed_stages(params)]
    changed += ["package"] * (results["record_item"] not in (None, params.evaluate.headline))
    return {**results, "changed": list(dict.fromkeys(changed))}


def _changed_stages(params: Params) -> Iterator[str]:
    """Yield the stages that ran with other parameters, or on other files, than those of now; an import states none."""
    held = _held_files(params)
    for seed in params.seeds:
        for stage, path, sections in _parameters_of_reports(params, seed):
            stated = (read_report(path) or {}).get("provenance", {})
            has_others = stated.get("params_sha256") != params_digest(sections) or any(
                held.get(name, digest) != digest for name, digest in stated.get("inputs_sha256", {}).items()
            )
            if stated.get("stage") == stage and has_others:
                yield stage


def _parameters_of_reports(params: Params, seed: int) -> Iterator[tuple[str, Path, Mapping[str, object]]]:
    """Yield prepare and the stages of a seed, their reports, and the parameters whose digest these state."""
    yield "prepare", path_of("prepare_report"), {"data": params.data}
    launch = params.launch
    train = {"model": params.model, "train": params.train, "launch": launch.result_settings()}
    yield "train", path_of("train_report", seed=seed), train
    yield "calibrate", path_of("calibrate_report", seed=seed), {"calibrate": params.calibrate, "device": launch.device}
    yield "quantize", path_of("quantize_report", seed=seed), {"quantize": params.quantize, "budget": params.budget}
    for item in ("float", *params.evaluate.items):
        yield "evaluate", path_of("scores", seed=seed, item=item), {"protocol": params.evaluate.protocols[item]}


def _held_files(params: Params) -> dict[str, str]:
    """Return the sha256 of files that stages read: taken of small ones, of others as their makers' reports state it."""
    small = (path_of(name) for name in ("manifest", "byte_table"))
    held = {str(path): sha256_of_file(path) for path in small if path.exists()}
    for seed in params.seeds:
        for name in ("train_report", "calibrate_report"):
            held |= (read_report(path_of(name, seed=seed)) or {}).get("outputs_sha256", {})
    artifacts = _artifact_digests(params, Path()).items()
    return held | {str(path_of("model", seed=seed)): digest for seed, digest in artifacts if digest}


def _artifact_digests(params: Params, run: Path) -> dict[str, str | None]:
    """Return the sha256 of every seed's artifact as its report states it."""
    reports = {seed: read_report(run / path_of("quantize_report", seed=seed)) or {} for seed in params.seeds}
    return {str(seed): report.get("artifact_sha256") for seed, report in reports.items()}


def _record_of(digests: Mapping[str, str | None], folder: Path) -> dict[str, Any]:
    """Return what a record states, nothing where it holds other artifacts: those of an earlier configuration."""
    stated = read_report(folder / "submission.json") or {}
    held = {seed: result.get("artifact_sha256") for seed, result in stated.get("seed_results", {}).items()}
    return stated if held == digests else {}


def seed_results(params: Params, seed: int, run: Path = Path()) -> dict[str, Any]:
    """Return the figures of one seed of folder `run` by name, with the unit in it; None for what is not there yet."""
    items = ["float", *params.evaluate.items]
    scores = {item: read_report(run / path_of("scores", seed=seed, item=item)) or {} for item in items}
    train, calibrate, quantize = (
        read_report(run / path_of(f"{stage}_report", seed=seed)) or {} for stage in ("train", "calibrate", "quantize")
    )
    evaluated = [score["seconds"]["total"] for score in scores.values() if score]
    seconds = [train.get("seconds"), calibrate.get("seconds"), quantize.get("seconds"), sum(evaluated) or None]
    return {
        "seed": seed,
        **{f"{item}_bpb": score.get("val_bpb") for item, score in scores.items()},
        "gap_mbpb": _gap_mbpb(scores),
        "artifact_bytes": quantize.get("artifact_bytes"),
        "bits_per_weight": quantize.get("totals", {}).get("bits_per_weight"),
        "model_params": train.get("model_params"),
        "train_steps": train.get("steps"),
        "train_nats": train.get("final_train_loss"),
        **{f"{stage}_seconds": value for stage, value in zip(SECONDS, seconds, strict=True)},
    }


def seed_metrics(params: Params, seed: int) -> dict[str, float]:
    """Return what is known of one seed and its budget: flat, so that `dvc metrics` and `dvc exp` have a column each."""
    figures = seed_results(params, seed)
    budget = {"limit_bytes": params.budget.limit_bytes, "code_reserve_bytes": params.budget.code_reserve_bytes}
    headline = {"headline_bpb": figures[f"{params.evaluate.headline}_bpb"]}
    return {key: value for key, value in (figures | headline | budget).items() if value is not None and key != "seed"}


def _gap_mbpb(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return what quantization costs in thousandths of a bpb, where an item scores the artifact as `float` does."""
    gap = quantization_gap(scores, "val_bpb")
    return None if gap is None else 1000 * gap


def quantization_gap(scores: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    """Return a figure of the item that scores the artifact as `float` is scored, less that of `float`."""
    before = scores.get("float")
    for score in scores.values():
        if before and score.get("weights") == "artifact" and score["protocol"] == before["protocol"]:
            return score[key] - before[key]
    return None


def against_limit(total: int, limit: int) -> str:
    """Return how far bytes are from their limit, and on which side."""
    distance = f"{limit - total:,} below" if total <= limit else f"{total - limit:,} ABOVE"
    return f"{distance} the limit of {limit:,}"


def read_report(path: Path) -> dict[str, Any] | None:
    """Return the report at `path`, None where its stage has not run."""
    return read_json(path) if path.exists() else None


def _over_seeds(rows: Sequence[Mapping[str, Any]], compute: Any, fewest: int) -> dict[str, float | None]:
    """Return a statistic of every figure that all seeds have."""
    values = {key: [row[key] for row in rows] for key in rows[0] if key != "seed"}
    return {
        key: compute(column) if len(column) >= fewest and None not in column else None for key, column in values.items()
    }


def results_table(results: Mapping[str, Any]) -> str:
    """Return the results as text of at most 80 columns for three seeds: a row per figure, a column per seed.

    `results`: of `report_results`.
    """
    heads, *rows = results_rows(results)
    if not rows and results["unigram_bpb"] is None:
        return "nothing has run yet: `dvc repro` runs it all, `fairway status` looks ahead"
    return "\n".join([*([*aligned([heads, *rows]), ""] if rows else []), *results_ending(results)])


def results_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the table, its heads first."""
    rows = results["seeds"]
    columns = {f"seed {row['seed']}": row for row in rows}
    if len(rows) > 1:
        columns |= {"mean": results["mean"], _DEVIATION: results["std"]}
    return figures_rows("bits per byte, and what they cost", columns)


def figures_rows(title: str, columns: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return cells, heads first: a row per figure that any column has, a column of figures per name."""
    keys = dict.fromkeys(key for column in columns.values() for key in column if key != "seed")
    shown = [key for key in keys if any(column.get(key) is not None for column in columns.values())]
    lines = [[_title(key), *(_cell(key, column.get(key), name) for name, column in columns.items())] for key in shown]
    return [[title, *columns], *lines]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of cells."""
    widths = [max(len(line[index]) for line in table) for index in range(len(table[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in table]


def _title(key: str) -> str:
    titles = {"gap_mbpb": "quantization gap, mBPB", "train_nats": "last training loss, nats"}
    return titles.get(key, key.removesuffix("_bpb").replace("_", " "))


def _cell(key: str, value: float | None, column: str) -> str:
    if value is None:
        return "-"
    if key.endswith("_seconds"):
        return f"{value:,.1f}"
    if key == "gap_mbpb":
        return f"{value:.2f}" if column == _DEVIATION else f"{value:+.2f}"
    return f"{value:,.0f}" if key.endswith(("bytes", "params", "steps")) else f"{value:.4f}"


def results_ending(results: Mapping[str, Any]) -> list[str]:
    """Return the lines below the table: what holds for all seeds together."""
    lines = []
    if results["unigram_bpb"] is not None:
        lines.append(f"unigram {results['unigram_bpb']:.4f} bpb on the same {results['val_bytes']:,} val bytes")
    if (total := results["total_bytes"]) is not None:
        code, limit = results["code_bytes"], results["limit_bytes"]
        lines.append(f"total   {total:,} bytes, {code:,} of them code, {against_limit(total, limit)}")
    lines.append(f"audit   {audit_text(results)}")
    lines.append(f"record  {results['record']}/" if results["record"] else "record  not packaged and audited yet")
    if results["changed"]:
        lines.append(f"outdated {', '.join(results['changed'])}; run `dvc repro`")
    return lines


def audit_text(results: Mapping[str, Any]) -> str:
    """Return the verdict on these artifacts with its alarms, and whether it is of what is here now."""
    if results["verdict"] is None:
        return "not done yet"
    alarms = f" with {counted(results['alarms'], 'alarm')}" if results["alarms"] else ""
    changed = ", outdated" if results["changed"] else ""
    over = ", ABOVE the limit of now" if (results["total_bytes"] or 0) > results["limit_bytes"] else ""
    return f"{results['verdict']}{alarms}{changed}{over}"


def results_json(results: Mapping[str, Any]) -> str:
    """Return the results as JSON text."""
    return json.dumps(results, indent=1, sort_keys=True)
