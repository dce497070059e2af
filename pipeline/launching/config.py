"""The `launch` section, apart from `train` so that a new training setting never makes scores out of date."""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where and on how many processes training runs."""

    num_processes: Literal["auto"] | int
    """Data-parallel processes on this machine, above 1 under torchrun; `auto` is one per GPU, one without GPUs."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto` takes CUDA when there is one; the log and the report say which."""
    attention: Literal["auto", "sdpa", "flash-2", "flash-3", "flash-4"]
    """Attention backend; `auto` takes flash-3, flash-2 or sdpa, the first that runs here, and the log says which; a
    named one that is absent is an error."""
    snapshot_seconds: float | None
    """Seconds of training between snapshots; null is never: a run that stops starts afresh."""

    def __post_init__(self) -> None:
        require(
            self.num_processes == "auto" or self.num_processes >= 1,
            "num_processes",
            self.num_processes,
            "auto or at least 1",
        )
        require(
            self.snapshot_seconds is None or self.snapshot_seconds > 0,
            "snapshot_seconds",
            self.snapshot_seconds,
            "null or above 0",
        )

    def result_settings(self) -> dict[str, object]:
        """Return the settings that a trained checkpoint depends on."""
        return {"num_processes": self.num_processes, "device": self.device, "attention": self.attention}
