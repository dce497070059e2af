"""Settings of section `train` in their longer form: per group of parameters or block, along a cycle, every n steps.

Source: Parameter Golf pull request 2135 (values per group), logs of others (cycle of the momentum).
Checked by: tests/training/test_train_config.py, tests/training/test_group_settings.py
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class GroupDecay:
    """Weight decay per group of parameters."""

    matrix: float
    """Of matrices, under Muon."""
    embedding: float
    """Of tables, under AdamW."""
    scalar: float
    """Of gains, gates and scales, under AdamW."""

    def __post_init__(self) -> None:
        for name in ("matrix", "embedding", "scalar"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class GroupBeta:
    """A decay of AdamW's moments per group of parameters."""

    embedding: float
    """Of tables."""
    scalar: float
    """Of gains, gates and scales."""

    def __post_init__(self) -> None:
        for name in ("embedding", "scalar"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class BlockRates:
    """A learning rate per block."""

    peak: float
    """Of matrices outside of blocks."""
    block_factors: tuple[float, ...]
    """Factor on it for the matrices of every physical block, in their order."""

    def __post_init__(self) -> None:
        require(self.peak > 0, "peak", self.peak, "above 0")
        require(
            len(self.block_factors) > 0 and min(self.block_factors) > 0,
            "block_factors",
            self.block_factors,
            "a number above 0 for every block",
        )


@dataclass(frozen=True, kw_only=True)
class MomentumCycle:
    """Momentum that rises and falls between its two ends over and over, in place of one warm-up."""

    cycle_steps: int
    """Steps from the lower end to the upper and back."""

    def __post_init__(self) -> None:
        require(self.cycle_steps >= 2, "cycle_steps", self.cycle_steps, "at least 2")


@dataclass(frozen=True, kw_only=True)
class SparseEmaConfig:
    """An exponential moving average taken after every n-th step only: cheaper, and its span in steps is the same."""

    kind: Literal["ema"]
    decay: float
    """Weight of the past per step."""
    from_frac: float
    """Share of the budget at which the average begins."""
    every_steps: int
    """Distance of the weights that are averaged: each time the past counts decay ** every_steps."""

    def __post_init__(self) -> None:
        require(0 < self.decay < 1, "decay", self.decay, "above 0 and below 1")
        require(self.every_steps >= 1, "every_steps", self.every_steps, "at least 1")
