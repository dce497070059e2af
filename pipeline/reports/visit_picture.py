"""The order of visits as text: one row per visit outside the core and per pass through it, skips as lanes beside them.

u are unique blocks, l looped ones, b the blocks of a folded stack. An encoder row opens a lane, the decoder row that
reads this skip closes it.

Checked by: tests/test_recipes.py.
"""

from pipeline.model.config import ModelConfig
from pipeline.model.parts.config import LanesConfig
from pipeline.model.schedule import Schedule, Visit, build_schedule
from pipeline.model.schedule_config import FoldedSchedule

LANE_COLUMNS = 3
CORE_NOTES = {
    "flow_dim": "FLOW: before every pass, an instruction from the stream",
    "positions": "positions: before every pass, an offset of its own",
    "anchor_dim": "anchor: every pass leaves a note for the next",
    "tap": "tap: every pass hears the encoder again",
    "smear": "smear: every pass is mixed with the one before",
    "step": "step: a pass moves the stream by a share of its change",
}
"""Key of `model.conditioners` -> its line below the picture; one without a sentence here is named by its key."""


def visit_picture(config: ModelConfig) -> str:
    """Return the picture of a network's visits, lines without trailing spaces, ending in a newline."""
    schedule = build_schedule(config.schedule)
    rows = _rows(config, schedule)
    width = max(len(f"{phase:<9}{blocks}") for phase, blocks, _, _ in rows) + 1
    head = f"{schedule.effective_depth} visits of {schedule.num_blocks} blocks"
    lines = [head, "", *_with_lanes(rows, schedule, width)]
    notes = _core_notes(config)
    if isinstance(config.parallel_blocks, LanesConfig):
        notes.append(f"two lanes: from b{config.parallel_blocks.first_block} on attention and MLP have a stream each")
    return "\n".join(lines + ["", *notes] * bool(notes)) + "\n"


def _rows(config: ModelConfig, schedule: Schedule) -> list[tuple[str, str, int | None, int | None]]:
    """Return (phase, blocks, encoder position, decoder position) of every row."""
    rows: list[tuple[str, str, int | None, int | None]] = []
    main = [
        *((v, i, None) for i, v in enumerate(schedule.encoder)),
        *((v, None, i) for i, v in enumerate(schedule.decoder)),
    ]
    for number, (visit, pushes, pops) in enumerate(main):
        if number == len(schedule.encoder):
            rows += _pass_rows(config, schedule)
        rows.append((visit.phase, _label(config, visit), pushes, pops))
        if schedule.beside and schedule.beside[number]:
            rows.append(("beside", " ".join(_label(config, v) for v in schedule.beside[number]), None, None))
    return rows if schedule.decoder else rows + _pass_rows(config, schedule)


def _pass_rows(config: ModelConfig, schedule: Schedule) -> list[tuple[str, str, int | None, int | None]]:
    return [
        (f"pass {loop}", " ".join(_label(config, visit) for visit in visits), None, None)
        for loop, visits in enumerate(schedule.passes)
    ]


def _label(config: ModelConfig, visit: Visit) -> str:
    if isinstance(config.schedule, FoldedSchedule):
        again = f" again ({visit.loop + 1})" if visit.loop else ""
        return f"b{visit.block}{again}"
    unique = config.schedule.unique_blocks
    return f"u{visit.block}" if visit.block < unique else f"l{visit.block - unique}"


def _with_lanes(rows: list[tuple[str, str, int | None, int | None]], schedule: Schedule, width: int) -> list[str]:
    """Return the rows with the lanes of the skips drawn beside them."""
    lane_of_push = {push: lane for lane, (push, _) in enumerate(schedule.skips)}
    num_lanes, lines, is_open = len(schedule.skips), [], set[int]()
    for phase, blocks, pushes, pops in rows:
        closes = pops if pops is not None and pops < num_lanes else None
        lane = lane_of_push.get(pushes, closes) if pushes is not None else closes
        cells = ["|" if i in is_open and i != lane else " " for i in range(num_lanes)]
        text = f"{phase:<9}{blocks} ".ljust(width)
        if lane is None:
            text += "".join(" " * (LANE_COLUMNS - 1) + cell for cell in cells)
        else:
            text = text.rstrip().ljust(width, " ")
            text += ("<" if closes is not None else "-") + "-" * (LANE_COLUMNS * (lane + 1) - 2)
            text += "'" if closes is not None else "."
            text += "".join(" " * (LANE_COLUMNS - 1) + cell for cell in cells[lane + 1 :])
            (is_open.discard if closes is not None else is_open.add)(lane)
        lines.append(text.rstrip())
    return lines


def _core_notes(config: ModelConfig) -> list[str]:
    """Return a line for everything that tells passes apart."""
    notes = [CORE_NOTES.get(name, name) for name, value in vars(config.conditioners).items() if value]
    scales = ", ".join(f"{scale:g}" for scale in config.rope.loop_scales or ())
    return [*notes, f"battery: rotary frequencies of looped blocks divided by {scales}"] if scales else notes
