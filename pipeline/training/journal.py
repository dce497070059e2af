"""What a training run leaves behind besides weights: its curve, its log lines, its progress.

Checked by: tests/training/test_loop.py.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from pipeline.base.progress import ClockedProgress, Log, silent
from pipeline.base.ranks import Ranks
from pipeline.training.config import TrainConfig

_MEAN_ROWS = 5


class TrainResult(NamedTuple):
    """What a training run did; equal on every rank."""

    ended_by: str
    """Which budget was spent first: steps or clock."""
    curve: list[dict[str, float]]
    """One row per log line: step, loss, lr_scale, seconds, tokens."""
    regime: dict[str, Any]
    """What was done to the weights besides: `average` and `averaged_weights`, `quantization` and `quantized_steps`."""

    @property
    def last(self) -> dict[str, float]:
        """The row of the last step."""
        return self.curve[-1]


class Journal:
    """The curve, the log lines and the progress of a run; only rank 0's speaks."""

    def __init__(self, config: TrainConfig, ranks: Ranks, log: Log, progress: ClockedProgress) -> None:
        self.config = config
        self.say: Log = log if ranks.rank == 0 else lambda line: None
        self.progress: ClockedProgress = progress if ranks.rank == 0 else silent
        self.curve: list[dict[str, float]] = []

    def is_due(self, step: int) -> bool:
        """Tell whether a row is due after `step` steps: the first one, then every log_every_steps."""
        return step == 1 or step % self.config.log_every_steps == 0

    def add_row(self, step: int, loss: float, lr_scale: float, seconds: float, expected_steps: int) -> None:
        """Keep a row and log it."""
        tokens = step * self.config.batch_tokens
        self.curve.append({"step": step, "loss": loss, "lr_scale": lr_scale, "seconds": seconds, "tokens": tokens})
        milliseconds = 1000 * seconds
        self.say(
            f"step:{step}/{expected_steps} train_loss:{loss:.4f} train_time:{milliseconds:.0f}ms "
            f"step_avg:{milliseconds / step:.2f}ms"
        )

    def advance(self, step: int, expected_steps: int, seconds: float) -> None:
        """Move the progress on; the clock leaves what it has after `seconds`."""
        limit = self.config.train_seconds
        self.progress(step, expected_steps, progress_note(self.curve), None if limit is None else limit - seconds)

    def close(self, expected_steps: int, regime: dict[str, Any]) -> TrainResult:
        """Say whether the clock ended the run and what the regime did, and return the result."""
        last, max_steps = self.curve[-1], self.config.max_steps
        step = int(last["step"])
        by_clock = max_steps is None or step < max_steps
        if by_clock:
            milliseconds = 1000 * last["seconds"]
            self.say(
                f"stopping_early: wallclock_cap train_time:{milliseconds:.0f}ms "
                f"step:{step}/{max_steps or expected_steps}"
            )
        if regime:
            self.say(" ".join(f"{name}:{value}" for name, value in regime.items()))
        return TrainResult("clock" if by_clock else "steps", self.curve, regime)


def progress_note(curve: Sequence[Mapping[str, float]]) -> str:
    """Return the mean loss of the last rows, one batch each, and the present scale of the learning rates."""
    loss, scale = fmean(row["loss"] for row in curve[-_MEAN_ROWS:]), curve[-1]["lr_scale"]
    return f"loss {loss:.3f}, lr {scale:.2f}"
