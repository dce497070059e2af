"""Where the seconds and bytes of a run would go, as text of at most 80 columns.

Checked by: tests/projection/test_table.py
"""

from collections.abc import Sequence

from pipeline.base.config import Params
from pipeline.projection.machines import Machine
from pipeline.projection.rate import bits_per_weight, coded_weights, gaps_at
from pipeline.projection.scoring_time import mixture_seconds, scoring_parts, val_targets
from pipeline.projection.training_time import TrainingStage, training_stages

_PARTS = ("windows", "learning", "phase", "compile")


def projected_table(params: Params, name: str, machine: Machine, stages: Sequence[TrainingStage]) -> str:
    """Return stages of training, items of evaluation and bits per weight of a run with all sections."""
    return "\n".join(
        [
            f"projected for {name}, counted and not measured (docs/gpu.md):",
            *_training_lines(params, stages),
            *_evaluation_lines(params, machine),
            *_budget_lines(params),
        ]
    )


def run_stages(params: Params, machine: Machine) -> list[TrainingStage]:
    """Return the stages of training on a machine."""
    return training_stages(params.model, params.train, machine)


def mean_step_seconds(stages: Sequence[TrainingStage]) -> float:
    """Return the mean over a run's steps."""
    return sum(stage.seconds for stage in stages) / sum(stage.steps for stage in stages)


def _training_lines(params: Params, stages: Sequence[TrainingStage]) -> list[str]:
    train = params.train
    rows = [("training from", "loops", "context", "ms/step", "steps", "seconds")]
    rows += [
        (
            f"{stage.from_frac:.0%} of the budget",
            "all" if stage.loops is None else str(stage.loops),
            str(stage.context_tokens),
            f"{1e3 * stage.step_seconds:.1f}",
            f"{stage.steps:,}",
            f"{stage.seconds:.1f}",
        )
        for stage in stages
    ]
    steps, seconds = sum(stage.steps for stage in stages), sum(stage.seconds for stage in stages)
    rows.append(("all", "", "", f"{1e3 * seconds / steps:.1f}", f"{steps:,}", f"{seconds:.1f}"))
    if train.reserve_seconds:
        rows.append(("kept for calibration, quantization", "", "", "", "", f"{train.reserve_seconds:.1f}"))
    compiled = ["compilation comes before this clock"] if train.compile else []
    return [*_aligned(rows), *compiled]


def _evaluation_lines(params: Params, machine: Machine) -> list[str]:
    targets, evaluate = val_targets(params.data), params.evaluate
    if targets is None:
        return [f"evaluation: unknown, for the challenge's val was not counted in {params.data.vocab_size} pieces"]
    rows: list[tuple[str, ...]] = [("evaluation, seconds", *_PARTS, "counts", "all")]
    for item in evaluate.items:
        protocol = evaluate.protocols[item]
        parts = scoring_parts(params.model, protocol, evaluate.batch_tokens, machine, targets)
        counts = mixture_seconds(protocol, params.calibrate.mixture, machine, targets)
        seconds = [*(parts.get(part, 0.0) for part in _PARTS), counts]
        rows.append((item, *(f"{each:.0f}" if each else "-" for each in seconds), f"{sum(seconds):.0f}"))
    limit = "" if evaluate.limit_seconds is None else f"; an item may take {evaluate.limit_seconds:.0f} s"
    return [*_aligned(rows), f"of {targets:,} targets, the challenge's val{limit}"]


def _budget_lines(params: Params) -> list[str]:
    bits = bits_per_weight(params.model, params.budget)
    gaps = [f"{gap:.1f} ({name})" for name, gap in gaps_at(bits).items()]
    measured = f"at that rate {' and '.join(gaps)} mBPB were lost at width 256" if gaps else "nobody measured that rate"
    weights, limit = coded_weights(params.model), params.budget.limit_bytes
    return [f"{limit:,} bytes leave {bits:.2f} bits for each of {weights:,} codes:", measured]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
