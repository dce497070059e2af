"""How fast this machine is, as a row of the table by which `fairway train --dry-run --machine` projects seconds.

Run `python -m benchmarks.machine` on a machine that does nothing else: it times matrix products, copies, small
operations, counts of a mixture and a training step (CPU: of recipe demo; GPU: of nightcrawler-7f3c), and prints the row
to add to `pipeline/projection/machines.py`. Medians; of one device. Links and compilation are not measured: memory's
speed stands for the first where there are no others to link to, a minute for the second.

Checked by: tests/benchmarks/test_machine.py
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import fields, replace

import torch

from benchmarks.gpu_check.speed import share_of
from benchmarks.train_throughput import seconds_of
from pipeline.base.ranks import ALONE
from pipeline.mixture.mixing import NUM_CONSTANTS, mixed_nats
from pipeline.model.network import build
from pipeline.projection.counts import training_counts
from pipeline.projection.machines import Machine
from pipeline.training.backward import build_backward
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import BF16, DTYPES, resolve_precision

ROUNDS = 7
RECIPES = {"cpu": "demo", "cuda": "nightcrawler-7f3c"}
"""Device -> whose training step is timed."""


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median of several calls, after one that warms up."""
    seconds_of(work, device)
    return statistics.median(seconds_of(work, device) for _ in range(ROUNDS))


def measure(device: torch.device, size: str) -> Machine:
    """Return the machine with one process; size small proves that this runs."""
    side, numbers, operations = (8192, 1 << 28, 10_000) if size == "full" else (64, 1 << 10, 10)
    dtype = DTYPES[resolve_precision("auto", device)]
    a, b = (torch.ones(shape, device=device, dtype=dtype) for shape in ((side, 512), (512, side)))
    source, target, few = (torch.ones(number, device=device) for number in (numbers, numbers, 8))
    bytes_per_second = 8 * numbers / median_seconds(lambda: target.copy_(source), device)
    return Machine(
        processes=1,
        flops_per_second=2 * side * side * 512 / median_seconds(lambda: a @ b, device),
        bytes_per_second=bytes_per_second,
        launch_seconds=median_seconds(lambda: [few.add_(1) for _ in range(operations)], device) / operations,
        link_bytes_per_second=bytes_per_second,
        compile_seconds=60.0,
        count_seconds=count_seconds(100 * operations, device),
        training_factor=1.0,
    )


def count_seconds(num_tokens: int, device: torch.device) -> float:
    """Return the seconds of a mixture's counts, per target and length of context."""
    tokens_M = torch.arange(num_tokens + 1, device=device).square() % 997  # pairs that come again and again
    nats_N = torch.ones(num_tokens, dtype=torch.float64, device=device)
    steps = [[-1, length, *(0.5 for _ in range(sum(NUM_CONSTANTS)))] for length in (1, 2)]
    return median_seconds(lambda: mixed_nats(tokens_M, nats_N, steps), device) / num_tokens / len(steps)


def training_factor(machine: Machine, device: torch.device, size: str) -> float:
    """Return how much longer a real training step takes than the one that is counted."""
    share = share_of(RECIPES[device.type], device, size)
    model, tokens_BT = build(share.model, seed=0).to(device), share.tokens(device)
    settings = {"bf16": share.train.precision == BF16, "compiled": share.train.compile}
    micro = share.train.micro_batch_sequences
    backward = build_backward(model, device, micro_batch_sequences=micro, **settings)
    optimizer = OptimizerStep(model, share.train, ALONE)
    seconds = median_seconds(lambda: optimizer.take(backward(tokens_BT)), device)
    passes = -(-share.sequences // (micro or share.sequences))
    counts = training_counts(share.model, -(-share.sequences // passes), share.model.context_tokens, None)
    return seconds / passes / counts.training_seconds(machine, share.train.compile)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: shapes that say nothing")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = parser.parse_args().size
    machine = measure(device, size)
    print(row("this", replace(machine, training_factor=training_factor(machine, device, size))))


def row(name: str, machine: Machine) -> str:
    """Return the entry of the table."""
    values = (f"{field.name}={getattr(machine, field.name):.3g}" for field in fields(machine))
    return f'"{name}": Machine({", ".join(values)}),'


if __name__ == "__main__":
    main()
