"""The shipped program as an evaluator: `train_gpt.py --evaluate-only`, alone in an empty folder, watched.

One idea: the program gets what a judge would give it, a data folder, and nothing else. Every stream is a val shard;
`--ledger` makes the program score each shard by itself and leave the rows. Train shards lie beside them in one run and
not in the other: a program that reads them is seen to, and one that needs them fails.

Differs: shards and ledgers are written and read here in a few lines of their own, so that a fault in the library's
readers cannot hide itself.
Checked by: tests/audit/test_shipped.py.
"""

import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.audit import guard
from pipeline.audit.evaluator import Ledgers, Rows
from pipeline.checks import FairwayError
from pipeline.progress import Log

_MAGIC, _VERSION, _HEADER_WORDS = 20240520, 1, 256
_TRAIN_SHARD = "train_000000.bin"


class ShippedError(FairwayError):
    """The shipped program could not be run for the audit."""


class ShippedFiles(NamedTuple):
    """What of a record folder takes part in scoring."""

    program: Path
    artifact: Path
    tokenizer: Path
    seed: int


class ShippedProgram:
    """Runs a record's program on streams; an `Evaluator` of `pipeline.audit.evaluator`."""

    def __init__(self, files: ShippedFiles, environment: Mapping[str, str], log: Log) -> None:
        """`environment`: all the variables its processes get besides a home and a folder for temporary files."""
        self.files = files
        self.environment = environment
        self.log = log
        self.protocols: dict[str, Mapping[str, Any]] = {}
        self.first: tuple[np.ndarray, Ledgers] | None = None
        """The first stream of the last call, and its ledgers."""
        self.events: set[str] = set()
        """What its processes opened and reached; the folder they ran in is cut off."""

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        """Return the ledgers of every stream. Raises ShippedError, in one line, when the program fails."""
        with tempfile.TemporaryDirectory() as place:
            folder = self._furnish(Path(place), streams, with_train=num_processes == 1)
            self._run(folder, ["--ledger", "ledger"], num_processes)
            files = sorted((folder / "ledger").glob("*.npz"))
            if not files:
                raise ShippedError("train_gpt.py: --ledger left no ledgers; package the record again")
            items = {path.stem: self._read_item(path) for path in files}
        answers: list[Ledgers] = [
            {item: rows[number] for item, rows in items.items()} for number in range(len(streams))
        ]
        self.first = streams[0], answers[0]
        return answers

    def printed(self, stream: np.ndarray) -> list[str]:
        """Return the lines that the program prints when it scores one stream as it would a judge's, ledger unasked."""
        with tempfile.TemporaryDirectory() as place:
            return self._run(self._furnish(Path(place), [stream], with_train=True), [], 1)

    def _furnish(self, folder: Path, streams: Sequence[np.ndarray], with_train: bool) -> Path:
        """Fill an empty folder with program, artifact, guard and data."""
        folder = folder.resolve()
        (folder / "data").mkdir()
        (folder / "ledger").mkdir()
        (folder / "guard.py").write_text(inspect.getsource(guard))
        for path in (self.files.program, self.files.artifact, self.files.tokenizer):
            shutil.copyfile(path, folder / path.name)
        for number, tokens_M in enumerate(streams):
            (folder / "data" / f"val_{number:06d}.bin").write_bytes(shard_bytes(tokens_M))
        if with_train:
            (folder / "data" / _TRAIN_SHARD).write_bytes(shard_bytes(streams[0]))
        return folder

    def _run(self, folder: Path, options: Sequence[str], num_processes: int) -> list[str]:
        """Run the program under guard in its folder; return what it printed and keep what it touched."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
        files = self.files
        command = [
            sys.executable, "-I", *(launcher if num_processes > 1 else []), "guard.py", "events", files.program.name,
            "--evaluate-only", files.artifact.name, "--seed", str(files.seed), "--data", "data",
            "--tokenizer", files.tokenizer.name, *options,
        ]  # fmt: skip
        self.log(f"audit: train_gpt.py on {len(list(folder.glob('data/val_*')))} streams, {num_processes} process(es)")
        done = subprocess.run(
            command, cwd=folder, env={"HOME": str(folder), "TMPDIR": str(folder), **self.environment}, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        lines = done.stdout.splitlines()
        if done.returncode:
            last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
            raise ShippedError(f"train_gpt.py --evaluate-only: exit status {done.returncode}: {last.strip()}; "
                               "package the record again with this Fairway")  # fmt: skip
        events = (folder / "events").read_text(errors="replace").splitlines()
        self.events.update(event.replace(f"{folder}/", "") for event in events)
        return lines

    def _read_item(self, path: Path) -> list[Rows]:
        """Return the rows of every stream under one item, and note the protocol that the file declares."""
        with np.load(path, allow_pickle=False) as file:
            self.protocols[path.stem] = json.loads(str(file["protocol"]))
            bounds = np.cumsum(file["lengths"])[:-1]
            columns = [np.split(file[name], bounds) for name in Rows._fields]
        return [Rows(*row) for row in zip(*columns, strict=True)]


def shard_bytes(tokens_M: np.ndarray) -> bytes:
    """Return tokens in the challenge's shard format."""
    header = np.zeros(_HEADER_WORDS, "<i4")
    header[:3] = _MAGIC, _VERSION, len(tokens_M)
    return header.tobytes() + np.asarray(tokens_M).astype("<u2").tobytes()
