"""Whose program is it? A stranger's runs in the sandbox or not at all; one's own runs without where there is none."""

from pathlib import Path

import click

from pipeline.base.artifacts import path_of
from pipeline.base.progress import Log
from pipeline.launching.sandbox import require_sandbox
from stages.shell.console import ROOT

unsafe_option = click.option(
    "--unsafe", is_flag=True, help="Run the program without a sandbox: it may do whatever you may."
)


def runs_in_sandbox(folder: Path, unsafe: bool, log: Log) -> bool:
    """Return whether the program of a record folder is to run in the sandbox; a line of the log says so.

    Raises ValueError, one line, for a folder that was not made here when no sandbox can be had and `unsafe` is not set.
    """
    if unsafe:
        log(f"{folder}: its program runs without a sandbox, with your rights (--unsafe)")
        return False
    try:
        require_sandbox()
    except ValueError as error:
        if not is_own(folder):
            raise
        log(f"{folder}: made here, so its program runs without a sandbox ({error})")
        return False
    log(f"{folder}: its program runs in a sandbox")
    return True


def is_own(folder: Path) -> bool:
    """Return whether a folder is where this checkout leaves the records that it makes."""
    return folder.resolve() in {(ROOT / path_of(name)).resolve() for name in ("package", "submission")}
