"""Snapshots of a training run: a run that was killed continues and ends with the bits of one that was not.

The one idea: a snapshot counts only as a whole. Every rank writes its own file under the step's name; when all have,
rank 0 replaces the manifest, which names the step and the digest of every file; only then do the files of the previous
step go. Whatever moment a process dies at, the manifest names files that are complete. At most two snapshots are on
disk. One that cannot be written is said and left; training goes on, and the previous one stays.

What is saved: the weights, on rank 0; every rank's own optimizer states, other parts and random generators; in the
manifest the step (batches are a pure function of it), the seconds of training, the curve and the log lines. What it
belongs to is `identity`, plain values: a snapshot of another run is ignored, says so, and is overwritten in time.

Clock: seconds of training before the snapshot count against the budget; the time that a killed run spent after it, and
the time that snapshots take, do not.

Signals: while steps run, SIGINT and SIGTERM are remembered. Ranks compare notes after every step, so that all of them
save and stop after the same one, whichever was told.

Source: write-temporary-and-rename; torch.distributed.checkpoint, for files per rank and metadata last.
Differs: no resharding: a snapshot continues on as many processes as wrote it.
Checked by: tests/training/test_snapshot.py, tests/training/test_resume.py.
"""

import hashlib
import io
import json
import math
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.base.files import write_bytes
from pipeline.base.flat import flat_values
from pipeline.base.progress import Log
from pipeline.base.ranks import Ranks, from_all_ranks, from_rank_zero, share_from_rank_zero
from pipeline.launching.processes import StoppedError

Curve = list[dict[str, float]]
_MANIFEST = "snapshot.json"
_MANIFEST_TYPES = {
    "step": int,
    "seconds": float,
    "curve": list,
    "lines": list,
    "sha256": list,
    "identity": dict,
    "resumed_at_steps": list,
}


class Snapshots:
    """The snapshots of one run in one folder; a context, because it listens to signals between `restore` and its end.

    `identity` is nested plain values. `lines` are the log lines of the run so far, on rank 0: restored in place. `log`
    tells the person at the keyboard what became of the snapshot that was found.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        every_seconds: float,
        ranks: Ranks,
        device: torch.device,
        lines: list[str],
        log: Log,
    ) -> None:
        self.folder, self.every_seconds, self.ranks, self.device = folder, every_seconds, ranks, device
        self.identity = dict(flat_values(json.loads(json.dumps(identity))))
        self.lines, self.log = lines, log
        self.resumed_at_steps: list[int] = []
        self._parts: Mapping[str, Any] = {}
        self._saved_at_seconds = 0.0
        self._heard = 0
        """The last signal that came to this rank."""
        self._agreed = 0
        """The signal that all ranks act on: the one above changes at any moment, during a save too."""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: somebody's C code had set one

    def restore(self, parts: Mapping[str, Any]) -> tuple[int, float, Curve]:
        """Bring `parts` and the random generators to the latest snapshot; return its steps, seconds and curve so far.

        A part is whatever has `state_dict` and `load_state_dict`. Modules are equal on all ranks, so rank 0's stands
        for all; every other part is each rank's own. Without a usable snapshot nothing changes and the steps are 0.
        From now on SIGINT and SIGTERM wait for the end of a step.
        Raises ValueError when the snapshot is sound but does not fit `parts`: the program has changed.
        """
        self._parts = parts
        self._handlers = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        manifest = from_rank_zero(self._read_manifest() if self.ranks.rank == 0 else None, self.ranks)
        self._sweep(manifest["step"] if manifest else 0)
        if manifest is None:
            return 0, 0.0, []
        state, problem = self._read_state(manifest)
        problems = [self._foreign(manifest), *from_all_ranks(problem, self.ranks)]
        if problem := from_rank_zero(next(filter(None, problems), ""), self.ranks):
            self._tell(f"snapshot of step {manifest['step']} ignored: {problem}")
            return 0, 0.0, []
        self._load(state, manifest["step"])
        self.lines[:] = manifest["lines"]
        self.resumed_at_steps = [*manifest["resumed_at_steps"], manifest["step"]]
        self._saved_at_seconds = manifest["seconds"]
        self._tell(f"continuing after step {manifest['step']}")
        return manifest["step"], manifest["seconds"], manifest["curve"]

    def is_due(self, seconds: float) -> bool:
        """Tell whether to save after this step: a signal came to any rank, or the interval has passed.

        Every rank calls it after every step with equal `seconds`.
        """
        reason = torch.tensor(self._heard)
        if self.ranks.world_size > 1:
            dist.all_reduce(reason, dist.ReduceOp.MAX)
        self._agreed = int(reason)
        return self._agreed > 0 or seconds - self._saved_at_seconds >= self.every_seconds

    def save(self, step: int, seconds: float, curve: Curve) -> None:
        """Write a snapshot of the parts given to `restore`; the previous one is valid until this one is.

        One that any rank cannot write is said and left. Raises StoppedError afterwards when a signal asked for it.
        """
        own = {name: part.state_dict() for name, part in self._parts.items() if self._writes(part)}
        buffer = io.BytesIO()
        torch.save({"parts": own, "generators": self._generators()}, buffer)
        problem = next(filter(None, from_all_ranks(_write(self._file(step), buffer.getvalue()), self.ranks)), "")
        digests = from_all_ranks(hashlib.sha256(buffer.getvalue()).hexdigest(), self.ranks)
        if self.ranks.rank == 0 and not problem:
            manifest = {
                "step": step,
                "seconds": seconds,
                "curve": curve,
                "lines": self.lines,
                "sha256": digests,
                "identity": self.identity,
                "resumed_at_steps": self.resumed_at_steps,
            }
            problem = _write(self.folder / _MANIFEST, json.dumps(manifest).encode())
        problem = from_rank_zero(problem, self.ranks)  # none sweeps before the manifest is written
        if problem:
            self._file(step).unlink(missing_ok=True)
            self._tell(f"warning: no snapshot after step {step}: {problem}")
        else:
            self._sweep(step)
        self._saved_at_seconds = seconds
        if self._agreed:
            there = "the last snapshot" if problem else "there"
            raise StoppedError(
                f"stopped by {signal.Signals(self._agreed).name} after step {step}; to "
                f"continue from {there}, run the same command again",
                self._agreed,
            )

    def discard(self) -> None:
        """Remove all snapshots, when the run's results are safe; only rank 0 removes."""
        if self.ranks.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _remember(self, number: int, _frame: object) -> None:
        self._heard = number

    def _tell(self, line: str) -> None:
        if self.ranks.rank == 0:
            self.log(line)

    def _writes(self, part: object) -> bool:
        return self.ranks.rank == 0 or not isinstance(part, nn.Module)

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step}.rank-{self.ranks.rank}.pt"

    def _sweep(self, step: int) -> None:
        """Remove this rank's files but those of `step`: older snapshots, and what killed writers left."""
        left = [*self.folder.glob(f"*.rank-{self.ranks.rank}.pt*")]
        left += self.folder.glob(f".{_MANIFEST}.*") if self.ranks.rank == 0 else []
        for path in left:
            if path != self._file(step):
                path.unlink(missing_ok=True)

    def _read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, None without one; a damaged one is said and treated as none."""
        path = self.folder / _MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            manifest = None
        if not _is_manifest(manifest):
            self._tell(f"snapshot ignored: {path} is damaged")
            return None
        return manifest

    def _foreign(self, manifest: Mapping[str, Any]) -> str:
        """Return what the run of a manifest did otherwise than this one, empty when it is the same run."""
        theirs, ours = manifest["identity"], self.identity
        differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return (
            ", ".join(f"{key:.60} was {theirs.get(key)!r:.100}, is {ours.get(key)!r:.100}" for key in differing[:3])
            + more
        )

    def _read_state(self, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return (this rank's saved state, why it cannot be used or empty)."""
        path = self._file(manifest["step"])
        try:
            content = path.read_bytes()
        except OSError as error:
            return {}, f"{path}: {error.strerror}"
        # A snapshot of more or fewer processes names other ranks; the identity says so before this does.
        if hashlib.sha256(content).hexdigest() not in manifest["sha256"][self.ranks.rank :][:1]:
            return {}, f"{path} is damaged"
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), ""

    def _load(self, state: Mapping[str, Any], step: int) -> None:
        try:
            for name, part in self._parts.items():
                if isinstance(part, torch.optim.Optimizer):
                    _load_optimizer(part, state["parts"][name])
                elif self._writes(part):
                    part.load_state_dict(state["parts"][name])
                if isinstance(part, nn.Module):
                    share_from_rank_zero([*part.parameters(), *part.buffers()], self.ranks)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:100]  # torch lists every key
            raise ValueError(
                f"{self.folder}: the snapshot of step {step} was written by another version of the "
                f"program ({reason}); delete that folder to start afresh"
            ) from None
        torch.set_rng_state(state["generators"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)

    def _generators(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states


def _is_manifest(value: object) -> bool:
    """Return whether a JSON value is what `Snapshots.save` writes, as far as types and finite seconds tell."""
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is kind for key, kind in _MANIFEST_TYPES.items())
        and value["step"] > 0
        and 0 <= value["seconds"] < math.inf
        and all(isinstance(row, dict) for row in value["curve"])
        and all(isinstance(line, str) for line in value["lines"])
    )


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state with the dtypes it was saved in: torch gives every floating-point state its parameter's dtype."""
    optimizer.load_state_dict(state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        current = optimizer.state[parameters[index]]
        for key, value in saved.items():
            if isinstance(value, Tensor):
                current[key] = current[key].to(value.dtype)


def _write(path: Path, content: bytes) -> str:
    """Write a file of a snapshot; return why it cannot be written, or nothing."""
    try:
        write_bytes(path, content)
    except OSError as error:
        return str(error)
    return ""
