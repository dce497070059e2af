"""`fairway compare`: runs, experiments and revisions side by side."""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.shell.folding import wrapped


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A B...")
@click.option("--item", help="The item whose scores are compared. Default: the last of A's that all list.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with a picture to this file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def compare(runs: tuple[str, ...], item: str | None, html: Path | None, as_json: bool) -> None:
    """Compare runs with the first of them: figures, scores document by document, parameters.

    A run is a folder with params.yaml and artifacts/ (`.` or `workspace`: this one), a Git revision or a DVC
    experiment of this checkout, whose files come from DVC's cache or its remote. Of the difference on one item the
    table gives a 95 % interval: a bootstrap over the documents that both scored.

    \b
    fairway compare main .               this folder with what branch main has
    fairway compare A B --html page.html
    """
    from pipeline.base.files import require_writable, write_bytes
    from pipeline.reports.compare import comparison_table

    if len(runs) < 2:
        raise click.UsageError("give two runs or more: A B...")
    if as_json and html is not None:
        raise click.UsageError("--json and --html exclude each other.")
    if html is None:
        comparison = _comparison(runs, item)
        click.echo(json.dumps(comparison, indent=1) if as_json else wrapped(comparison_table(comparison)))
        return
    from pipeline.reports.compare_page import comparison_page

    require_writable(html)
    write_bytes(html, comparison_page(_comparison(runs, item)).encode())
    click.echo(f"{html}: {html.stat().st_size:,} bytes")


def _comparison(runs: Sequence[str], item: str | None) -> dict[str, Any]:
    from pipeline.reports.compare import common_item, compare_arms, ledger_paths, open_arms, report_paths

    with tempfile.TemporaryDirectory() as scratch:
        places = [_place(run, Path(scratch) / str(number)) for number, run in enumerate(runs)]
        arms = open_arms([(place.name, place.folder) for place in places])
        for arm, place in zip(arms, places, strict=True):
            place.fetch(report_paths(arm.params), place.folder)
        chosen = common_item(arms, item)
        for arm, place in zip(arms, places, strict=True):
            place.fetch(ledger_paths(arm.params, chosen), place.folder)
        return compare_arms(arms, chosen)


class _Place(NamedTuple):
    """Where the files of a run lie, and what brings further ones there."""

    name: str
    folder: Path
    fetch: Callable[[Iterable[Path], Path], None]


def _place(run: str, scratch: Path) -> _Place:
    """Return the place of a run: its folder, or `scratch` with params.yaml of a revision."""
    folder = Path("." if run == "workspace" else run)
    if (folder / "params.yaml").exists():
        return _Place(run, folder, lambda paths, to: None)
    from stages.shell.revisions import Revision

    revision = Revision(run)
    revision.fetch([Path("params.yaml")], scratch)
    return _Place(f"{run} ({revision.commit[:7]})", scratch, revision.fetch)
