"""Which block runs when: an architecture is a set of blocks plus the order in which they are visited.

A visit names a physical block, the pass it belongs to and its phase. Encoder visits push their outputs, the core's
passes run the looped blocks over and over, decoder visits pop what the encoder pushed, last in first out; in a helix
the looped blocks run beside the others. Pure Python: the network, calibration, freezing and reports all read the same
schedule. With fewer active loops the same blocks make a shorter schedule: loops can be switched on during training.

Differs: nothing here knows a tensor, a recipe or a parameter.
Checked by: tests/model/test_schedule.py
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.base.checks import require
from pipeline.model.schedule_config import CoreSchedule, FoldedSchedule, HelixSchedule, ScheduleConfig

Phase = Literal["encoder", "core", "decoder"]


@dataclass(frozen=True)
class Visit:
    """One application of one block."""

    block: int
    """Physical block index: unique blocks first, looped blocks after them."""
    loop: int
    """Pass through the core, or repeat of a folded segment; 0 elsewhere."""
    phase: Phase
    """encoder pushes a skip, decoder pops one, core does neither."""
    slot: int
    """Position among the visits of the schedule with all loops active: the row of per-visit parameters."""


@dataclass(frozen=True)
class Schedule:
    """The visits of one forward pass, in order: `encoder`, every pass of `passes`, `decoder`; `beside` in between."""

    encoder: tuple[Visit, ...]
    passes: tuple[tuple[Visit, ...], ...]
    decoder: tuple[Visit, ...]
    looped: tuple[int, ...]
    """Physical indices of the blocks that loop, ascending, active or not."""
    beside: tuple[tuple[Visit, ...], ...] = ()
    """In a helix: what the second stream runs after each visit of encoder and decoder; empty otherwise."""

    @cached_property
    def visits(self) -> tuple[Visit, ...]:
        """All visits in the order in which they run."""
        core = tuple(visit for one_pass in self.passes for visit in one_pass)
        if not self.beside:
            return self.encoder + core + self.decoder
        pairs = zip(self.encoder + self.decoder, self.beside, strict=True)
        return tuple(visit for main, side in pairs for visit in (main, *side))

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


def build_schedule(config: ScheduleConfig, active_loops: int | None = None) -> Schedule:
    """Return the schedule of a configuration, with the first `active_loops` loops only (default: all)."""
    if isinstance(config, HelixSchedule):
        require(active_loops in (None, 1), "active_loops", active_loops, "1: a helix has no loops to switch")
        return _helix_schedule(config)
    active = config.num_loops if active_loops is None else active_loops
    require(1 <= active <= config.num_loops, "active_loops", active, f"1 to num_loops ({config.num_loops})")
    return _core_schedule(config, active) if isinstance(config, CoreSchedule) else _folded_schedule(config, active)


def _phase_visits(blocks: Iterable[int], phase: Phase, first_slot: int, loop: int = 0) -> tuple[Visit, ...]:
    return tuple(Visit(block, loop, phase, first_slot + i) for i, block in enumerate(blocks))


def _core_schedule(config: CoreSchedule, active_loops: int) -> Schedule:
    """Half of the visits of unique blocks, the passes, the other half; the encoder has the smaller half."""
    order, half, looped = config.order, len(config.order) // 2, range(config.unique_blocks, config.num_blocks)
    size = len(looped)
    return Schedule(
        encoder=_phase_visits(order[:half], "encoder", 0),
        passes=tuple(
            _phase_visits(looped, "core", half + loop * size, loop)
            for loop in range(min(active_loops, config.num_passes))
        ),
        decoder=_phase_visits(order[half:], "decoder", half + size * config.num_passes),
        looped=tuple(looped),
    )


def _folded_schedule(config: FoldedSchedule, active_loops: int) -> Schedule:
    """One list of visits, cut in the middle; with fewer active loops the cut moves."""
    segment = range(config.loop_start, config.loop_end + 1)
    order = [(block, 0) for block in range(config.loop_start)]
    order += [(block, loop) for loop in range(config.num_loops) for block in segment]
    order += [(block, 0) for block in range(config.loop_end + 1, config.unique_blocks)]
    active = [(slot, block, loop) for slot, (block, loop) in enumerate(order) if loop < active_loops]
    half = len(active) // 2
    return Schedule(
        encoder=tuple(Visit(block, loop, "encoder", slot) for slot, block, loop in active[:half]),
        passes=(),
        decoder=tuple(Visit(block, loop, "decoder", slot) for slot, block, loop in active[half:]),
        looped=tuple(segment) if config.num_loops > 1 else (),
    )


def _helix_schedule(config: HelixSchedule) -> Schedule:
    """Main-stream visits in order; after every `stride`-th the looped blocks run once on the second stream."""
    looped = range(config.unique_blocks, config.num_blocks)
    main, beside, slot = [], [], 0
    half = len(config.order) // 2
    for i, block in enumerate(config.order):
        main.append(Visit(block, 0, "encoder" if i < half else "decoder", slot))
        fires = (i + 1) % config.stride == 0
        beside.append(_phase_visits(looped if fires else (), "core", slot + 1))
        slot += 1 + len(beside[-1])
    return Schedule(tuple(main[:half]), (), tuple(main[half:]), tuple(looped), tuple(beside))
