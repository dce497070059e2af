"""`fairway report`: the results of the run, as far as it has come."""

import click

from stages.shell.console import params_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@params_option
def report(as_json: bool, params_path: str) -> None:
    """Print scores, sizes, seconds and verdict, a column per seed; what is not there yet is left out.

    Reads sections `seeds`, `evaluate` and `budget`, and the reports under artifacts/, after any stage.
    """
    from pipeline.base.config import load_params
    from pipeline.reports.results import results_json, results_table, run_results

    results = run_results(load_params(params_path, ["seeds", "evaluate", "budget"]))
    click.echo(results_json(results) if as_json else results_table(results))
