"""`fairway status`: how every stage stands and why, what runs, bytes and scores, and the next command."""

import json

import click

from stages.shell.rules import check_params


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def status(as_json: bool) -> None:
    """Say how every stage stands and why, what runs, bytes and scores, and the command to type next.

    A stage is done, stale (what it depends on changed; `why` says what), missing, running, `in cache` (DVC has its
    outputs), `uncached` (DVC has no copy of them), `by hand` (made without DVC) or imported. One that `follows
    quantize` has no change of its own and runs again if quantize makes other outputs. Times are those of the last
    runs. Reads params.yaml, dvc.lock, artifacts/ and DVC's queue; waits for no other command and changes nothing.
    """
    from pipeline.reports.results import run_results
    from stages.shell.durations import parse_name
    from stages.shell.outlook import look
    from stages.shell.outlook_text import outlook_lines

    params = check_params("params.yaml")
    results, outlook = run_results(params), look(params)
    if as_json:
        stages = [{**place._asdict(), **parse_name(place.name)._asdict()} for place in outlook.standings]
        stopped = {name: snapshot._asdict() for name, snapshot in outlook.interrupted.items()}
        said = {**outlook._asdict(), "standings": stages, "interrupted": stopped, "results": results}
        click.echo(json.dumps(said, indent=1))
    else:
        click.echo("\n".join(outlook_lines(outlook, params, results)))
