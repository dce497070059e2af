"""What stages are called and how long they take: by their last runs, and for the demo by a table.

A stage's name is DVC's: `train@444`, `evaluate@444-sliding`.

Checked by: tests/stages/test_demo_estimate.py, tests/stages/test_status.py.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.shell.running import seconds_taken

if TYPE_CHECKING:
    from pipeline.base.config import Params

_MAKING = {"prepare": 3, "train": 169, "calibrate": 18, "quantize": 9}
SECONDS = {**_MAKING, "evaluate": 5, "metrics": 1, "package": 12, "audit": 22}
"""Command -> seconds of one run of it for the demo, its start included (`python -m benchmarks.course`)."""
REPORTS = {
    "train": "train_report",
    "calibrate": "calibrate_report",
    "quantize": "quantize_report",
    "evaluate": "scores",
}
"""Command -> the artifact that says how long it took and which code it ran."""


class StageName(NamedTuple):
    """What a stage's name says."""

    command: str
    seed: int | None
    item: str | None

    @property
    def row(self) -> str:
        """The name without its seed."""
        return f"{self.command} {self.item}" if self.item else self.command

    @property
    def name(self) -> str:
        """DVC's name, the inverse of `parse_name`."""
        if self.seed is None:
            return self.command
        if self.item == "float":
            return f"{self.command}-float@{self.seed}"
        return f"{self.command}@{self.seed}" + (f"-{self.item}" if self.item else "")


def parse_name(name: str) -> StageName:
    """Return what DVC's name of a stage says."""
    stage, _, place = name.partition("@")
    seed, _, item = place.partition("-")
    command = stage.removesuffix("-float")
    return StageName(command, int(seed) if seed else None, item or ("float" if command != stage else None))


def stages_of(params: "Params") -> list[str]:
    """Return the names of all stages as DVC prints them."""
    evaluations = [StageName("evaluate", None, item) for item in ("float", *params.evaluate.items)]
    making = [StageName(command, None, None) for command in ("train", "calibrate", "quantize")]
    per_seed = [*making, *evaluations, StageName("metrics", None, None)]
    names = [stage._replace(seed=seed).name for seed in params.seeds for stage in per_seed]
    return ["prepare", *names, "package", "audit"]


def labels_of(names: Iterable[str], everything: Iterable[str]) -> str:
    """Return names of stages, without seeds and items where all of them are among these."""
    shown: dict[str, None] = {}
    for name in names:
        labels = (parse_name(name).command, parse_name(name).row)
        complete = (label for label in labels if _stages(label, everything) <= set(names))
        shown[next(complete, name)] = None
    return ", ".join(shown)


def _stages(label: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if label in (parse_name(name).command, parse_name(name).row)}


def minutes(seconds: float) -> str:
    """Return seconds as minutes, for people."""
    from pipeline.base.checks import counted

    return counted(round(seconds / 60), "minute") if seconds >= 90 else counted(round(seconds), "second")


def last_report(name: str) -> Mapping[str, Any]:
    """Return the report that the last run of a stage left, empty without one."""
    from pipeline.base.artifacts import path_of, read_json

    command, seed, item = parse_name(name)
    path = path_of(REPORTS[command], seed=seed, item=item) if command in REPORTS else None
    return read_json(path) if path and path.exists() else {}


def last_seconds(name: str, params: "Params") -> float | None:
    """Return the seconds of a stage's last run, of training at the steps and the clock it has now.

    Where it did not run in this folder its report says them, without start and end. Of training its report alone does:
    `dvc exp apply` may have brought another run's, and no part of one run is taken with parts of another. None when
    nothing says so, as of an imported checkpoint.
    """
    report = last_report(name)
    if "step_avg_ms" not in report:
        seconds = report.get("seconds")
        whole = seconds_taken(*parse_name(name))
        return whole or (seconds["total"] if isinstance(seconds, dict) else seconds) or None
    steps, clock = params.train.max_steps, params.train.train_seconds
    ends = (steps and steps * report["step_avg_ms"] / 1000, clock)
    around = report.get("stage_seconds", 0.0) - report["seconds"]  # below 0 when a stopped run had trained before, too
    return max(0.0, around) + min(end for end in ends if end is not None) or None


def expected_seconds(names: Iterable[str], params: "Params") -> dict[str, float | None]:
    """Return how long each stage will take by the last runs, None where they do not say.

    A stage that has not run takes what it took for other seeds, training at most its clock. Package and audit
    run the headline of every seed: before their first run the demo's table says what that costs beside the evaluation.
    DVC's own work between stages is in none of it.
    """
    known = {name: last_seconds(name, params) for name in stages_of(params)}
    rows: dict[str, list[float]] = {}
    for name, seconds in known.items():
        rows.setdefault(parse_name(name).row, []).extend([seconds] if seconds else [])
    usual = {row: statistics.fmean(values) for row, values in rows.items() if values}
    if params.train.train_seconds is not None:
        usual.setdefault("train", params.train.train_seconds)
    if headline := usual.get(f"evaluate {params.evaluate.items[-1]}"):
        for command in ("package", "audit"):
            usual.setdefault(command, len(params.seeds) * headline * SECONDS[command] / SECONDS["evaluate"])
    return {name: known.get(name) or usual.get(parse_name(name).row) for name in names}
