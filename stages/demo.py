"""`fairway demo`: the whole pipeline by `dvc repro`, with the minutes that it will take on this machine."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from stages.shell.durations import SECONDS, minutes, parse_name, stages_of

if TYPE_CHECKING:
    import torch

    from pipeline.base.config import Params

REFERENCE_FLOPS = 300e9
"""Matrix products per second, in float32 on all cores, of the machine on which SECONDS were taken."""
PROBE_SECONDS = 0.1
_PRIOR_SECONDS = 20.0
"""How many of those seconds the probe counts as, beside stages that have run."""
_PROBE_SIZES = (128, 256, 512, 1024)
_RUNNING, _SKIPPED = re.compile(r"^Running stage '(.+)':$"), re.compile(r"^Stage '(.+)' (didn't change|is cached)")


@click.command()
def demo() -> None:
    """Run whatever is out of date of the pipeline, as `dvc repro` does, and say how long it will take.

    Reads params.yaml. A line about this machine comes first: its cores, how fast it multiplies matrices in both
    precisions, and the one that training takes; then the minutes to expect. After every stage there is a new estimate.
    """
    from stages.shell.rules import check_params

    params = check_params("params.yaml")
    if not any((folder / ".dvc").is_dir() for folder in (Path.cwd(), *Path.cwd().parents)):
        raise ValueError("demo: got no DVC repository here, expected one; run `git init && dvc init`")
    machine = probe(params)
    estimate = Estimate(stages_of(params), machine.fp32_flops, params.train.train_seconds)
    print(f"{machine.line()}\nabout {minutes(estimate.seconds_left())}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        ["dvc", "repro"], env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as repro:
        assert repro.stdout is not None
        try:
            for line in repro.stdout:
                print(line, end="", flush=True)
                if note := estimate.read(line.rstrip(), time.monotonic()):
                    print(note, flush=True)
        except BaseException:
            os.killpg(repro.pid, signal.SIGINT)  # not SIGTERM: DVC would die of it before its stage
            raise
    sys.exit(int(repro.returncode != 0))


class Machine(NamedTuple):
    """What a short probe says of this machine."""

    cores: int
    fp32_flops: float
    bf16_flops: float
    precision: str

    def line(self) -> str:
        """Return the machine in one line."""
        return (
            f"machine: {self.cores} cores, {self.fp32_flops / 1e9:,.0f} GFLOP/s in fp32, "
            f"{self.bf16_flops / 1e9:,.0f} in bf16; training in {self.precision}"
        )


def probe(params: "Params") -> Machine:
    """Measure for two tenths of a second how fast this machine multiplies, and ask what training will do."""
    from pipeline.launching.processes import available_cores, resolve_device
    from pipeline.training.precision import DTYPES, resolve_precision

    device = resolve_device(params.launch.device, 0)
    speeds = {name: _flops(dtype, device) for name, dtype in DTYPES.items()}
    return Machine(available_cores(), speeds["fp32"], speeds["bf16"], resolve_precision(params.train.precision, device))


def _flops(dtype: "torch.dtype", device: "torch.device") -> float:
    """Return the best rate of square products of growing size, within the time of a probe."""
    import torch

    best, end = 0.0, time.perf_counter() + PROBE_SECONDS
    for size in _PROBE_SIZES:
        a = torch.ones(size, size, dtype=dtype, device=device)
        for _ in range(3):
            started = time.perf_counter()
            (a @ a)[0, 0].item()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
            if time.perf_counter() > end:
                return best
    return best


class Estimate:
    """How long the rest of the stages will take: first by the machine's speed, then more and more by those that ran.

    Training has a clock of its own and tells nothing of the others' pace.
    """

    def __init__(self, stages: list[str], fp32_flops: float, train_seconds: float | None) -> None:
        """`train_seconds`: what training may take at most."""
        self.left = {stage: float(SECONDS[parse_name(stage).command]) for stage in stages}
        self.total, self.train_seconds = len(stages), math.inf if train_seconds is None else train_seconds
        self.expected = _PRIOR_SECONDS
        self.spent = _PRIOR_SECONDS * max(1.0, REFERENCE_FLOPS / fp32_flops)
        self.running, self.since = "", 0.0

    def seconds_left(self) -> float:
        """Return the seconds that the stages still to come will take."""
        pace = self.spent / self.expected
        return sum(
            min(pace * seconds, self.train_seconds if parse_name(stage).command == "train" else math.inf)
            for stage, seconds in self.left.items()
        )

    def read(self, line: str, now: float) -> str | None:
        """Take a line that DVC printed at time `now`; return a new estimate where a stage is over."""
        started, skipped = _RUNNING.match(line), _SKIPPED.match(line)
        over = (started or skipped) is not None and self._end(now)
        if skipped:
            self.left.pop(skipped[1], None)
        if started:
            self.running, self.since = started[1], now
        if not over:
            return None
        return f"{self.total - len(self.left)} of {self.total} stages, about {minutes(self.seconds_left())} left"

    def _end(self, now: float) -> bool:
        """Count the stage that was running, if any."""
        if not self.running:
            return False
        seconds = self.left.pop(self.running, 0.0)
        if parse_name(self.running).command != "train":
            self.spent, self.expected = self.spent + now - self.since, self.expected + seconds
        self.running = ""
        return True
