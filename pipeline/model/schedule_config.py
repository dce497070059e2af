"""The three families of visit orders a network can have, as configuration: `model.schedule`.

* `core`: unique encoder blocks, a core of looped blocks passed several times, unique decoder blocks
* `folded`: a plain stack whose middle segment repeats; the list of visits is cut in the middle into encoder and decoder
* `helix`: unique blocks with the looped blocks beside them, on a stream of their own

Checked by: tests/model/test_model_config.py, tests/model/test_schedule.py
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require


def _check_order(order: tuple[int, ...] | None, unique_blocks: int) -> None:
    if order is not None:
        require(
            len(order) > 0 and set(order) == set(range(unique_blocks)),
            "unique_order",
            order,
            f"indices of the {unique_blocks} unique blocks, each at least once",
        )


@dataclass(frozen=True, kw_only=True)
class CoreSchedule:
    """Encoder, looped core, decoder; without unique blocks a shared-only stack."""

    kind: Literal["core"]
    unique_blocks: int
    """Physical blocks outside the core; the first half of their visits (rounded down) encodes, the rest decodes."""
    unique_order: tuple[int, ...] | None
    """Unique block of every visit outside the core, when some share their weights; null visits each once in order."""
    looped_blocks: int
    """Blocks of the looped core."""
    num_loops: int
    """Passes P through the looped core."""

    def __post_init__(self) -> None:
        for name, least in (("unique_blocks", 0), ("looped_blocks", 0), ("num_loops", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        require(
            self.unique_blocks + self.looped_blocks >= 1,
            "unique_blocks",
            self.unique_blocks,
            "at least 1 without looped_blocks: a network has a block",
        )
        _check_order(self.unique_order, self.unique_blocks)

    @property
    def num_blocks(self) -> int:
        """Physical blocks: unique first, looped after them."""
        return self.unique_blocks + self.looped_blocks

    @property
    def num_passes(self) -> int:
        """Passes through the core; 0 without looped blocks."""
        return self.num_loops if self.looped_blocks else 0

    @property
    def order(self) -> tuple[int, ...]:
        """Unique block of every visit outside the core."""
        return tuple(range(self.unique_blocks)) if self.unique_order is None else self.unique_order

    def layer(self, block: int) -> int:
        """Return the layer number that `ln_scale` uses: where the block is first visited, looped blocks last."""
        return self.order.index(block) if block < self.unique_blocks else len(self.order) + block - self.unique_blocks


@dataclass(frozen=True, kw_only=True)
class FoldedSchedule:
    """The looped U-Net: blocks up to the loop, the loop `num_loops` times, the rest; cut in the middle."""

    kind: Literal["folded"]
    unique_blocks: int
    """Physical blocks, the repeated ones included."""
    loop_start: int
    """First block of the repeated segment."""
    loop_end: int
    """Last block of the repeated segment."""
    num_loops: int
    """Times the segment runs; 1 is a plain U-Net."""

    looped_blocks = 0

    def __post_init__(self) -> None:
        require(self.unique_blocks >= 1, "unique_blocks", self.unique_blocks, "at least 1")
        require(self.num_loops >= 1, "num_loops", self.num_loops, "at least 1")
        require(self.loop_end >= 0, "loop_end", self.loop_end, "0 or more")
        require(
            0 <= self.loop_start <= self.loop_end < self.unique_blocks,
            "loop_start",
            (self.loop_start, self.loop_end),
            f"0 <= start <= end < unique_blocks ({self.unique_blocks})",
        )

    @property
    def num_blocks(self) -> int:
        """Physical blocks."""
        return self.unique_blocks

    @property
    def num_passes(self) -> int:
        """Passes through a core: a folded stack has none, its repeats are encoder and decoder visits."""
        return 0

    def layer(self, block: int) -> int:
        """Return the layer number that `ln_scale` uses."""
        return block


@dataclass(frozen=True, kw_only=True)
class HelixSchedule:
    """Unique blocks, and beside every `stride`-th of them one run of the looped blocks on a second stream."""

    kind: Literal["helix"]
    unique_blocks: int
    """Physical blocks of the main stream; the first half of their visits (rounded down) encodes, the rest decodes."""
    unique_order: tuple[int, ...] | None
    """As in kind core."""
    looped_blocks: int
    """Blocks of the second stream."""
    stride: int
    """The looped blocks run after every `stride`-th visit of a unique block."""
    bridge: Literal["linear", "attention"]
    """How the streams hear each other: a linear bottleneck or single-head causal cross-attention."""
    bridge_dim: int
    """Width of the bottleneck or of the attention head."""

    def __post_init__(self) -> None:
        for name in ("unique_blocks", "looped_blocks", "stride", "bridge_dim"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _check_order(self.unique_order, self.unique_blocks)
        require(
            self.stride <= len(self.order),
            "stride",
            self.stride,
            f"at most {len(self.order)}, or the second stream never runs",
        )

    @property
    def num_blocks(self) -> int:
        """Physical blocks: unique first, looped after them."""
        return self.unique_blocks + self.looped_blocks

    @property
    def num_passes(self) -> int:
        """Different passes: every run of the second stream is the same one."""
        return 1

    @property
    def order(self) -> tuple[int, ...]:
        """Unique block of every visit of the main stream."""
        return tuple(range(self.unique_blocks)) if self.unique_order is None else self.unique_order

    def layer(self, block: int) -> int:
        """Return the layer number that `ln_scale` uses."""
        return self.order.index(block) if block < self.unique_blocks else len(self.order) + block - self.unique_blocks


ScheduleConfig = CoreSchedule | FoldedSchedule | HelixSchedule
