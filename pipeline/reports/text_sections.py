"""The sections of a page about the text that was scored: loss by position and by document.

Checked by: tests/reports/test_page.py.
"""

import statistics
from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np

from pipeline.reports import charts
from pipeline.reports.markup import figure, missing, paragraph, table
from pipeline.reports.run_facts import RunFacts
from pipeline.reports.text_losses import LEAST_BYTES, PositionLoss

_Place = Literal["document", "window"]


def positions(runs: Sequence[RunFacts]) -> list[str]:
    """Return the losses of all items by position in a document and in a window."""
    captions: dict[_Place, str] = {
        "document": "Bits per byte by the number of a token in its document: what more context is worth, and beyond "
        "the longest window, what the scoring protocol makes of it. Mean over seeds.",
        "window": "The same by the place in a disjoint window, for items that score these: what a window's first "
        "tokens cost for want of context. Mean over seeds.",
    }
    found = [part for place, caption in captions.items() for part in _by_position(runs, place, caption)]
    return found or [missing("evaluate")]


def _by_position(runs: Sequence[RunFacts], place: _Place, caption: str) -> list[str]:
    series = {label: rows for run in runs for label, rows in _series(run, place, len(runs) > 1).items()}
    if not series:
        return []
    lasts = sorted({(row.first, row.last) for rows in series.values() for row in rows})
    cells = {label: {row.last: f"{row.bpb:.4f}" for row in rows} for label, rows in series.items()}
    rows = [(f"{first:,} to {last:,}", *(found.get(last, "-") for found in cells.values())) for first, last in lasts]
    svg = charts.position_losses(f"position in the {place}, tokens", series)
    ends = "; ".join(f"{label}: {rows[0].bpb:.3f} to {rows[-1].bpb:.3f}" for label, rows in series.items())
    alt = f"Bits per byte from the first to the last positions in a {place}. {ends}."
    return [figure(svg, alt, caption, table(f"loss by position in a {place}", ["positions", *series], rows))]


def _series(run: RunFacts, place: _Place, is_named: bool) -> dict[str, list[PositionLoss]]:
    """Return the losses of each item, mean over the seeds that have it; beside other runs, of the first and last."""
    found = [seed.by_document_position if place == "document" else seed.by_window_position for seed in run.seeds]
    items = list(dict.fromkeys(item for each in found for item in each))
    return {
        f"{item} of {run.name}" if is_named else item: [
            row._replace(bpb=statistics.fmean(each.bpb for each in rows))
            for rows in zip(*(each[item] for each in found if item in each), strict=True)
            for row in rows[:1]
        ]
        for item in (dict.fromkeys([*items[:1], *items[-1:]]) if is_named else items)
    }


def documents(runs: Sequence[RunFacts]) -> list[str]:
    """Return how the scores of documents spread, and the worst ones with their text."""
    series = {
        f"{seed.label}, {seed.document_item}": seed.document_bpb
        for run in runs
        for seed in run.seeds
        if seed.document_bpb is not None
    }
    if not series:
        return [missing("evaluate")]
    rows = [
        (label, f"{len(bpb_D):,}", *(f"{value:.4f}" for value in np.quantile(bpb_D, (0, 0.25, 0.5, 0.75, 1))))
        for label, bpb_D in series.items()
    ]
    heads = ["seed and item", "documents", "best", "first quartile", "median", "third quartile", "worst"]
    caption = "How many documents of val score how many bits per byte, under the last item of each seed."
    alt = "; ".join(f"{row[0]}: median {row[4]}, worst {row[6]} of {row[1]} documents" for row in rows)
    picture = figure(charts.document_histogram(series), f"{alt}.", caption, table("documents", heads, rows))
    return [picture, *(part for run in runs for part in _worst(run))]


def _worst(run: RunFacts) -> list[str]:
    seed = run.seeds[0]
    if not run.worst:
        return []
    texts = "\n".join(
        f"<li>{escape(f'{each.bpb:.4f} bits per byte, {each.bytes:,} bytes, from token {each.start:,} of val')}"
        f'<blockquote dir="auto">{escape(each.text)}</blockquote></li>'
        for each in run.worst
    )
    head = f"<h3>{escape(f'The worst documents of {run.name}')}</h3>"
    what = f"{seed.label}, item {seed.document_item}; documents of {LEAST_BYTES} bytes or more, as they begin."
    return [head, paragraph(what, "note"), f"<ol>\n{texts}\n</ol>"]
