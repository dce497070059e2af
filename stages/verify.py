"""`fairway verify`: does a record folder say what its files say?"""

import sys
from pathlib import Path

import click

from stages.shell.console import machine_environment


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="artifacts/submission")
def verify(folder: Path) -> None:
    """Compare every number that a record FOLDER (default artifacts/submission) states with its own files.

    Works on any record of the challenge, as far as what it states goes. Prints a line per check and writes nothing;
    exits 1 if any fails. Its program is not run beyond `--help`: `fairway audit` does that.
    """
    from pipeline.record.verify import verify_folder, verify_table

    checks = verify_folder(folder, machine_environment())
    click.echo(verify_table(checks))
    if any(check.verdict == "FAIL" for check in checks):
        sys.exit(1)
