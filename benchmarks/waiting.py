"""What the way in which OpenMP threads wait costs on an idle machine and saves on a busy one.

Run `python -m benchmarks.waiting` on a quiet machine: it makes the noise itself. The work is a training step of the
demo with all its loops, on all cores of one process, in a fresh process per measurement, because the runtime reads the
policy when it is loaded. Three ways take turns: the runtime's default, sleeping at once (passive) and ours
(`pipeline/launching/openmp.py`); the neighbour is one process that computes on one core.

    idle    seconds per step over those by default      1 costs nothing
    busy    seconds per step by default over these      what not spinning saves

Checked by: tests/launching/test_openmp.py.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params
from pipeline.base.ranks import ALONE
from pipeline.launching.openmp import POLICY, WAITING
from pipeline.model.network import build
from pipeline.reports.training import hardware_name
from pipeline.training.backward import build_backward
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import BF16, resolve_precision

WAYS: dict[str, dict[str, str]] = {"default": {}, "passive": {POLICY: "PASSIVE"}, "ours": WAITING}
"""Way to wait -> variables."""


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way, idle and busy each")
    parser.add_argument("--steps", type=int, default=9, help="steps that a process times")
    options = parser.parse_args()
    measured = measure(options.rounds, options.steps)
    for name, value in measured.items():
        print(f"{name:28} {value:.4g}")
    print(write_result("waiting", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """Return `summary` of so many processes of each way, idle and busy."""
    seconds: dict[str, list[float]] = {f"{load}_{way}": [] for load in ("idle", "busy") for way in WAYS}
    for _ in range(rounds):
        for load, neighbour in (("idle", contextlib.nullcontext()), ("busy", busy_neighbour())):
            with neighbour:
                for way in WAYS:
                    seconds[f"{load}_{way}"].append(process_seconds(way, steps))
    return {**summary(seconds), "rounds": rounds}


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return medians of the seconds per step, given by load and way, and of both ratios, pair by pair."""
    result = {f"{name}_step_seconds": statistics.median(values) for name, values in seconds.items()}
    for way in ("passive", "ours"):
        idle, busy = (
            [ours / default for ours, default in zip(seconds[f"{load}_{way}"], seconds[f"{load}_default"], strict=True)]
            for load in ("idle", "busy")
        )
        result[f"idle_{way}_over_default"] = statistics.median(idle)
        result[f"busy_default_over_{way}"] = statistics.median(1 / ratio for ratio in busy)
    return result


def process_seconds(way: str, steps: int) -> float:
    """Return the median seconds of a step in a fresh process that waits in a way of `WAYS`."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    # torch first: what it loads reads the variables, which the package of benchmarks would set.
    code = f"import torch; from benchmarks.waiting import median_step_seconds; print(median_step_seconds({steps}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **WAYS[way]},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout)


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy for the block."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def median_step_seconds(steps: int) -> float:
    """Return the median seconds of a training step of the demo with all its loops, in this process."""
    params, device = load_params(ROOT / "params.yaml", ["model", "train"]), torch.device("cpu")
    settings = replace(params.train, precision=resolve_precision(params.train.precision, device))
    model = build(params.model)
    step = OptimizerStep(model, settings, ALONE)
    backward = build_backward(
        model,
        device,
        bf16=settings.precision == BF16,
        compiled=False,
        micro_batch_sequences=settings.micro_batch_sequences,
    )
    length = params.model.context_tokens
    tokens_BT = torch.randint(params.model.vocab_size, (settings.batch_tokens // length, length + 1))
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        step.take(backward(tokens_BT))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
