"""What a person sees: a header, a progress bar or plain lines, a two-line summary. Rank 0 only.

Results go to stdout, everything else to stderr. On a terminal long work shows a bar with rate and ETA; elsewhere one
plain line every few seconds.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipeline.base.artifacts import ROOT as ARTIFACTS
from pipeline.base.artifacts import git_commit, provenance
from pipeline.base.files import require_writable, sweep
from pipeline.launching.alone import held_alone
from pipeline.launching.firewall import raise_walls
from pipeline.launching.openmp import WAITING
from stages.shell.rules import check_params

SECONDS_BETWEEN_LINES = 5.0
_KERNEL_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""What torch, oneDNN and MKL choose their kernels by."""
ROOT = Path(__file__).resolve().parents[2]


def _params_option(checked: bool) -> Callable:
    return click.option(
        "--params",
        "params_path",
        default="params.yaml",
        show_default=True,
        help="The configuration file to read.",
        callback=_sound if checked else None,
    )


def _sound(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Return the path of a configuration that is sound as a whole."""
    check_params(path)
    return path


params_option, params_path_option = _params_option(checked=True), _params_option(checked=False)
"""--params of a command that runs on a sound file, and of one that looks into any."""
seed_option = click.option("--seed", type=int, required=True, help="Training seed; one of `seeds` in params.yaml.")


def seal(
    name: str, sections: Mapping[str, object], inputs: list[Path], outputs: list[Path], rank: int, note: str
) -> "Stage":
    """Seal this process for good as stage `name`, take its `outputs` until the command ends, and return the stage.

    From here on what the stage must not read cannot be opened, and no other command can make `outputs`: BusyError when
    one does already. Raises OSError when one could not be written at the end. Rank 0 alone reads and writes files.
    """
    started = time.monotonic()
    if rank == 0:
        sweep(ARTIFACTS)  # a stage whose outputs come from a cache does not run, nor sweep its own
    walls = raise_walls(name)
    made_from = {**provenance(name, ROOT, sections, inputs if rank == 0 else []), "firewall": walls}
    if rank == 0:
        click.get_current_context().with_resource(held_alone(outputs[0]))
        for path in outputs:
            require_writable(path)
    stage, digest = Stage(rank, started, made_from), made_from["params_sha256"][:12]
    libraries = ", ".join(f"{each} {version(each)}" for each in ("torch", "numpy", "sentencepiece"))
    stage.log(f"stage {name} | commit {git_commit(ROOT)} | params {digest} | {note} | {libraries}")
    return stage


class Stage(NamedTuple):
    """A running stage: what its outputs are made from, its log, its progress, its summary."""

    rank: int
    started: float
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Seconds since the stage started."""
        return time.monotonic() - self.started

    def log(self, line: str) -> None:
        """Print a line to stderr, on rank 0."""
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def summary(self, first: str, second: str) -> None:
        """Print the stage's two-line result to stdout, on rank 0."""
        if self.rank == 0:
            print(f"{first} ({self.seconds:.1f} s)\n{second}", flush=True)

    @contextmanager
    def progress(self, label: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
        """Yield a progress callable (done, total, note) for one piece of long work counted in `unit`."""
        if self.rank != 0:
            yield lambda done, total, note: None
        elif sys.stderr.isatty():
            with _bar(label, unit) as report:
                yield report
        else:
            yield _PlainLines(label, unit, self.log)


def machine_environment() -> dict[str, str]:
    """Return the variables by which a fresh process finds this machine's programs, libraries, GPUs and kernels.

    A variable that limits the processor changes sums in their last digits, so whoever scores again needs it too.
    """
    names = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", *_KERNEL_VARIABLES, *WAITING)
    return {name: os.environ[name] for name in names if name in os.environ}


class _PlainLines:
    """One line every few seconds, and one when the work is done."""

    def __init__(self, label: str, unit: str, log: Callable[[str], None]) -> None:
        self.label, self.unit, self.log = label, unit, log
        self.started = self.last = time.monotonic()

    def __call__(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES and done < total:
            return
        self.last = now
        rate = done / max(now - self.started, 1e-9)
        eta = (total - done) / rate if rate else 0.0
        self.log(f"{self.label} {done}/{total} {self.unit}, {rate:.1f}/s, {eta:.0f} s left {note}".rstrip())


@contextmanager
def _bar(label: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None, rate="", note="")

        def report(done: int, total: int, note: str) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            progress.update(task, completed=done, total=total, rate=f"{rate:.1f}/s", note=note)

        yield report
