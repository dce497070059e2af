"""A record folder as it lies on disk, ours or not: what there is of it, read within bounds.

Checked by: tests/record/test_verify.py.
"""

import json
import math
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.checks import require
from pipeline.base.files import require_plain_files
from pipeline.record.statements import SeedLog, stated_number

MOST_TEXT_BYTES = 64_000_000
"""Of a log, of submission.json and of README.md."""


class Record(NamedTuple):
    """What there is of a record folder."""

    folder: Path
    submission: Mapping[str, Any]
    """submission.json with every number as a Decimal, which keeps the digits that were stated."""
    logs: Mapping[str, SeedLog]
    """By seed, or by file name where no seed is known."""
    readme: str | None

    @property
    def program(self) -> Path:
        """The file that is counted and run."""
        return self.folder / "train_gpt.py"

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """Seed -> its entry, as far as entries are objects."""
        entries = part_of(self.submission, "seed_results").items()
        return {seed: entry for seed, entry in entries if isinstance(entry, Mapping)}

    def artifact(self, seed: str) -> Path | None:
        """Return the artifact of a seed, where the folder holds one."""
        return self.find(f"model_seed{seed}.fwy", *(["model.fwy"] if len(self.logs) == 1 else []))

    def find(self, *names: str) -> Path | None:
        """Return the first file of these names."""
        return next((self.folder / name for name in names if os.path.isfile(self.folder / name)), None)


def read_record(folder: Path) -> Record:
    """Read what a folder holds; raises ValueError, naming the file, without train_gpt.py or for texts that are none."""
    require((folder / "train_gpt.py").is_file(), f"{folder}/train_gpt.py", "no such file", "a record folder")
    require_plain_files(folder)
    path = folder / "submission.json"
    try:
        text = record_text(path)
        submission = json.loads(
            "{}" if text is None else text,
            parse_float=stated_number,
            parse_int=lambda digits: int(stated_number(digits)),
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({str(error)[:120]})") from None
    require(isinstance(submission, dict), str(path), type(submission).__name__, "an object")
    named = submission.get("seed_results") or submission.get("seeds")
    seeds = [str(seed) for seed in named] if isinstance(named, list | dict) else []
    paths = sorted(path for pattern in ("*.log", "train*.txt", "logs/*") for path in folder.glob(pattern))
    logs = [SeedLog(path.name, text) for path in paths if (text := record_text(path)) is not None]
    by_seed = {log.seed_among(seeds) or log.name: log for log in logs}
    return Record(folder, submission, by_seed, record_text(folder / "README.md"))


def record_text(path: Path) -> str | None:
    """Return a text of a record, None where there is none; ValueError, naming the file, when it is too long."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    require(size <= MOST_TEXT_BYTES, str(path), f"{size:,} bytes", f"at most {MOST_TEXT_BYTES:,}")
    return path.read_text("utf-8", errors="replace")


def part_of(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object that was stated under a key; an empty one for anything else."""
    value = fields.get(key)
    return value if isinstance(value, Mapping) else {}


def number_of(fields: Mapping[str, Any], key: str) -> Decimal | int | None:
    """Return a finite number that was stated; None for anything else."""
    value = fields.get(key)
    is_number = isinstance(value, Decimal | int) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None
