"""`fairway verify`: does a record folder say what its own files say?"""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="artifacts/submission")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON instead.")
def verify(folder: Path, as_json: bool) -> None:
    """Compare every number that a record FOLDER (default artifacts/submission) states with its own files.

    Works on any record of the challenge, as far as what it states goes. Prints a line per finding, worst first, and
    writes nothing. Exits 0 when something was compared and nothing contradicts, 1 for contradictions, 3 when nothing
    could be compared.
    """
    from pipeline.verification.verify import exit_code_of, verify_folder, verify_report, verify_table

    findings = verify_folder(folder)
    click.echo(json.dumps(verify_report(findings), indent=2) if as_json else verify_table(findings))
    sys.exit(exit_code_of(findings))
