"""Where a measurement goes: one JSON file per benchmark, with the commit and the machine it was taken on."""

import platform
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import git_commit, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, hardware: str, measured: dict[str, Any]) -> Path:
    """Write `measured` with commit, hardware and Python version; return the file."""
    path = RESULTS / f"{name}.json"
    header = {"commit": git_commit(ROOT), "hardware": hardware, "python": platform.python_version()}
    write_json(path, {**header, "measured": measured})
    return path
