"""What changes over a training run, as pure functions of the step and the clock.

The one idea: progress is the larger of the shares spent of the step budget and of the wall-clock budget, and the
warm-down covers the end of *both*: its last share, or as many steps as the measured speed will still allow. Whichever
budget ends the run, the learning rate arrives at its floor exactly then, so a warm-down that never fires cannot be
configured.

    scale    1 |    ____________________
               |   /                    \\
               |  /                      \\
         floor | /                        \\
               +--+---------------------+---+
               0  warmup_steps          |<->| warm-down
                                        1   0   warmdown_left

Source: trapezoidal schedule of the published speed-run scripts (linear warm-up, constant, linear warm-down); their rule
    for a warm-down of n steps on a clock: remaining seconds / (n x measured seconds per step). Progressive loops:
    Parameter Golf pull request 1493; cadence: Frugendorff.
Differs: theirs forget the step budget once there is a clock; here the budget that ends first counts. Before the first
    step is measured the clock's warm-down has not begun.
Checked by: tests/optim/test_lr_schedule.py.
"""

from collections.abc import Sequence


def budget_progress(step: int, elapsed_seconds: float, *, max_steps: int | None, max_seconds: float | None) -> float:
    """Return the share of the budget spent when `step` steps are done: below 1 while the run goes on.

    `elapsed_seconds` is ignored when `max_seconds` is None; at least one budget must be given.
    """
    shares = [] if max_steps is None else [step / max_steps]
    shares += [] if max_seconds is None else [elapsed_seconds / max_seconds]
    assert shares, "a run needs a budget"
    return max(shares)


def warmdown_left(
    step: int,
    elapsed_seconds: float,
    *,
    max_steps: int | None,
    max_seconds: float | None,
    warmdown_frac: float | None,
    warmdown_steps: int | None,
) -> float:
    """Return the share of the warm-down that is still ahead: 1 until it begins, 0 at the end of the budget.

    `step` counts from 0; `elapsed_seconds` is the clock at its start. Without a warm-down it is always 1.
    """
    left = 1.0
    if warmdown_frac is not None:
        progress = budget_progress(step, elapsed_seconds, max_steps=max_steps, max_seconds=max_seconds)
        left = (1 - progress) / warmdown_frac
    elif warmdown_steps is not None:
        steps_left = [] if max_steps is None else [float(max_steps - step)]
        if max_seconds is not None and step and elapsed_seconds > 0:
            steps_left += [(max_seconds - elapsed_seconds) * step / elapsed_seconds]
        left = min(steps_left, default=warmdown_steps) / warmdown_steps
    return min(1.0, max(0.0, left))


def lr_scale(step: int, left: float, *, warmup_steps: int, min_lr_frac: float) -> float:
    """Return the learning rate of a step over its peak, given `warmdown_left`: above 0 at every step, at most 1."""
    rising = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    return min(rising, decay_scale(left, end_frac=min_lr_frac))


def decay_scale(left: float, *, end_frac: float) -> float:
    """Return a value over its start that falls linearly over the warm-down, from 1 to `end_frac`."""
    return end_frac + (1 - end_frac) * left


def momentum_at(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """Return Muon's momentum of a step: linear from `start` at step 0 to `end` at `warmup_steps` and after."""
    share = min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0
    return start + (end - start) * share


def cyclic_momentum_at(step: int, *, low: float, high: float, cycle_steps: int) -> float:
    """Return Muon's momentum of a step: linear from `low` to `high` over half a cycle, back over the other half."""
    turn = step % cycle_steps / cycle_steps
    return low + (high - low) * (1 - abs(1 - 2 * turn))


def active_loops_at(
    step: int, progress: float, *, stages: Sequence[tuple[float, int]], all_loops_every_steps: int | None
) -> int | None:
    """Return how many loops a step runs; None is all of them.

    `stages`: (share of progress from which it holds, loops), ascending; empty is all loops always.
    With a cadence n, steps 0, n, 2 n, ... run the loops of their stage and the others run one.
    """
    if all_loops_every_steps is not None and step % all_loops_every_steps:
        return 1
    return next((loops for from_frac, loops in reversed(stages) if progress >= from_frac), None)
