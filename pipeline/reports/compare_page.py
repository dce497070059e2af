"""A comparison as a page: rate and distortion in one picture, the figures, the differences, the parameters.

Checked by: tests/reports/test_compare_page.py.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.reports.charts import run_scores
from pipeline.reports.compare import arm_lines, difference_lines, figure_cells
from pipeline.reports.markup import document, figure, paragraph, section, table


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as one page of HTML that needs no network; equal comparisons give equal bytes."""
    heads, *rows = figure_cells(comparison)
    parts = {
        "scores": ("Bytes and bits per byte", [*_picture(comparison), *map(paragraph, difference_lines(comparison))]),
        "figures": ("Figures", [table("figures", heads, rows)]),
        "parameters": ("Parameters", [_parameters(*each) for each in comparison["params"].items()]),
    }
    title = "Fairway: " + ", ".join(arm["name"] for arm in comparison["arms"])
    head = "".join(map(paragraph, arm_lines(comparison)))
    body = "\n".join(section(key, *part) for key, part in parts.items())
    return document(title, f"<header><h1>{escape(title)}</h1>\n{head}</header>\n<main>\n{body}\n</main>")


def _picture(comparison: Mapping[str, Any]) -> list[str]:
    """Return the picture, or nothing while fewer than two arms have both bytes and a score."""
    runs = _points(comparison)
    if len(runs) < 2:
        return []
    arms = comparison["arms"]
    limits = {f"limit of {arm['label']}": float(arm["limit_bytes"]) for arm in reversed(arms)}
    by_limit = {limit: label for label, limit in limits.items()}  # equal ones once
    item, first = comparison["item"], arms[0]["label"]
    alt = "; ".join(f"{label}: {x:,.0f} bytes, {y:.4f} bits per byte" for label, (x, y, _, _) in runs.items())
    caption = f"Item {item} over code and artifact. Bars: 95 % intervals of the differences from {first}."
    picture = run_scores(runs, {label: limit for limit, label in by_limit.items()})
    return [figure(picture, f"Bits per byte over bytes. {alt}.", caption)]


def _points(comparison: Mapping[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """Return bytes, bits per byte and the ends of the interval of every arm that has them."""
    differences = {row["label"]: row for row in comparison["differences"]}
    points = {}
    for arm in comparison["arms"]:
        x, y = arm["total_bytes"], arm["bpb"]
        if x is not None and y is not None:
            row = differences.get(arm["label"], {})
            ends = [
                (row[key] - row["difference_mbpb"]) / 1000 if key in row else 0.0 for key in ("low_mbpb", "high_mbpb")
            ]
            points[f"{arm['label']}  {arm['name']}"] = (x, y, y + ends[0], y + ends[1])
    return points


def _parameters(label: str, changes: list[Mapping[str, str]]) -> str:
    if not changes:
        return paragraph(f"{label}: the same")
    return table(f"parameters of {label}", [label, "before", "after"], [[*row.values()] for row in changes], (1, 2))
