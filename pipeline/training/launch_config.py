"""The `launch` section, apart from `train` so that a new training setting never makes scores out of date."""

from dataclasses import dataclass
from typing import Literal

from pipeline.checks import require


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where and on how many processes training runs."""

    num_processes: int
    """Data-parallel processes on this machine; above 1 they run under torchrun."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto` takes CUDA when there is one; the log and the report say which."""

    def __post_init__(self) -> None:
        require(self.num_processes >= 1, "num_processes", self.num_processes, "at least 1")
