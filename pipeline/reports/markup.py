"""The pieces of a page as HTML text: sections, figures with their data, tables, and the style around them.

The one idea: every text is escaped where it enters, so that whatever a document or a folder is called stays text.

Checked by: tests/reports/test_page.py.
"""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{--ink:#16181d;--soft:#5b6270;--grid:#d9dce3;--paper:#fff;--panel:#f4f5f8;--s0:#0072b2;--s1:#c2500a;--s2:#00795c;
--s3:#a03d8c;--s4:#7a5c01;--s5:#33415c;--t0:#c6dbef;--t1:#9ecae1;--t2:#6baed6;--t3:#3182bd;--t4:#08519c;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--soft:#a2a9b8;--grid:#363b47;--paper:#14161b;--panel:#1e2129;
--s0:#5bb8f5;--s1:#ff9a57;--s2:#35d0a4;--s3:#e79ad6;--s4:#e3c04a;--s5:#b9c4dc;--t0:#1f3a57;--t1:#2c5f8d;--t2:#3f86c2;
--t3:#75b2e3;--t4:#c3e2fb}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:46rem;padding:1rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1,h2,h3{line-height:1.2;margin:2rem 0 .5rem}h1{margin-top:.5rem}h2{border-top:1px solid var(--grid);padding-top:1.5rem}
a{color:var(--s0)}nav ul{padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1rem;list-style:none}
figure{margin:1.5rem 0}svg{display:block;width:100%;height:auto;font-family:system-ui,sans-serif}
svg *{stroke-linejoin:round;stroke-linecap:butt}
figcaption,.note,summary{color:var(--soft);font-size:.9rem}summary{cursor:pointer}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{padding:.15rem .6rem;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}
th:first-child,td.text{text-align:left}thead th{color:var(--soft);vertical-align:bottom}th{font-weight:600}
blockquote{margin:.5rem 0;padding:.5rem .8rem;background:var(--panel);border-left:3px solid var(--soft);
white-space:pre-wrap}
.missing{background:var(--panel);padding:.5rem .8rem}
"""
"""Of the whole page; the names of colours are those that `charts.COLOURS` draws with."""


def document(title: str, body: str) -> str:
    """Return a whole page; `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def section(key: str, title: str, parts: Iterable[str]) -> str:
    """Return a section; `parts` are HTML."""
    return f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{escape(title)}</h2>\n' + (
        "\n".join(parts) + "\n</section>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text, of class `kind`."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def missing(stage: str) -> str:
    """Return the line that stands for what is not there yet."""
    return paragraph(f"Not there yet: stage {stage} brings it.", "missing")


def figure(svg: str, alt: str, caption: str, data: str = "") -> str:
    """Return a figure with its text alternative and, folded away, its `data`, a table."""
    picture = svg.replace("<svg ", f'<svg aria-label="{escape(alt)}" ', 1)
    folded = f"\n<details><summary>The numbers</summary>{data}</details>" if data else ""
    return f"<figure>\n{picture}\n<figcaption>{escape(caption)}</figcaption>{folded}\n</figure>"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], text_columns: Sequence[int] = ()
) -> str:
    """Return a table whose first column heads its rows; `text_columns` are not numbers."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    lines = "\n".join(f"<tr>{_row(row, text_columns)}</tr>" for row in rows)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"
    )


def _row(row: Sequence[object], text_columns: Sequence[int]) -> str:
    head, *cells = [escape(str(cell)) for cell in row]
    classes = [' class="text"' if index in text_columns else "" for index in range(1, len(row))]
    return f'<th scope="row">{head}</th>' + "".join(
        f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, cells, strict=True)
    )
