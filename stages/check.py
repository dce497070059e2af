"""`fairway check`: is params.yaml sound as a whole?"""

import click

from stages.shell.console import params_path_option
from stages.shell.rules import check_params


@click.command()
@params_path_option
def check(params_path: str) -> None:
    """Check the whole of params.yaml: every section, and that sections agree; nothing is run or written.

    Every command that takes --params does the same before its own work.
    """
    params = check_params(params_path)
    click.echo(f"{params_path}: all {len(vars(params))} sections are sound and agree")
