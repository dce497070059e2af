"""What a person sees: a header, phases and progress, a short summary. Rank 0 only.

Results go to stdout, everything else to stderr. No line of ours is wider than a terminal of 80 columns.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipeline.base.artifacts import ROOT as ARTIFACTS
from pipeline.base.artifacts import STATE, git_commit, provenance, sweep_outputs
from pipeline.base.files import require_writable, sweep
from pipeline.base.progress import ClockedProgress, silent
from pipeline.launching.alone import held_alone
from pipeline.launching.firewall import raise_walls
from pipeline.launching.openmp import WAITING
from stages.shell.experiment import link_data
from stages.shell.folding import wrapped
from stages.shell.progress import Work, as_clock, shown
from stages.shell.rules import check_params
from stages.shell.running import report_running

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
    """Return the path of a configuration that is sound as a whole; a queued experiment has the files it names."""
    link_data(check_params(path).data)
    return path


params_option, params_path_option = _params_option(checked=True), _params_option(checked=False)
"""--params of a command that runs on a sound file, and of one that looks into any."""
seed_option = click.option("--seed", type=int, required=True, help="Training seed; one of `seeds` in params.yaml.")


def seal(
    name: str,
    sections: Mapping[str, object],
    inputs: list[Path],
    outputs: list[Path],
    rank: int,
    note: str,
    seed: int | None = None,
    item: str | None = None,
) -> "Stage":
    """Seal this process for good as stage `name`, take its `outputs` until the command ends, and return the stage.

    From here on what the stage must not read cannot be opened, and no other command can make `outputs`: BusyError when
    one does already. Raises OSError when one could not be written at the end. Rank 0 alone reads and writes files; as
    long as it runs, one says how far it is (`stages/shell/running.py`).
    """
    started = time.monotonic()
    if rank == 0:
        sweep(ARTIFACTS)  # a stage whose outputs come from a cache does not run, nor sweep its own
    walls = raise_walls(name)
    made_from = {**provenance(name, ROOT, sections, inputs if rank == 0 else []), "firewall": walls}
    running = _untold
    if rank == 0:
        context = click.get_current_context()
        context.with_resource(held_alone(outputs[0]))
        for path in outputs:
            require_writable(path)
        running = context.with_resource(report_running(name, seed, item, outputs[0]))
    stage, digest = Stage(rank, started, made_from, running), made_from["params_sha256"][:12]
    stage.log(f"stage {name} | {note}")
    stage.log(f"  commit {git_commit(ROOT)} | params {digest}")
    stage.log("  " + ", ".join(f"{each} {version(each)}" for each in ("torch", "numpy", "sentencepiece")))
    return stage


def _untold(**fields: object) -> None:
    """Tell nobody how far a stage is."""


class Stage(NamedTuple):
    """A running stage: what its outputs are made from, its log, its progress, its summary."""

    rank: int
    started: float
    provenance: dict[str, Any]
    running: Callable[..., None] = _untold
    """Takes how far the stage is, for `fairway status`."""

    @property
    def seconds(self) -> float:
        """Seconds since the stage started."""
        return time.monotonic() - self.started

    def log(self, line: str) -> None:
        """Print a line to stderr, on rank 0."""
        if self.rank == 0:
            log(line)

    def phase(self, name: str) -> None:
        """Say what the stage does from now on, and how long it has run."""
        self.running(label=name, unit="", done=0, total=0, note="", seconds_left=None)
        self.log(f"{self.provenance['stage']} after {as_clock(self.seconds)}: {name}")

    def sweep_outputs(self, seeds: Iterable[int], items: Iterable[str]) -> None:
        """Move outputs of other seeds and items away, which would make stages run again where they do not lie."""
        for path in sweep_outputs(seeds, items):
            self.log(
                f"{self.provenance['stage']}: {path} belongs to no seed and item of params.yaml; moved to "
                f"{STATE / 'removed'}/"
            )

    def summary(self, first: str, second: str) -> None:
        """Print the stage's result to stdout, on rank 0."""
        if self.rank == 0:
            print(f"{wrapped(f'{first} ({self.seconds:.1f} s)')}\n{wrapped(second)}", flush=True)

    @contextmanager
    def progress(
        self, label: str, unit: str, tokens_per_unit: int | None = None, most: int | None = None, at_most: bool = False
    ) -> Iterator[ClockedProgress]:
        """Yield a progress callable for one piece of long work (see `Work`); other ranks than 0 show nothing."""
        if self.rank != 0:
            yield silent
        else:
            with shown(Work(label, unit, tokens_per_unit, most, at_most), self.log, self.running) as report:
                yield report


def log(line: str) -> None:
    """Print a line to stderr, folded where it is wider than a terminal."""
    print(wrapped(line), file=sys.stderr, flush=True)


def machine_environment() -> dict[str, str]:
    """Return the variables by which a fresh process finds this machine's programs, libraries, GPUs and kernels.

    A variable that limits the processor changes sums in their last digits, so whoever scores again needs it too.
    """
    names = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", *_KERNEL_VARIABLES, *WAITING)
    return {name: os.environ[name] for name in names if name in os.environ}
