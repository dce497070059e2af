"""A record folder as it lies on disk, ours or not: what there is of it, read within bounds.

The one idea: a file that cannot be read is a finding and not the end, so that a folder is judged as far as it goes.
A seed's run is the one whose log is filed under it, by its name or else by the seed that it states; of several the one
that agrees with most of what the seed's entry states, and none borrows a figure from another.

Checked by: tests/verification/test_folder.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.base.checks import one_line
from pipeline.base.files import sha256_of_file
from pipeline.base.foreign import Listing, look_through, read_bounded, read_start
from pipeline.verification import fields
from pipeline.verification.fields import NOTHING, Submission, read_submission
from pipeline.verification.findings import Finding, Place, finding
from pipeline.verification.reading import MOST_LOG_BYTES, read_log
from pipeline.verification.runs import Log, Run
from pipeline.verification.support import supporters

PROGRAM, README = "train_gpt.py", "README.md"
MOST_TEXT_BYTES, MOST_LINES = 32_000_000, 60_000
"""Of all logs of a folder."""
MOST_DIGESTED_BYTES = 400_000_000
"""Of all files whose digests are stated."""
_MOST_README_BYTES = 4_000_000
_MOST_LOGS = 100
_LOOKED_AT_BYTES = 4096
_LOG_SUFFIXES = (".log", ".txt", ".out", "")
_NO_LOGS = re.compile(r"requirements|licen[cs]e|readme|vocab|notes", re.IGNORECASE)


class Record:
    """What there is of a record folder."""

    def __init__(self, folder: Path, listing: Listing) -> None:
        self.folder = folder
        self.listing = listing
        self.findings: list[Finding] = []
        """What is wrong with files."""
        self.submission: Submission = NOTHING
        self.logs: list[Log] = []
        self.readme: str | None = None
        self._digests: dict[str, str | None] = {}

    @property
    def program(self) -> Path:
        """The file that is counted and run."""
        return self.folder / PROGRAM

    @property
    def fields(self) -> Mapping[str, Any]:
        """What submission.json holds."""
        return self.submission.fields

    @property
    def results(self) -> Mapping[str, Mapping[str, Any]]:
        """Seed -> its entry of submission.json."""
        return self.submission.seeds

    @property
    def seeds(self) -> list[str]:
        """The seeds that submission.json names."""
        return list(self.submission.seeds)

    @property
    def all_runs(self) -> list[Run]:
        """Every run of every log, of logs with one content only the first by name."""
        first: dict[str, Log] = {}
        for log in sorted(self.logs, key=lambda log: _name_key(log.name)):
            first.setdefault(log.digest, log)
        return [run for log in self.logs if first[log.digest] is log for run in log.runs]

    def candidates(self, seed: str) -> list[Run]:
        """Return the runs that may be a seed's, best name first."""
        filed = [run for run in self.all_runs if filed_seed(run, self.seeds) == seed]
        return sorted(filed, key=lambda run: _name_key(run.name))

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Seed -> its run."""
        found = {}
        for seed in self.seeds:
            stated = [each for each in self.submission.stated if each.seed == seed]
            if candidates := self.candidates(seed):
                found[seed] = max(candidates, key=lambda run: sum(bool(supporters(run, each)) for each in stated))
        return found

    @cached_property
    def headline_run(self) -> Run | None:
        """The run whose figures a record without results of seeds states; None when it has results, or no log."""
        stated = [each for each in self.submission.stated if each.seed is None]
        runs = sorted(self.own_runs, key=lambda run: _name_key(run.name))
        if any(self.results.values()) or not runs:
            return None
        return max(runs, key=lambda run: sum(bool(supporters(run, each)) for each in stated))

    @property
    def stated_runs(self) -> list[Run]:
        """The runs whose figures the record states: the seeds', else the headline's."""
        return list(self.runs.values()) or [run for run in [self.headline_run] if run]

    @property
    def own_runs(self) -> list[Run]:
        """The seeds' runs; without any, those of no other seed than is stated."""
        unfiled = [run for run in self.all_runs if not self.seeds or run.seed is None]
        return list(self.runs.values()) or unfiled

    @property
    def missing_seeds(self) -> list[str]:
        """The stated seeds without a log."""
        return [seed for seed in self.seeds if seed not in self.runs]

    def digest(self, name: str) -> str | None:
        """Return the hex sha256 of a file, computed once; None when there is none, or all of them hold too much."""
        if name not in self._digests:
            held = sum(self.listing.sizes[each] for each, digest in self._digests.items() if digest)
            is_small = name in self.listing.sizes and held + self.listing.sizes[name] <= MOST_DIGESTED_BYTES
            self._digests[name] = sha256_of_file(self.folder / name) if is_small else None
        return self._digests[name]

    def is_binary(self, name: str) -> bool:
        """Return whether a file of the listing does not begin as a text does."""
        return b"\0" in read_start(self.folder / name, _LOOKED_AT_BYTES)

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Return a file's content; None for one that is not there or cannot be read, which is a finding."""
        if name not in self.listing.sizes:
            return None
        try:
            return read_bounded(self.folder / name, most_bytes)
        except ValueError as error:
            reason = str(error).removeprefix(f"{self.folder}/")
            self.findings.append(finding("files", "contradiction", reason, None, Place(name, None, None)))
            return None


def _name_key(name: str) -> tuple[bool, int, str]:
    """Order names of logs: those that name a seed first, then the shorter."""
    return "seed" not in name.lower(), len(name), name


def filed_seed(run: Run, seeds: Sequence[str]) -> str | None:
    """Return the seed that a log's name says, else the one it logs, else the only one that is stated."""
    logged = str(run.seed.value) if run.seed else seeds[0] if len(seeds) == 1 else None
    return named_seed(run, seeds) or logged


def named_seed(run: Run, seeds: Sequence[str]) -> str | None:
    """Return the seed that a log's name says, else a stated seed among the name's numbers."""
    if named := re.findall(r"seed[_-]?(\d{1,18})", run.name, re.IGNORECASE):
        return named[-1]
    numbers = [number for number in re.findall(r"\d+", run.name) if number in seeds]
    if run.seed and str(run.seed.value) in numbers:
        return str(run.seed.value)
    return numbers[-1] if numbers else None


def read_record(folder: Path) -> Record:
    """Return what a folder holds; ValueError when it is no folder."""
    record = Record(folder, look_through(folder))
    record.findings += list(_listing_findings(record.listing))
    content = record.read(fields.NAME, fields.MOST_BYTES)
    if content is not None:
        record.submission = read_submission(content)
        record.findings += record.submission.findings
    readme = record.read(README, _MOST_README_BYTES)
    record.readme = None if readme is None else readme.decode("utf-8", "replace")
    record.logs = list(_logs(record))
    return record


def _listing_findings(listing: Listing) -> Iterator[Finding]:
    for name, reason in listing.faults.items():
        yield finding("files", "contradiction", f"{one_line(name)}: {reason}", None, Place(name, None, None))


def _logs(record: Record) -> Iterator[Log]:
    left_bytes, left_lines = MOST_TEXT_BYTES, MOST_LINES
    names = [name for name in record.listing.sizes if _is_log_name(name)]
    for number, name in enumerate(names):
        if number == _MOST_LOGS or min(left_bytes, left_lines) <= 0:
            said = f"{len(names) - number} of {len(names)} logs are not read: a record's logs are smaller, or fewer"
            record.findings.append(finding("files", "contradiction", said))
            return
        if record.listing.sizes[name] > MOST_LOG_BYTES:
            is_no_text = "." not in PurePosixPath(name).name  # nothing says that it is one
        else:
            is_no_text = record.is_binary(name)
        content = None if is_no_text else record.read(name, MOST_LOG_BYTES)
        if content is None:
            continue
        left_bytes -= len(content)
        left_lines -= content.count(b"\n")
        try:
            log = read_log(name, content)
        except ValueError as error:
            record.findings.append(finding("files", "contradiction", error, None, Place(name, None, None)))
            continue
        if any(run.lines or run.figures for run in log.runs):
            yield log


def _is_log_name(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix in _LOG_SUFFIXES and not _NO_LOGS.search(path.name) and not path.name.startswith(".")
