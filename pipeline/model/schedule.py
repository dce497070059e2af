"""Which block runs when: an architecture is a set of blocks plus the order in which they are visited.

A visit names a physical block, the pass it belongs to and its phase. Encoder visits push their outputs, the core's
passes run the looped blocks over and over, decoder visits pop what the encoder pushed, last in first out. Pure Python:
the network, calibration, freezing and reports all read the same schedule.

Differs: nothing here knows a tensor, a recipe or a parameter.
Checked by: tests/model/test_schedule.py
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Phase = Literal["encoder", "core", "decoder"]


@dataclass(frozen=True)
class Visit:
    """One application of one block."""

    block: int
    """Physical block index: unique blocks first, looped blocks after them."""
    loop: int
    """Pass through the core; 0 outside the core."""
    phase: Phase
    """encoder pushes a skip, decoder pops one, core does neither."""


@dataclass(frozen=True)
class Schedule:
    """The visits of one forward pass, in order: `encoder`, every pass of `passes`, `decoder`."""

    encoder: tuple[Visit, ...]
    passes: tuple[tuple[Visit, ...], ...]
    decoder: tuple[Visit, ...]

    @cached_property
    def visits(self) -> tuple[Visit, ...]:
        """All visits in the order in which they run."""
        core = tuple(visit for one_pass in self.passes for visit in one_pass)
        return self.encoder + core + self.decoder

    @cached_property
    def looped(self) -> tuple[int, ...]:
        """Physical indices of the blocks of the core, ascending."""
        return tuple(sorted({visit.block for one_pass in self.passes for visit in one_pass}))

    @cached_property
    def skips(self) -> tuple[tuple[int, int], ...]:
        """Pairs (encoder position, decoder position); the first decoder visit takes the last encoder output."""
        count = min(len(self.encoder), len(self.decoder))
        return tuple((len(self.encoder) - 1 - i, i) for i in range(count))

    @property
    def num_blocks(self) -> int:
        """Number of distinct physical blocks."""
        return len({visit.block for visit in self.visits})

    @property
    def effective_depth(self) -> int:
        """Number of block applications in one forward pass."""
        return len(self.visits)


def looped_core_schedule(unique_blocks: int, looped_blocks: int, num_loops: int) -> Schedule:
    """Return the schedule of a looped U-Net: half of the unique blocks, the looped core, the other half.

    The encoder takes the smaller half of an odd count. Without looped blocks the core has no passes.
    """
    half = unique_blocks // 2
    core_blocks = range(unique_blocks, unique_blocks + looped_blocks)
    num_passes = num_loops if looped_blocks else 0
    return Schedule(
        encoder=tuple(Visit(block, 0, "encoder") for block in range(half)),
        passes=tuple(tuple(Visit(block, loop, "core") for block in core_blocks) for loop in range(num_passes)),
        decoder=tuple(Visit(block, 0, "decoder") for block in range(half, unique_blocks)),
    )
