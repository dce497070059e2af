"""A page about one run or several: every picture with its caption, its text alternative and its numbers.

The one idea: one list of sections, each of which says what it shows or which stage brings it. The page is one file
that needs no network and no script; equal runs give equal bytes.

How to read the pictures: docs/report.md.
Checked by: tests/reports/test_page.py, tests/stages/test_report_page.py (in a browser).
"""

import statistics
from collections.abc import Sequence
from html import escape

from pipeline.base.checks import counted
from pipeline.reports import charts
from pipeline.reports.markup import document, figure, missing, paragraph, section, table
from pipeline.reports.model_sections import byte_maps, bytes_and_losses, training, visit_errors
from pipeline.reports.results import audit_text, results_ending, results_rows
from pipeline.reports.run_facts import RunFacts, seconds_of
from pipeline.reports.text_sections import documents, positions


def page(runs: Sequence[RunFacts]) -> str:
    """Return the page as HTML text."""
    sections = {
        "results": ("Results", _results),
        "training": ("Training", training),
        "bytes": ("Bytes and what they cost", bytes_and_losses),
        "map": ("Byte map", byte_maps),
        "error": ("Error per layer and loop", visit_errors),
        "position": ("Loss by position", positions),
        "documents": ("Loss by document", documents),
        "time": ("Time", _time),
        "audit": ("Audit", _audit),
    }
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in sections.items())
    name = ", ".join(run.name for run in runs)
    head = f"<header><h1>{escape(name)}</h1>\n{''.join(map(_headline, runs))}</header>\n"
    nav = f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
    body = "\n".join(section(key, title, make(runs)) for key, (title, make) in sections.items())
    return document(f"Fairway: {name}", f"{head}{nav}<main>\n{body}\n</main>")


def _headline(run: RunFacts) -> str:
    """Return a run's score, size and verdict as a sentence."""
    scores = {item: [seed.scores[item]["val_bpb"] for seed in run.seeds if item in seed.scores] for item in _items(run)}
    item, values = next(((item, found) for item, found in reversed(scores.items()) if found), ("", []))
    parts = [
        f"{statistics.fmean(values):.4f} bits per byte ({item}, {counted(len(values), 'seed')})"
        if values
        else "no score"
    ]
    if (total := run.results["total_bytes"]) is not None:
        parts.append(f"{total:,} of {run.results['limit_bytes']:,} bytes")
    parts.append(f"audit {audit_text(run.results)}")
    return paragraph(f"{run.name}: {'; '.join(parts)}.")


def _items(run: RunFacts) -> list[str]:
    return list(dict.fromkeys(item for seed in run.seeds for item in seed.scores))


def _results(runs: Sequence[RunFacts]) -> list[str]:
    parts = []
    for run in runs:
        heads, *rows = results_rows(run.results)
        parts += [f"<h3>{escape(run.name)}</h3>"] * (len(runs) > 1) + [table(f"results of {run.name}", heads, rows)]
        parts += ["<ul>", *(f"<li>{escape(line)}</li>" for line in results_ending(run.results)), "</ul>"]
    return parts


def _time(runs: Sequence[RunFacts]) -> list[str]:
    seconds = {seed.label: found for run in runs for seed in run.seeds if (found := seconds_of(seed))}
    if not seconds:
        return [missing("train")]
    stages = list(dict.fromkeys(stage for each in seconds.values() for stage in each))
    rows = [
        (label, *(f"{each[stage]:,.1f}" if stage in each else "-" for stage in stages))
        for label, each in seconds.items()
    ]
    alt = "; ".join(f"{label}: {sum(each.values()):,.0f} seconds" for label, each in seconds.items())
    caption = "What the stages of every seed took by their own reports; evaluate is all its items together."
    numbers = table("seconds", ["seed", *stages], rows)
    return [figure(charts.stage_seconds(seconds), f"Seconds of the stages. {alt}.", caption, numbers)]


def _audit(runs: Sequence[RunFacts]) -> list[str]:
    return [part for run in runs for part in _audit_of(run, len(runs) > 1)]


def _audit_of(run: RunFacts, is_named: bool) -> list[str]:
    name = [f"<h3>{escape(run.name)}</h3>"] * is_named
    if run.audit is None:
        return [*name, missing("audit")]
    heads = ["check", "verdict", "what it asks", "evidence"]
    rows = [(check["id"], check["verdict"], check["title"], check["evidence"]) for check in run.audit["checks"]]
    told = [row for row in rows if row[1] in ("fail", "alarm")]
    failed = sum(row[1] == "fail" for row in rows)
    verdict = (
        f"Verdict: {run.audit['verdict']}; {failed} of {len(rows)} checks failed, {len(told) - failed} raised an alarm."
    )
    other = [paragraph("It is the audit of other artifacts than these.")] if run.results["verdict"] is None else []
    shown = [table("checks that failed or raised an alarm", heads, told, (1, 2, 3))] if told else []
    every = table("all checks", heads, rows, (1, 2, 3))
    return [*name, paragraph(verdict), *other, *shown, f"<details><summary>All checks</summary>{every}</details>"]
