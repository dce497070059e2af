"""The shipped program as an evaluator: `train_gpt.py --evaluate-only`, alone in an empty folder, watched.

One idea: the program gets what a judge would give it, a data folder, and nothing else. Every stream is a val shard;
`--ledger` makes the program score each shard by itself and leave the rows. Since no stream knows of another, they are
dealt to as many programs as run side by side. Train shards lie beside them in one run and not in the other: a program
that reads them is seen to, and one that uses them scores otherwise without.

Differs: shards and ledgers are written and read here in a few lines of their own, so that a fault in the library's
readers cannot hide itself.
Checked by: tests/audit/test_shipped.py.
"""

import inspect
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.audit import guard
from pipeline.audit.evaluator import Ledgers, Rows
from pipeline.audit.processes import Event, ShippedError, run_guarded
from pipeline.audit.untrusted import one_line, read_ledger
from pipeline.base.checks import counted, require
from pipeline.base.progress import Log
from pipeline.launching.workplace import Workplace, workplace

_MAGIC, _VERSION, _HEADER_WORDS = 20240520, 1, 256
TRAIN_SHARD = "train_000000.bin"
"""Lies beside the val shards; no other file of the folder has its name."""
_LARGEST_LEDGER_BYTES = 1 << 28
_MOST_ITEMS = 32
_LONGEST_DECLARED_TOKENS = 1 << 17
"""A protocol that declares more would need streams that no audit can afford."""


class ShippedFiles(NamedTuple):
    """What of a record folder takes part in scoring."""

    program: Path
    artifact: Path
    tokenizer: Path
    seed: int


class ShippedProgram:
    """Runs a record's program on streams; an `Evaluator` of `pipeline.audit.evaluator`."""

    def __init__(
        self,
        files: ShippedFiles,
        environment: Mapping[str, str],
        timeout_seconds: float,
        log: Log,
        side_by_side: int = 1,
        *,
        sandboxed: bool,
    ) -> None:
        """`environment`: all the variables its processes get besides a home and a folder for temporary files.

        `timeout_seconds`: how long one start of the program may take; `side_by_side`: how many one-process programs
        may run at a time; `sandboxed`: in the sandbox, where `require_sandbox` has found one.
        """
        self.files, self.sandboxed = files, sandboxed
        self.environment, self.side_by_side = environment, side_by_side
        self.timeout_seconds = timeout_seconds
        self.log = log
        self.protocols: dict[str, Mapping[str, Any]] = {}
        self.first: tuple[np.ndarray, Ledgers] | None = None
        """The first stream of the last call, and its ledgers."""
        self.events: set[Event] = set()
        """What its processes opened, reached and started."""
        self._stopped = threading.Event()
        self.silenced = 0
        """Processes that stopped telling before they ended."""

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int | None = None) -> list[Ledgers]:
        """Return the ledgers of every stream. Raises ShippedError, in one line, when the program fails."""
        parts = min(len(streams), self.side_by_side if num_processes is None else 1)
        with ThreadPoolExecutor(parts) as pool:
            try:
                scored = list(pool.map(lambda part: self._score(streams[part::parts], num_processes), range(parts)))
            except BaseException:
                self._stopped.set()  # leaving the pool waits for those that still run
                raise
        answers = [scored[number % parts][number // parts] for number in range(len(streams))]
        self.first = streams[0], answers[0]
        return answers

    def _score(self, streams: Sequence[np.ndarray], num_processes: int | None) -> list[Ledgers]:
        """Return the ledgers of every stream from one start of the program."""
        with workplace() as place:
            self._furnish(place.folder, streams, with_train=num_processes is None)
            self._run(place, ["--ledger", "ledger"], num_processes or 1)
            ledger = place.folder / "ledger"
            files = sorted(ledger.glob("*.npz"))
            if not 0 < len(files) <= _MOST_ITEMS:
                raise ShippedError(f"train_gpt.py: --ledger left {len(files)} ledgers; package the record again")
            try:
                require(ledger.resolve() == ledger, "ledger", "a link", "the folder that was there")
                items = {path.stem: self._read_item(path, len(streams)) for path in files}
            except ValueError as error:
                raise ShippedError(f"train_gpt.py --ledger: {error}") from None
        return [{item: rows[number] for item, rows in items.items()} for number in range(len(streams))]

    def printed(self, stream: np.ndarray) -> list[str]:
        """Return the lines that the program prints when it scores one stream as it would a judge's, ledger unasked."""
        with workplace() as place:
            self._furnish(place.folder, [stream], with_train=True)
            return self._run(place, [], 1)

    def _furnish(self, folder: Path, streams: Sequence[np.ndarray], with_train: bool) -> None:
        """Fill an empty folder with program, artifact, guard and data."""
        (folder / "data").mkdir()
        (folder / "ledger").mkdir()
        (folder / "guard.py").write_text(inspect.getsource(guard))
        for path in (self.files.program, self.files.artifact, self.files.tokenizer):
            shutil.copyfile(path, folder / path.name)
        for number, tokens_M in enumerate(streams):
            (folder / "data" / f"val_{number:06d}.bin").write_bytes(shard_bytes(tokens_M))
        if with_train:
            (folder / "data" / TRAIN_SHARD).write_bytes(shard_bytes(streams[0]))

    def _run(self, place: Workplace, options: Sequence[str], num_processes: int) -> list[str]:
        """Run the program under guard in its folder; return what it printed and keep what it touched."""
        files = self.files
        arguments = [
            files.program.name,
            "--evaluate-only",
            files.artifact.name,
            "--seed",
            str(files.seed),
            "--data",
            "data",
            "--tokenizer",
            files.tokenizer.name,
            *options,
        ]
        folder = place.folder
        streams = counted(len(list(folder.glob("data/val_*"))), "stream")
        self.log(f"train_gpt.py on {streams}, {counted(num_processes, 'process', 'es')}")
        environment = {"HOME": str(folder), "TMPDIR": str(folder), **self.environment}
        outcome = run_guarded(
            arguments, place, environment, num_processes, self.timeout_seconds, self._stopped, sandboxed=self.sandboxed
        )
        self.events |= outcome.events
        self.silenced += len(outcome.silent_ranks)
        return outcome.lines

    def _read_item(self, path: Path, num_streams: int) -> list[Rows]:
        """Return the rows of every stream under one item, and note the protocol that the file declares."""
        require(path.is_file() and not path.is_symlink(), path.name, "a link, folder or pipe", "a file")
        arrays = read_ledger(path, ["lengths", "protocol"], _LARGEST_LEDGER_BYTES)
        lengths, num_rows = arrays["lengths"], len(arrays["target"])
        is_split = lengths.shape == (num_streams,) and lengths.dtype.kind in "iu" and (lengths <= num_rows).all()
        require(
            bool(is_split and (lengths >= 0).all() and lengths.sum() == num_rows),
            f"{path.name}: lengths",
            one_line(lengths),
            f"the rows of {num_streams} streams, {num_rows} in all",
        )
        self.protocols[path.stem] = _declared_protocol(path, str(arrays["protocol"]))
        bounds = np.cumsum(lengths)[:-1]
        columns = [np.split(column, bounds) for column in Rows.of(arrays)]
        return [Rows(*row) for row in zip(*columns, strict=True)]


def _declared_protocol(path: Path, text: str) -> dict[str, Any]:
    """Return the protocol that a ledger declares; ValueError unless the audit can make streams for it."""
    try:
        protocol = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        protocol = None
    require(
        isinstance(protocol, dict) and isinstance(protocol.get("kind"), str) and "context_tokens" in protocol,
        f"{path.name}: protocol",
        one_line(text),
        "JSON with a kind and context_tokens",
    )
    phase = protocol.get("global_phase") or {}
    require(isinstance(phase, dict), f"{path.name}: protocol.global_phase", one_line(phase), "null or a mapping")
    counts = {key: value for key, value in protocol.items() if key.endswith("_tokens")}
    counts |= {f"global_phase.{key}": phase.get(key) for key in ("documents", "chunk_tokens") if phase}
    for key, value in counts.items():
        is_count = type(value) is int and 1 <= value <= _LONGEST_DECLARED_TOKENS
        is_off = value is None and key in protocol and key != "context_tokens"
        require(is_count or is_off, f"{path.name}: protocol.{key}", one_line(value), f"1 to {_LONGEST_DECLARED_TOKENS}")
    return protocol


def shard_bytes(tokens_M: np.ndarray) -> bytes:
    """Return tokens in the challenge's shard format."""
    header = np.zeros(_HEADER_WORDS, "<i4")
    header[:3] = _MAGIC, _VERSION, len(tokens_M)
    return header.tobytes() + np.asarray(tokens_M).astype("<u2").tobytes()
