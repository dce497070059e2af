"""How fast machines are: the few speeds by which counted work becomes seconds.

Rates of an H100 are its data sheet's, times what kernels of width 512 reach of them. `training_factor` is what is left
between counted and published milliseconds of a training step: optimizer, collectives, whatever the count leaves out. It
is the geometric mean over the four recipes whose steps are published, each of which lies within 15 % of it.

Source: NVIDIA's data sheet; PRs 1535, 1140, 1308 and 2135 (milliseconds of a step, steps in 600 s).
Checked by: tests/projection/test_training_time.py
"""

from dataclasses import dataclass, replace

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Speeds of one machine; all but `processes` are of one device."""

    processes: int
    """Devices, with a process each."""
    flops_per_second: float
    """Of matrix products in the precision of training."""
    bytes_per_second: float
    """Of memory, read and written."""
    launch_seconds: float
    """Of the host, per operation that is not compiled."""
    link_bytes_per_second: float
    """Between devices, in one direction."""
    compile_seconds: float
    """Of one scoring pass, its kernels built in turn."""
    count_seconds: float
    """Of a mixture, per target and length of context."""
    training_factor: float
    """Seconds of a training step over those counted."""


_EIGHT_H100 = Machine(
    processes=8,
    flops_per_second=0.5 * 989e12,  # dense bf16; products of width 512 reach about half
    bytes_per_second=0.8 * 3.35e12,  # HBM3; streaming kernels reach about four fifths
    launch_seconds=4e-6,  # what torch's dispatcher takes on a server's core
    link_bytes_per_second=0.7 * 450e9,  # NVLink, as collectives use it
    compile_seconds=60.0,  # 37 processor seconds of the CPU that docs/scoring.md was measured on
    count_seconds=0.53e-6,  # of that CPU, one thread: benchmarks/results/mixture_cost.json
    training_factor=1.24,
)
MACHINES = {"8xh100": _EIGHT_H100, "h100": replace(_EIGHT_H100, processes=1)}
"""Name -> machine. `python -m benchmarks.machine` measures another and prints its row."""


def machine_named(name: str) -> Machine:
    """Return a machine; raises ValueError for a name that the table lacks."""
    require(name in MACHINES, "--machine", name, f"one of {', '.join(MACHINES)}")
    return MACHINES[name]
