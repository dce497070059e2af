"""What an audit reads: the record folder, and the files of the run that made it where they are at hand.

Checked by: tests/stages/test_audit.py.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.artifacts import ROOT, path_of
from pipeline.checks import require
from pipeline.data.shards import open_shard, shard_paths

_ANY_VOCABULARY = 1 << 16
_SCORE_LINE = re.compile(r"(final_\w+_exact) val_loss:([\d.]+) val_bpb:([\d.]+)")


class Score(NamedTuple):
    """A score line of a log."""

    name: str
    val_loss: float
    val_bpb: float


class RecordFolder:
    """A record folder as it lies on disk."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when a file that every record has is missing or damaged."""
        self.path = path
        for name in ("train_gpt.py", "submission.json", "README.md"):
            require((path / name).is_file(), f"{path}/{name}", "no such file", "a record folder: run `fairway package`")
        try:
            self.submission: dict[str, Any] = json.loads((path / "submission.json").read_text("utf-8"))
            self.seeds: list[int] = list(self.submission["seeds"])
            self.logs = {seed: (path / f"train_seed{seed}.log").read_text("utf-8").splitlines() for seed in self.seeds}
        except (json.JSONDecodeError, KeyError, FileNotFoundError) as error:
            raise ValueError(f"{path}: not a complete record ({error}); run `fairway package`") from None
        tokenizers = sorted(path.glob("tokenizers/*.model"))
        require(len(tokenizers) == 1, f"{path}/tokenizers", len(tokenizers), "one .model file")
        self.tokenizer = tokenizers[0]

    @property
    def program(self) -> Path:
        """The file that is run and counted."""
        return self.path / "train_gpt.py"

    @cached_property
    def readme(self) -> str:
        """The README's text."""
        return (self.path / "README.md").read_text("utf-8")

    def artifact(self, seed: int) -> Path:
        """Return the artifact of one seed."""
        return self.path / ("model.fwy" if len(self.seeds) == 1 else f"model_seed{seed}.fwy")

    def digests(self, seed: int) -> dict[str, str]:
        """Return name -> sha256 as the seed's log states them."""
        words = [line.split(" ", 2) for line in self.logs[seed] if line.startswith("sha256 ")]
        return {name: digest for _, digest, name in words}

    def scores(self, seed: int) -> list[Score]:
        """Return the score lines of a seed's log, the headline last."""
        return scores_in(self.logs[seed])

    def number(self, seed: int, label: str) -> float | None:
        """Return the last number that follows `label` in a seed's log, None when it is nowhere."""
        found = re.findall(rf"(?:^|\s){re.escape(label)}\s*([\d.]+)", "\n".join(self.logs[seed]), re.MULTILINE)
        return float(found[-1]) if found else None


def scores_in(lines: list[str]) -> list[Score]:
    """Return the score lines among `lines`."""
    found = (_SCORE_LINE.fullmatch(line) for line in lines)
    return [Score(match[1], float(match[2]), float(match[3])) for match in found if match]


class Evidence(NamedTuple):
    """The files of a run, laid out as the stages leave them."""

    root: Path

    def path(self, name: str, **keys: object) -> Path:
        """Return where artifact `name` of the table lies below `root`."""
        return self.root / path_of(name, **keys).relative_to(ROOT)

    def report(self, name: str, **keys: object) -> Mapping[str, Any]:
        """Return a stage's report; ValueError when there is none."""
        path = self.path(name, **keys)
        require(path.is_file(), str(path), "no such file", "the files of the run that made the record")
        return json.loads(path.read_text("utf-8"))

    def shards(self, split: Literal["train", "val"]) -> list[Path]:
        """Return the shards of a split, those that a listing names included, in the order of the manifest."""
        return shard_paths(self.path(f"{split}_shards"), split)


def document_digests(shards: list[Path], bos_id: int, shortest: int) -> Iterator[np.ndarray]:
    """Yield uint64 digests of the whole documents of at least `shortest` tokens, one array per shard."""
    rest = np.empty(0, np.uint64)
    for number, path in enumerate(shards):
        tokens_M = np.concatenate([rest, open_shard(path, _ANY_VOCABULARY, check_ids=False).astype(np.uint64)])
        starts = np.flatnonzero(tokens_M == bos_id)
        if not len(starts):
            rest = tokens_M
            continue
        last = number == len(shards) - 1
        stop = len(tokens_M) if last else int(starts[-1])
        rest, tokens_M, starts = tokens_M[stop:], tokens_M[:stop], starts if last else starts[:-1]
        if len(starts):
            yield _digests(tokens_M, starts, shortest)


def _digests(tokens_M: np.ndarray, starts: np.ndarray, shortest: int) -> np.ndarray:
    lengths = np.diff(np.append(starts, len(tokens_M)))
    positions_M = (np.arange(starts[0], len(tokens_M)) - np.repeat(starts, lengths)).astype(np.uint64)
    weights_M = (positions_M + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    weights_M ^= weights_M >> np.uint64(29)
    mixed_M = (tokens_M[starts[0] :] + np.uint64(1)) * weights_M * np.uint64(0xBF58476D1CE4E5B9)
    return np.add.reduceat(mixed_M, starts - starts[0])[lengths > shortest]
