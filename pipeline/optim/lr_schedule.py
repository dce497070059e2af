"""Learning rate and momentum as pure functions of the step and the clock.

The one idea: progress is the larger of the shares spent of the step budget and of the wall-clock budget, and the
warm-down covers the last share of *progress*. Whichever budget ends the run, the learning rate arrives at its floor
exactly then, so a warm-down that never fires cannot be configured.

    scale    1 |    ____________________
               |   /                    \\
               |  /                      \\
         floor | /                        \\
               +--+---------------------+---+
               0  warmup_steps   1-warmdown 1    (steps | progress)

Source: trapezoidal schedule of the published speed-run scripts (linear warm-up, constant, linear warm-down).
Differs: they time the warm-down by extrapolating milliseconds per step; here it is a share of the budget itself.
Checked by: tests/optim/test_lr_schedule.py.
"""


def budget_progress(step: int, elapsed_seconds: float, *, max_steps: int | None, max_seconds: float | None) -> float:
    """Return the share of the budget spent when `step` steps are done: below 1 while the run goes on.

    `elapsed_seconds` is ignored when `max_seconds` is None; at least one budget must be given.
    """
    shares = [] if max_steps is None else [step / max_steps]
    shares += [] if max_seconds is None else [elapsed_seconds / max_seconds]
    assert shares, "a run needs a budget"
    return max(shares)


def lr_scale(step: int, elapsed_seconds: float, *, max_steps: int | None, max_seconds: float | None,
             warmup_steps: int, warmdown_frac: float, min_lr_frac: float) -> float:  # fmt: skip
    """Return the learning rate of the step about to run, over its peak: above 0 at every step, at most 1.

    `step` counts from 0; `elapsed_seconds` is the clock at its start.
    """
    progress = budget_progress(step, elapsed_seconds, max_steps=max_steps, max_seconds=max_seconds)
    rising = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    falling = min(1.0, max(0.0, 1 - progress) / warmdown_frac) if warmdown_frac > 0 else 1.0
    return min(rising, min_lr_frac + (1 - min_lr_frac) * falling)


def momentum_at(step: int, *, start: float, end: float, warmup_steps: int) -> float:
    """Return Muon's momentum of a step: linear from `start` at step 0 to `end` at `warmup_steps` and after."""
    share = min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0
    return start + (end - start) * share
