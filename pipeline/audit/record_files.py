"""What an audit reads: the record folder, and the files of the run that made it where they are at hand.

Both are foreign: whatever they hold is read within bounds, and a fault is a ValueError of one line.

Checked by: tests/stages/test_audit.py.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.audit.evaluator import Rows
from pipeline.audit.untrusted import field, one_line, read_foreign_object, read_ledger, stated_number
from pipeline.base.artifacts import ROOT, path_of
from pipeline.base.checks import require
from pipeline.base.files import files_below, require_plain_files, sha256_of_file
from pipeline.data.shards import shard_paths
from pipeline.verification.folder import Record, read_record
from pipeline.verification.program import read_program
from pipeline.verification.runs import Run
from pipeline.verification.sizes import artifact_of

NO_RUN = "the run's own files are not at hand (--evidence)"
ANY_VOCABULARY = 1 << 16
_LARGEST_FILE_BYTES = 1 << 30
_LARGEST_LEDGER_BYTES = 1 << 32
_MOST_SEEDS = 64
_STATED = ("val_loss", "val_bpb", "bytes_total", "bytes_code")
_STATED_OF_SEEDS = (
    *("val_loss", "val_bpb", "artifact_bytes", "steps", "step_avg_ms", "train_wallclock_ms", "eval_time_s"),
    *("val_tokens", "target_tokens", "eval_bytes"),
)
"""Keys of submission.json, and of its seeds, that every record of ours has."""


def require_record(path: Path) -> None:
    """Raise ValueError unless there is such a folder."""
    require(path.is_dir(), str(path), "no folder", "a record folder; run `dvc repro` or name one")


class RecordFolder:
    """A record folder that holds whatever a record of ours holds."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when a file that every record has is missing, damaged or absurdly large."""
        self.path = path
        require_record(path)
        if not any(path.glob("*.fwy")):
            raise ValueError(
                f"{path}: holds no weights (model.fwy), so that its program cannot be asked for scores; "
                f"`fairway verify {path}` compares what it states with its own files"
            )
        try:
            require_plain_files(path)
            for file in files_below(path):
                size = file.stat().st_size
                require(size <= _LARGEST_FILE_BYTES, str(file), size, f"at most {_LARGEST_FILE_BYTES} bytes")
            self.record = read_record(path)
            for fault in self.record.findings:
                raise ValueError(fault.message)
            self.seeds = _seeds_of(self.record.fields)
            _require_statements(self.record.fields)
            self._keep_own_logs(self.record)
            require(self.record.readme is not None, "README.md", "no such file", "a file that every record has")
            self.program_read = read_program(self.record)
            self.artifacts = {seed: artifact_of(self.record, str(seed)) or path / "model.fwy" for seed in self.seeds}
            tokenizers = sorted(path.glob("tokenizers/*.model"))
            require(len(tokenizers) == 1, f"{path}/tokenizers", len(tokenizers), "one .model file")
            self.tokenizer = tokenizers[0]
            for file in (self.tokenizer, *self.artifacts.values()):
                require(file.is_file(), str(file), "no such file", "a file that every record has")
        except ValueError as error:
            raise ValueError(f"{path}: not a complete record ({one_line(error)}); run `fairway package`") from None

    def _keep_own_logs(self, record: Record) -> None:
        """Leave the logs of the seeds and no others."""
        logs = {log.name: log for log in record.logs}
        record.logs = [field(logs, "logs", f"train_seed{seed}.log") for seed in self.seeds]

    @property
    def program(self) -> Path:
        """The file that is run and counted."""
        return self.record.program

    def log(self, seed: int) -> Run:
        """Return what a seed's log states."""
        return self.record.runs[str(seed)]

    def of_seed(self, seed: int, key: str) -> float:
        """Return a number of one seed's results in submission.json; ValueError when it is none."""
        return stated_number(self.record.fields, "submission.json", "seed_results", str(seed), key)


def _seeds_of(submission: Any) -> list[int]:
    seeds, results = (field(submission, "submission.json", key) for key in ("seeds", "seed_results"))
    is_list = isinstance(seeds, list) and 0 < len(seeds) <= _MOST_SEEDS and all(type(each) is int for each in seeds)
    require(is_list and len(set(seeds)) == len(seeds), "seeds", one_line(seeds), "a list of seeds, each once")
    is_complete = isinstance(results, dict) and list(results) == [str(seed) for seed in seeds]
    require(is_complete, "seed_results", one_line(results), f"the seeds {one_line(seeds)}")
    return seeds


def _require_statements(submission: Any) -> None:
    """Raise ValueError when a number that every record of ours states is missing."""
    for key in _STATED:
        stated_number(submission, "submission.json", key)
    for seed in submission["seed_results"]:
        for key in _STATED_OF_SEEDS:
            stated_number(submission, "submission.json", "seed_results", seed, key)
    require(isinstance(field(submission, "submission.json", "all_runs"), list), "all_runs", "no list", "all runs")


class RealLedger(NamedTuple):
    """A ledger of the run that made the record."""

    rows: Rows
    protocol: Any


class Evidence:
    """The files of a run, laid out as the stages leave them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[Path, str] = {}
        self._ledgers: dict[Path, RealLedger] = {}

    def path(self, name: str, **keys: object) -> Path:
        """Return where artifact `name` of the table lies below `root`."""
        return self.root / path_of(name, **keys).relative_to(ROOT)

    def report(self, name: str, **keys: object) -> dict[str, Any]:
        """Return a stage's report; ValueError when there is none, or none that can be read."""
        return read_foreign_object(self.path(name, **keys))

    def digest(self, path: Path) -> str:
        """Return a file's sha256, computed once; ValueError when there is no such file."""
        if path not in self._digests:
            require(path.is_file(), str(path), "no such file", "the files of the run that made the record")
            self._digests[path] = sha256_of_file(path)
        return self._digests[path]

    def shards(self, split: Literal["train", "val"]) -> list[Path]:
        """Return the shards of a split, those that a listing names included, in the order of the manifest."""
        return shard_paths(self.path(f"{split}_shards"), split)

    def ledger(self, seed: int, item: str) -> RealLedger:
        """Return a ledger of the run, read once; ValueError when it is no ledger."""
        path = self.path("ledger", seed=seed, item=item)
        if path not in self._ledgers:
            arrays = read_ledger(path, ["meta"], _LARGEST_LEDGER_BYTES)
            protocol = field(json.loads(arrays["meta"].tobytes()), "ledger: meta", "protocol")
            self._ledgers[path] = RealLedger(Rows.of(arrays), protocol)
        return self._ledgers[path]
