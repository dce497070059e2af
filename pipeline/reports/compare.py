"""Runs side by side: their figures, how sure the difference of their scores is, what sets their parameters apart.

The one idea: an arm is a folder with params.yaml and artifacts/, wherever its files come from. The first arm is what
the others are compared with, on one item, document by document: bits per byte of the same text pair across tokenizers.

Axes: M tokens, S seeds, D documents.
Checked by: tests/reports/test_compare.py, tests/stages/test_compare.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.artifacts import path_of, read_json
from pipeline.base.checks import FairwayError, counted, require
from pipeline.base.config import Params, load_params, read_yaml
from pipeline.data.manifest import listed_shards, open_listed, read_manifest
from pipeline.recipes.recipes import value_differences
from pipeline.reports.bootstrap import DRAWS, FEWEST_SEEDS, paired_interval
from pipeline.reports.results import aligned, figures_rows, run_results
from pipeline.scoring.ledger import load_ledger
from pipeline.scoring.report import document_scores

SECTIONS = ["seeds", "evaluate", "budget"]
"""Sections of params.yaml that a comparison reads."""
_MOST_KEYS, _COLUMNS = 12, 80
"""Keys of parameters that the table shows for an arm, and how long its lines are at most."""
_TOTALS = ("total_bytes", "limit_bytes")


class UnpairedError(FairwayError):
    """Two arms have no scores of the same documents."""


class Arm(NamedTuple):
    """A run to compare."""

    label: str
    """A, B, C ..., the head of its column."""
    name: str
    """What the user calls it."""
    folder: Path
    params: Params


class _Documents(NamedTuple):
    """Scores of the val documents of an arm."""

    tokenizer_sha256: str
    tokens_M: np.ndarray
    bytes_D: np.ndarray
    nats_SD: np.ndarray


def open_arms(folders: Sequence[tuple[str, Path]]) -> list[Arm]:
    """Return the arms of (name, folder), in their order; ValueError for parameters that are not sound."""
    return [
        Arm(_label(number), name, folder, load_params(folder / "params.yaml", SECTIONS))
        for number, (name, folder) in enumerate(folders)
    ]


def _label(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def report_paths(params: Params) -> list[Path]:
    """Return where the figures of a run lie."""
    names = ("train_report", "calibrate_report", "quantize_report")
    items = ("float", *params.evaluate.items)
    return [
        *(path_of(name) for name in ("manifest", "audit")),
        *(path_of(name) / "submission.json" for name in ("submission", "package")),
        *(path_of(name, seed=seed) for name in names for seed in params.seeds),
        *(path_of("scores", seed=seed, item=item) for seed in params.seeds for item in items),
    ]


def ledger_paths(params: Params, item: str) -> list[Path]:
    """Return where the scores of an item's documents lie."""
    return [path_of("val_shards"), *(path_of("ledger", seed=seed, item=item) for seed in params.seeds)]


def common_item(arms: Sequence[Arm], item: str | None) -> str:
    """Return the item to compare: `item`, or the last of the first arm that all arms list; ValueError without one."""
    common = [each for each in ("float", *arms[0].params.evaluate.items) if all(_lists(arm, each) for arm in arms)]
    require(item is None or item in common, "--item", item, f"one that all arms list: {', '.join(common)}")
    return item or common[-1]


def _lists(arm: Arm, item: str) -> bool:
    return item in ("float", *arm.params.evaluate.items)


def compare_arms(arms: Sequence[Arm], item: str) -> dict[str, Any]:
    """Return figures, differences and parameters as JSON-able values; ValueError for a damaged file."""
    first, values = arms[0], [read_yaml(arm.folder / "params.yaml") for arm in arms]
    return {
        "item": item,
        "arms": _with_totals([_figures(arm, item) for arm in arms]),
        "differences": [{"label": arm.label, **_difference(first, arm, item)} for arm in arms[1:]],
        "params": {
            arm.label: [change._asdict() for change in value_differences(values[0], theirs, "")]
            for arm, theirs in zip(arms[1:], values[1:], strict=True)
        },
    }


def _figures(arm: Arm, item: str) -> dict[str, Any]:
    """Return the results of an arm, its score on the item and whether a record holds its artifacts as they are now."""
    results, budget = run_results(arm.params, arm.folder), arm.params.budget
    sizes = [row["artifact_bytes"] for row in results["seeds"]]
    largest = None if None in sizes else max(sizes)
    scores = [arm.folder / path_of("scores", seed=seed, item=item) for seed in arm.params.seeds]
    return {
        **{key: results[key] for key in ("seeds", "mean", "std", "limit_bytes")},
        "label": arm.label,
        "name": arm.name,
        "bpb": fmean(read_json(path)["val_bpb"] for path in scores) if all(path.exists() for path in scores) else None,
        "packaged_bytes": results["total_bytes"],
        "reserved_bytes": None if largest is None else largest + budget.code_reserve_bytes,
    }


def _with_totals(figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of arms with `total_bytes` that compare: as packaged, or all with what code may take."""
    which = "packaged_bytes" if all(each["packaged_bytes"] for each in figures) else "reserved_bytes"
    return [{**each, "total_bytes": each[which]} for each in figures]


def _difference(first: Arm, other: Arm, item: str) -> dict[str, Any]:
    """Return how an arm differs from the first one, in mBPB, or why that cannot be said."""
    try:
        seeds = _shared_seeds(first, other, item)
        before, after = (_documents(arm, seeds, item) for arm in (first, other))
        _require_same_text(before, after)
    except UnpairedError as error:
        return {"unpaired": str(error)}
    nats_SD = after.nats_SD - before.nats_SD
    interval, mean_D = paired_interval(nats_SD, before.bytes_D), nats_SD.mean(axis=0)
    names = ("difference_mbpb", "low_mbpb", "high_mbpb")
    return {
        **{name: 1000 * value for name, value in zip(names, interval, strict=True)},
        "documents": len(mean_D),
        "better": int((mean_D < 0).sum()),
        "worse": int((mean_D > 0).sum()),
        "seeds": seeds,
        "covers_seeds": len(seeds) >= FEWEST_SEEDS,
    }


def _shared_seeds(first: Arm, other: Arm, item: str) -> list[int]:
    def scored(arm: Arm) -> list[int]:
        ledgers = {seed: arm.folder / path_of("ledger", seed=seed, item=item) for seed in arm.params.seeds}
        found = [seed for seed, path in ledgers.items() if path.exists()]
        if not found:
            raise UnpairedError(
                f"{arm.label} has no scores of {item}: `dvc repro` or `dvc pull` in its checkout brings them"
            )
        return found

    ours, theirs = scored(first), scored(other)
    shared = [seed for seed in ours if seed in theirs]
    if not shared:
        raise UnpairedError(f"no seed in common: {first.label} has {ours}, {other.label} {theirs}")
    return shared


def _documents(arm: Arm, seeds: Sequence[int], item: str) -> _Documents:
    path = arm.folder / path_of("manifest")
    manifest = read_manifest(path)
    tokens_M = np.concatenate(open_listed(listed_shards(path, "val"), manifest["vocab_size"]))
    rows = []
    for seed in seeds:
        place = arm.folder / path_of("ledger", seed=seed, item=item)
        ledger = load_ledger(place)
        expected = f"the val shards' {len(tokens_M) - 1}; evaluate the item again"
        require(ledger.num_targets == len(tokens_M) - 1, f"{place}: targets", ledger.num_targets, expected)
        rows.append(document_scores(ledger, tokens_M, manifest["bos_id"]))
    nats_SD = np.stack([row.nats_D for row in rows])
    return _Documents(manifest["tokenizer_sha256"], tokens_M, rows[0].bytes_D, nats_SD)


def _require_same_text(before: _Documents, after: _Documents) -> None:
    """Raise UnpairedError unless both scored the same documents: the same tokens, of other tokenizers as many bytes."""
    ours, theirs = len(before.bytes_D), len(after.bytes_D)
    if before.tokenizer_sha256 == after.tokenizer_sha256:
        same = np.array_equal(before.tokens_M, after.tokens_M)
    else:
        same = np.array_equal(before.bytes_D, after.bytes_D)
    if not same:
        raise UnpairedError(
            f"its val text is another one ({counted(theirs, 'document')}, not the same {ours:,}): scores differ"
        )
    if ours < 2:
        raise UnpairedError("val holds one document; an interval needs two or more")


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as text of at most 80 columns for three arms."""
    text = [arm_lines(comparison), aligned(figure_cells(comparison)), difference_lines(comparison)]
    changes = [line for label, rows in comparison["params"].items() for line in _parameter_lines(label, rows)]
    return "\n\n".join("\n".join(lines) for lines in [*text, changes])


def arm_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return a line per arm: what its label stands for."""
    arms = comparison["arms"]
    names = [f"{arm['label']}  {arm['name']}, {_seeds([row['seed'] for row in arm['seeds']])}" for arm in arms]
    loose = [arm["label"] for arm in arms if arm["packaged_bytes"] is None]
    note = f"total bytes with code reserve: no record holds the artifacts of {', '.join(loose)}"
    return [*names, *[note] * bool(loose)]


def figure_cells(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Return the figures as a table of cells, heads first, a column per arm."""
    arms = {arm["label"]: arm for arm in comparison["arms"]}
    columns = {label: {**arm["mean"], **{key: arm[key] for key in _TOTALS}} for label, arm in arms.items()}
    return figures_rows("mean over seeds", columns)


def difference_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return how the scores differ from the first arm's, and what the intervals cover."""
    rows, first = comparison["differences"], comparison["arms"][0]["label"]
    title = f"{comparison['item']} against {first}, thousandths of a bit per byte, with 95 % interval"
    return [title, *map(_difference_line, rows), *_notes([row for row in rows if "unpaired" not in row])]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _difference_line(row: Mapping[str, Any]) -> str:
    if "unpaired" in row:
        return f"{row['label']}  {row['unpaired']}"
    counts = f"{counted(row['better'], 'document')} better, {row['worse']:,} worse"
    interval = f"[{row['low_mbpb']:+.2f}, {row['high_mbpb']:+.2f}]"
    return f"{row['label']}  {row['difference_mbpb']:+.2f}  {interval}  {_verdict(row)}; {counts}"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["high_mbpb"] < 0:
        return "better"
    return "worse" if row["low_mbpb"] > 0 else "no clear difference"


def _notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the intervals cover, a line for all that cover the same."""
    covered: dict[tuple[str, int, bool], list[str]] = {}
    for row in rows:
        covered.setdefault((_seeds(row["seeds"]), row["documents"], row["covers_seeds"]), []).append(row["label"])
    for (seeds, documents, with_seeds), labels in covered.items():
        whom = "other documents and other seeds" if with_seeds else "other documents, not for other seeds"
        yield f"{', '.join(labels)}: {documents:,} documents, {seeds}, {DRAWS:,} draws; for {whom}"


def _parameter_lines(label: str, changes: Sequence[Mapping[str, str]]) -> Iterator[str]:
    yield f"parameters of {label}" + ("" if changes else ": the same")
    for change in changes[:_MOST_KEYS]:
        line = f"   {change['key']}: {change['before']} -> {change['after']}"
        yield line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 3]}..."
    if len(changes) > _MOST_KEYS:
        yield f"   and {counted(len(changes) - _MOST_KEYS, 'more key')}; --json lists all"
