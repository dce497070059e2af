"""`fairway verify`: does a record folder say what its own files say?"""

import json
import sys
from functools import partial
from pathlib import Path

import click

from stages.shell.console import log, machine_environment
from stages.shell.folding import wrapped
from stages.shell.strangers import runs_in_sandbox, unsafe_option


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="artifacts/submission")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON instead.")
@click.option("--run", is_flag=True, help="See too whether train_gpt.py --help starts: in a sandbox (bubblewrap).")
@unsafe_option
def verify(folder: Path, as_json: bool, run: bool, unsafe: bool) -> None:
    """Compare every number that a record FOLDER (default artifacts/submission) states with its own files.

    Works on any record of the challenge, as far as what it states goes, and runs nothing of it without --run. Prints
    the findings, worst first, and writes nothing. Exits 0 when something was compared and nothing contradicts, 1
    for contradictions, 3 when nothing could be compared.
    """
    from pipeline.verification.start import start_finding
    from pipeline.verification.verify import exit_code_of, verify_folder, verify_report, verify_table

    if unsafe and not run:
        raise click.UsageError("--unsafe says how the program is run: it goes with --run")
    sandboxed = run and runs_in_sandbox(folder, unsafe, log)
    start = partial(start_finding, environment=machine_environment(), sandboxed=sandboxed) if run else None
    findings = verify_folder(folder, start)
    click.echo(json.dumps(verify_report(findings), indent=2) if as_json else wrapped(verify_table(findings)))
    sys.exit(exit_code_of(findings))
