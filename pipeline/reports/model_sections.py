"""The sections of a page about a run's models: how they were trained, where their bytes and their errors are.

Checked by: tests/reports/test_page.py.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reports import charts
from pipeline.reports.comparison import VisitError, group_of
from pipeline.reports.markup import figure, missing, paragraph, table
from pipeline.reports.run_facts import RunFacts, SeedFacts

_TABLE_ROWS = 20
"""Rows of a curve that its table shows."""


def _all(runs: Sequence[RunFacts]) -> list[SeedFacts]:
    return [seed for run in runs for seed in run.seeds]


def training(runs: Sequence[RunFacts]) -> list[str]:
    """Return curves and schedule of all seeds."""
    seeds = [seed for seed in _all(runs) if len(seed.curve) > 1]
    if not seeds:
        return [missing("train")]
    steps, losses, rates = ({s.label: _column(s, key) for s in seeds} for key in ("step", "loss", "lr_scale"))
    held = {s.label: (steps[s.label][-1], s.comparison.float_nats) for s in seeds if s.comparison}
    val = {s.label: (steps[s.label][-1], s.scores["float"]["val_loss"]) for s in seeds if "float" in s.scores}
    marked = {f"a slice of training text ({_reads(runs)})": held, "val": val}
    kinds = {"float model on the slice of training text": held, "float model on val": val}
    marks = {kind: _points(found) for kind, found in kinds.items() if found}
    scored = " and on ".join(text for text, found in marked.items() if found)
    changes = runs[0].changes if len(runs) == 1 else []
    svg = charts.training_curves(_pairs(steps, losses), marks, _pairs(steps, rates), changes)
    ends = "; ".join(f"{label}: {values[0]:.3f} to {values[-1]:.3f}" for label, values in losses.items())
    caption = (
        "Loss of single training batches, as they were logged"
        + (f", and what the finished float model scores on {scored}" if scored else "")
        + ". Below: the learning rate's schedule as it ran"
        + "".join(f"; from step {step:,}: {what}" for step, what in changes)
        + "."
    )
    heads = ["seed and step", "loss", "learning rate / peak", "seconds"]
    rows = [
        (f"{seed.label}, {row['step']:.0f}", f"{row['loss']:.4f}", f"{row['lr_scale']:.4f}", f"{row['seconds']:.1f}")
        for seed in seeds
        for row in seed.curve[:: math.ceil(len(seed.curve) / _TABLE_ROWS)]
    ]
    return [figure(svg, f"Training loss in nats per token, {ends}.", caption, table("training curves", heads, rows))]


def _column(seed: SeedFacts, key: str) -> list[float]:
    return [row[key] for row in seed.curve]


def _pairs(x: Mapping[str, list[float]], y: Mapping[str, list[float]]) -> charts.Series:
    return {label: (x[label], y[label]) for label in x}


def _points(found: Mapping[str, tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in found.values()], [y for _, y in found.values()]


def _reads(runs: Sequence[RunFacts]) -> str:
    """Return how often the slice was trained on."""
    reads = [run.slice_reads for run in runs]
    if None in reads or not reads:
        return "of a run that was not trained here"
    times = ", ".join(f"{each:.2f}" for each in reads if each is not None)
    return f"held out where training read its text less than once; it read it {times} times"


def bytes_and_losses(runs: Sequence[RunFacts]) -> list[str]:
    """Return losses over bytes of all seeds."""
    seeds = [seed for seed in _all(runs) if seed.quantize]
    if not seeds:
        return [missing("quantize")]
    reports = {seed.label: seed.quantize or {} for seed in seeds}
    predicted = {label: report["predicted_nats"] for label, report in reports.items()}
    kinds = {
        "predicted": {label: nats for label, nats in predicted.items() if nats is not None},
        "divergence on the slice": {s.label: s.comparison.divergence.nats for s in seeds if s.comparison},
        "gap on val": {s.label: s.gap_nats for s in seeds if s.gap_nats is not None},
    }
    points = {
        kind: {label: ([reports[label]["artifact_bytes"]], [1000 * nats]) for label, nats in found.items()}
        for kind, found in kinds.items()
        if found
    }
    budgets = {run.name: run.seeds[0].quantize for run in runs}
    limits = {
        "budget" + f" of {name}" * (len(runs) > 1): q["budget"]["budget_bytes"] for name, q in budgets.items() if q
    }
    rules = {label: _rule(report) for label, report in reports.items()}
    svg = charts.rate_distortion(rules, points, limits)
    rows = [
        (
            label,
            f"{report['artifact_bytes']:,}",
            f"{report['totals']['bits_per_weight']:.3f}",
            *(f"{1000 * found[label]:+.3f}" if label in found else "-" for found in kinds.values()),
        )
        for label, report in reports.items()
    ]
    caption = (
        "What rounding costs against the bytes it leaves. Dotted: the rule of fine grids from the predicted loss, a "
        "quarter for every bit more per weight. The upright line is what the byte limit leaves for the artifact."
    )
    heads = ["seed", "bytes", "bits per weight", *(f"{kind}, 0.001 nats per token" for kind in kinds)]
    alt = "; ".join(f"{row[0]}: {row[1]} bytes, predicted {row[3]}, gap on val {row[5]}" for row in rows)
    return [figure(svg, f"Loss over bytes, in 0.001 nats per token. {alt}.", caption, table("bytes", heads, rows))]


def _rule(report: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return bytes around a file's, and the losses that fine grids would have there."""
    weights, coded = report["totals"]["weights"], report["artifact_bytes"] - report["passthrough_bytes"]
    shifts = [coded * (number - 10) / 50 for number in range(21)]
    losses = [1000 * (report["predicted_nats"] or math.nan) * 4 ** (-8 * shift / weights) for shift in shifts]
    return [report["artifact_bytes"] + shift for shift in shifts], losses


def byte_maps(runs: Sequence[RunFacts]) -> list[str]:
    """Return the byte map of each run's first seed, and its blocks' predicted beside their measured losses."""
    found = [part for run in runs if (report := run.seeds[0].quantize) for part in _byte_map(run, report)]
    return found or [missing("quantize")]


def _byte_map(run: RunFacts, report: Mapping[str, Any]) -> list[str]:
    total, seed = report["artifact_bytes"], run.seeds[0].label
    members = {
        group: list(rows) for group, rows in itertools.groupby(report["layers"], lambda layer: group_of(layer["name"]))
    }
    headed = {
        f"{_title(run, group)}: {_share(rows, total)} of the file": [_row(group, row) for row in rows]
        for group, rows in members.items()
    }
    rest = report["passthrough_bytes"]
    headed[f"float16, not quantized: {rest / total:.1%} of the file"] = [{"name": "float16", "coded_bytes": rest}]
    rows = [
        (
            layer["name"],
            " x ".join(map(str, layer["shape"])),
            f"{layer['coded_bytes']:,}",
            _bits(layer),
            f"{layer['sqnr_db']:.1f}",
            _scientific(layer["predicted_nats"]),
            _scientific(layer["sensitivity_nats"]),
        )
        for layer in report["layers"]
    ]
    heads = ["tensor", "shape", "bytes", "bits per weight", "SQNR, dB", "predicted nats", "sensitivity, nats"]
    caption = (
        f"The artifact of {seed}, tensor by tensor: left its bytes, the more strongly coloured the more an error of a "
        f"given share of its weights would cost{_sensitivities(report)}; right what its rounding is predicted to cost. "
        "Much loss on few bytes is too coarse, many bytes without loss are too fine."
    )
    alt = f"Bytes by block of {total:,}. " + "; ".join(
        f"{_title(run, group)}: {_share(rows, total)}" for group, rows in members.items()
    )
    picture = figure(charts.byte_map(headed), f"{alt}.", caption, table(f"tensors of {seed}", heads, rows))
    return [picture, *_block_losses(run, members)]


def _title(run: RunFacts, group: str) -> str:
    """Return what a block is called, and how often it runs where that is more than once."""
    block = int(group.split(".")[1]) if group.startswith("blocks.") else None
    name = group.replace("_", " ") if block is None else f"block {block}"
    return f"{name}, runs {run.passes[block]} times" if block in run.passes else name


def _share(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    return f"{sum(row['coded_bytes'] for row in rows) / total:.1%}"


def _row(group: str, layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tensor's line with a name that fits beside its bar."""
    name = layer["name"].removeprefix(f"{group}.").removesuffix(".weight")
    return {**layer, "name": f"{name}  {' x '.join(map(str, layer['shape']))}"}


def _sensitivities(report: Mapping[str, Any]) -> str:
    found = [layer["sensitivity_nats"] for layer in report["layers"] if (layer["sensitivity_nats"] or 0) > 0]
    return f" (five tones from {min(found):.0e} to {max(found):.0e} nats per weight)" if found else ""


def _bits(layer: Mapping[str, Any]) -> str:
    return f"{layer['bits_per_weight']:.2f}"


def _scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _block_losses(run: RunFacts, members: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    if any(row["predicted_nats"] is None for rows in members.values() for row in rows):
        return [paragraph("No losses are predicted: calibrate.sensitivity_sequences is 0.", "note")]
    if not run.divergences or run.seeds[0].comparison is None:
        return [
            paragraph("Losses of single blocks need the checkpoint and the training text beside the artifact.", "note")
        ]
    predicted = {group: sum(row["predicted_nats"] for row in rows) for group, rows in members.items()}
    titles = {group: _title(run, group) for group in members}
    rows = [
        (
            titles[group],
            f"{1000 * nats:.2f}",
            f"{1000 * run.divergences[group].nats:+.2f}",
            f"{1000 * run.divergences[group].error:.2f}",
        )
        for group, nats in predicted.items()
    ]
    whole, tokens = run.seeds[0].comparison.divergence, run.seeds[0].comparison.tokens
    rows.append(
        (
            "all of them",
            f"{1000 * sum(predicted.values()):.2f}",
            f"{1000 * whole.nats:+.2f}",
            f"{1000 * whole.error:.2f}",
        )
    )
    svg = charts.block_losses(
        {titles[group]: nats for group, nats in predicted.items()},
        {titles[group]: run.divergences[group] for group in members},
    )
    caption = (
        f"What each block's rounding costs: predicted from second moments, and measured on {tokens:,} targets of "
        "training text as the divergence from the float model with this block alone taken from the artifact. Thin "
        "lines are two standard errors to each side."
    )
    alt = "; ".join(f"{name}: predicted {first}, measured {second}" for name, first, second, _ in rows)
    heads = ["block", "predicted, 0.001 nats per token", "measured", "standard error"]
    return [figure(svg, f"Losses in 0.001 nats per token. {alt}.", caption, table("losses of blocks", heads, rows))]


def visit_errors(runs: Sequence[RunFacts]) -> list[str]:
    """Return the error of the artifact's stream behind every visit, a picture per run: schedules differ."""
    return [part for run in runs for part in _visit_errors(run)] or [missing("quantize")]


def _visit_errors(run: RunFacts) -> list[str]:
    found = {seed.label: seed.comparison for seed in run.seeds if seed.comparison}
    if not found:
        return []
    labels = [_visit_label(run, visit) for visit in next(iter(found.values())).visits]
    errors = {label: [visit.relative for visit in each.visits] for label, each in found.items()}
    rows = [(name, *(f"{values[i]:.4f}" for values in errors.values())) for i, name in enumerate(labels)]
    caption = (
        f"{run.name}: how far the artifact's stream is from the float model's behind every visit, in the order in "
        "which they run: the norm of the difference over the stream's own. It holds the errors of all visits before."
    )
    alt = "; ".join(f"{label}: {values[0]:.4f} to {values[-1]:.4f}" for label, values in errors.items())
    svg = charts.visit_errors(labels, errors)
    return [
        figure(svg, f"Relative error, first to last visit. {alt}.", caption, table("errors", ["visit", *errors], rows))
    ]


def _visit_label(run: RunFacts, visit: VisitError) -> str:
    return f"block {visit.block}, pass {visit.loop + 1}" if visit.block in run.passes else f"block {visit.block}"
