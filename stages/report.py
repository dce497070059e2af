"""`fairway report`: the results of the run, as far as it has come, on the terminal or as a page."""

import contextlib
from pathlib import Path

import click

from stages.shell.console import params_option
from stages.shell.rules import check_params


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of pictures to this file instead.")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@params_option
def report(as_json: bool, html: Path | None, folders: tuple[Path, ...], params_path: str) -> None:
    """Print scores, sizes, seconds and verdict, a column per seed; what is not there yet is left out.

    With --html write one self-contained page instead, for any browser and without a network: curves, bytes, errors,
    losses, times and the audit of all seeds. It shows further runs beside this one, each FOLDER with a params.yaml and
    artifacts/ of its own. It runs both models of every seed on a little training text, and reads val to show documents.

    Reads params.yaml and what the stages have left under artifacts/, after any of them.

    \b
    fairway report
    fairway report --html page.html ../other-run
    """
    from pipeline.reports.results import report_results, results_json, results_table

    if as_json and html is not None:
        raise click.UsageError("--json and --html exclude each other.")
    if html is not None:
        _write_page(html, folders, params_path)
        return
    if folders:
        raise click.UsageError("FOLDER goes with --html.")
    results = report_results(check_params(params_path))
    click.echo(results_json(results) if as_json else results_table(results))


def _write_page(html: Path, folders: tuple[Path, ...], params_path: str) -> None:
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home where it can keep no list of fonts is no fault

    from pipeline.base.checks import require
    from pipeline.base.files import require_writable, write_bytes
    from pipeline.reports.page import page
    from pipeline.reports.run_facts import run_facts

    for folder in folders:
        is_run = (folder / "params.yaml").is_file()
        require(is_run, "FOLDER", str(folder), "the folder of a run, with its params.yaml and artifacts/")
    require_writable(html)
    runs, several, here = [], bool(folders), Path.cwd().name
    for folder, path in ((Path(), params_path), *((folder, "params.yaml") for folder in folders)):
        with contextlib.chdir(folder):
            params = check_params(path)
            runs.append(
                run_facts(params, (str(folder) if folder.name else here) if several else params.package.name, several)
            )
    write_bytes(html, page(runs).encode())
    click.echo(f"{html}: {html.stat().st_size:,} bytes")
