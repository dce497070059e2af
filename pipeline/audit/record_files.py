"""What an audit reads: the record folder, and the files of the run that made it where they are at hand.

Both are foreign: whatever they hold is read within bounds, and a fault is a ValueError of one line.

Checked by: tests/stages/test_audit.py.
"""

import json
import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.audit.evaluator import ROUNDING_NATS
from pipeline.audit.untrusted import (
    LEDGER_KINDS,
    check_columns,
    field,
    one_line,
    read_foreign_arrays,
    read_foreign_object,
    read_foreign_text,
    stated_number,
)
from pipeline.base.artifacts import ROOT, path_of
from pipeline.base.checks import require
from pipeline.base.files import files_below, require_plain_files, sha256_of_file
from pipeline.data.shards import shard_paths

_LARGEST_FILE_BYTES = 1 << 30
_LARGEST_LEDGER_BYTES = 1 << 32
_MOST_SEEDS = 64
_SCORE_LINE = re.compile(r"(final_\w+_exact) val_loss:(\d{1,6}\.\d{8}) val_bpb:(\d{1,6}\.\d{8})", re.ASCII)
_FLOAT_LINE = re.compile(r"(pre_quant) val_loss:(\d{1,6}\.\d{8}) val_bpb:(\d{1,6}\.\d{8})", re.ASCII)
_README_ROW = re.compile(
    r"\| (\d+) \| (\S+) \| artifact \| (\d{1,6}\.\d{8}) \| (\d{1,6}\.\d{8}) \| ([\d,]+) \| ([\d,]+) \|", re.ASCII
)


class Score(NamedTuple):
    """A score as a log or README states it, in text: eight digits after the point."""

    val_loss: str
    val_bpb: str


class StatedItem(NamedTuple):
    """A row of the README's table of scores."""

    score: Score
    targets: int
    bytes: int


class RecordFolder:
    """A record folder as it lies on disk."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when a file that every record has is missing, damaged or absurdly large."""
        self.path = path
        require(path.is_dir(), str(path), "no folder", "a record folder: run `fairway package`")
        try:
            require_plain_files(path)
            self.submission = read_foreign_object(path / "submission.json")
            self.seeds = self._read_seeds()
            self.logs = {seed: read_foreign_text(path / f"train_seed{seed}.log").splitlines() for seed in self.seeds}
            self.readme = read_foreign_text(path / "README.md")
            tokenizers = sorted(path.glob("tokenizers/*.model"))
            require(len(tokenizers) == 1, f"{path}/tokenizers", len(tokenizers), "one .model file")
            self.tokenizer = tokenizers[0]
            for file in (self.program, self.tokenizer, *(self.artifact(seed) for seed in self.seeds)):
                require(file.is_file(), str(file), "no such file", "a file that every record has")
            for file in files_below(path):
                size = file.stat().st_size
                require(size <= _LARGEST_FILE_BYTES, str(file), size, f"at most {_LARGEST_FILE_BYTES} bytes")
        except ValueError as error:
            raise ValueError(f"{path}: not a complete record ({one_line(error)}); run `fairway package`") from None

    def _read_seeds(self) -> list[int]:
        seeds, results = (field(self.submission, "submission.json", key) for key in ("seeds", "seed_results"))
        is_list = isinstance(seeds, list) and 0 < len(seeds) <= _MOST_SEEDS and all(type(each) is int for each in seeds)
        require(is_list and len(set(seeds)) == len(seeds), "seeds", one_line(seeds), "a list of seeds, each once")
        is_complete = isinstance(results, dict) and list(results) == [str(seed) for seed in seeds]
        require(is_complete, "seed_results", one_line(results), f"the seeds {one_line(seeds)}")
        return seeds

    @property
    def program(self) -> Path:
        """The file that is run and counted."""
        return self.path / "train_gpt.py"

    @property
    def readable_program(self) -> Path:
        """The same as its author wrote it, for people."""
        return self.path / "train_gpt_human.py"

    @property
    def headline(self) -> str:
        """The item whose score is the record's."""
        return str(field(self.submission, "submission.json", "compliance", "headline_item"))

    def artifact(self, seed: int) -> Path:
        """Return the artifact of one seed."""
        return self.path / ("model.fwy" if len(self.seeds) == 1 else f"model_seed{seed}.fwy")

    def stated(self, *keys: str) -> float:
        """Return a number of submission.json; ValueError when it is none."""
        return stated_number(self.submission, "submission.json", *keys)

    def of_seed(self, seed: int, key: str) -> float:
        """Return a number of one seed's results in submission.json."""
        return self.stated("seed_results", str(seed), key)

    def digests(self, seed: int) -> dict[str, str]:
        """Return name -> sha256 as the seed's log states them; ValueError when it states two for one name."""
        found: dict[str, str] = {}
        for line in self.logs[seed]:
            if line.startswith("sha256 "):
                _, digest, name = (line + "  ").split(" ", 2)
                require(
                    found.setdefault(name.rstrip(), digest) == digest,
                    f"train_seed{seed}.log",
                    f"two digests of {one_line(name)}",
                    "one",
                )
        return found

    def scores(self, seed: int) -> list[Score]:
        """Return the score lines of a seed's log, in order."""
        return scores_in(self.logs[seed], f"train_seed{seed}.log")

    def float_score(self, seed: int) -> Score | None:
        """Return the float model's score as a seed's log states it, None when it does not."""
        found = [match for line in self.logs[seed] if (match := _FLOAT_LINE.fullmatch(line))]
        require(len(found) <= 1, f"train_seed{seed}.log", f"{len(found)} lines pre_quant", "at most one")
        return Score(found[0][2], found[0][3]) if found else None

    def numbers(self, seed: int, label: str) -> list[float]:
        """Return every number that follows `label` in a seed's log."""
        pattern = rf"(?:^|\s){re.escape(label)}\s*(\d{{1,15}}(?:\.\d+)?)(?=ms|s|\s|$)"
        return [float(each) for each in re.findall(pattern, "\n".join(self.logs[seed]), re.MULTILINE | re.ASCII)]

    @cached_property
    def readme_items(self) -> dict[tuple[int, str], StatedItem]:
        """(seed, item) -> what the README's table states of the artifact's score; ValueError for two rows of one."""
        found: dict[tuple[int, str], StatedItem] = {}
        for match in _README_ROW.finditer(self.readme):
            key = int(match[1]), match[2]
            require(key not in found, "README.md", f"two rows of seed {key[0]}, {one_line(key[1])}", "one")
            counts = [int(match[group].replace(",", "")) for group in (5, 6)]
            found[key] = StatedItem(Score(match[3], match[4]), *counts)
        return found


def scores_in(lines: Sequence[str], where: str) -> list[Score]:
    """Return the score lines among `lines`; ValueError for a line that states a bpb in any other form."""
    found = []
    for line in lines:
        if match := _SCORE_LINE.fullmatch(line):
            found.append(Score(match[2], match[3]))
        else:
            is_other = "val_bpb" not in line and "final_" not in line
            require(is_other or bool(_FLOAT_LINE.fullmatch(line)), where, one_line(line), "no other line of a score")
    return found


class RealLedger(NamedTuple):
    """What the rows of a real run's ledger add up to."""

    targets: np.ndarray
    """int (R,): targets in scoring order."""
    bytes_by_row: np.ndarray
    """int (R,)."""
    unsound: int
    """Rows whose nats are negative or no finite number."""
    nats: float
    bytes: int
    protocol: Any

    @property
    def score(self) -> Score:
        """Mean nats per row and bits per byte, recomputed; ValueError when there is nothing to divide by."""
        require(
            len(self.targets) > 0 and self.bytes > 0,
            "ledger",
            f"{len(self.targets)} rows, {self.bytes} bytes",
            "rows that stand for bytes",
        )
        return Score(f"{self.nats / len(self.targets):.8f}", f"{self.nats / (math.log(2) * self.bytes):.8f}")


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
        """Return what a ledger of the run adds up to, read once; ValueError when it is no ledger."""
        path = self.path("ledger", seed=seed, item=item)
        if path not in self._ledgers:
            arrays = read_foreign_arrays(path, [*LEDGER_KINDS, "meta"], _LARGEST_LEDGER_BYTES)
            check_columns(path, arrays)
            self._ledgers[path] = _add_up(arrays)
        return self._ledgers[path]


def _add_up(arrays: dict[str, np.ndarray]) -> RealLedger:
    nats, num_bytes = arrays["nats"].astype(np.float64), arrays["bytes"].astype(np.int64)
    sound = np.isfinite(nats) & (nats >= -ROUNDING_NATS)
    total = math.fsum(nats) if sound.all() else math.nan
    meta = json.loads(arrays["meta"].tobytes())
    protocol = field(meta, "ledger: meta", "protocol")
    unsound = int((~sound).sum())
    return RealLedger(arrays["target"].astype(np.int64), num_bytes, unsound, total, int(num_bytes.sum()), protocol)
