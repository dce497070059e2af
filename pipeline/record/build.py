"""From a resolved recipe to the readable text of its program, and whether the record fits the byte limit.

Checked by: tests/record/test_record.py (sizes), tests/stages/test_pipeline.py.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline.base.config import Params
from pipeline.data.case_ops import CASE_FORMS
from pipeline.launching.openmp import POLICY, WAITING
from pipeline.quant.config import BudgetConfig
from pipeline.record.flatten import flatten
from pipeline.record.program import Recipe, seeded_digest, settings_digest
from pipeline.record.statements import score_name

_SLACK_FRAC = 0.0005
"""Share of the limit above which unused code reserve is worth mentioning."""


def recipe_of(params: Params) -> Recipe:
    """Return what a record of `params`, with all sections, carries inside: of the items its headline."""
    protocol = params.evaluate.protocols[params.evaluate.headline]
    return Recipe(
        seed=params.seeds[0],
        meta={"model": dataclasses.asdict(params.model)},
        device=params.launch.device,
        attention=params.launch.attention,
        model=params.model,
        train=params.train,
        calibrate=params.calibrate,
        quantize=params.quantize,
        budget=params.budget,
        protocols={params.evaluate.headline: protocol},
        score_name=score_name(dataclasses.asdict(protocol)),
        batch_tokens=params.evaluate.batch_tokens,
        silent_tokens=params.data.case_ops and CASE_FORMS[params.data.case_ops].silent_tokens,
    )


def record_source(recipe: Recipe, root: Path, *, marked: bool = False) -> str:
    """Return the readable one-file program for `recipe`, flattened from the library below `root`."""
    head = f"import os\n{POLICY!r} in os.environ or os.environ.update({WAITING!r})"
    tail = f"main({recipe!r}, {settings_digest(recipe)!r})"
    return flatten("pipeline.record.program", root, tail, head=head, marked=marked)


def recipe_digest(recipe: Recipe) -> str:
    """Return the digest of settings and seed that a record prints."""
    return seeded_digest(settings_digest(recipe), recipe.seed)


def check_budget(budget: BudgetConfig, code_bytes: int, artifact_bytes: Mapping[int, int]) -> None:
    """Raise ValueError, naming the parameter and the value it needs, when code or total exceed the budget section."""
    if code_bytes > budget.code_reserve_bytes:
        raise ValueError(
            f"budget.code_reserve_bytes: got {budget.code_reserve_bytes}, expected at least {code_bytes}, "
            "the size of train_gpt.py; raise it and quantize again"
        )
    for seed, model_bytes in artifact_bytes.items():
        if code_bytes + model_bytes > budget.limit_bytes:
            raise ValueError(
                f"budget.limit_bytes: got {budget.limit_bytes}, expected at least {code_bytes + model_bytes} for seed "
                f"{seed} (train_gpt.py {code_bytes} + artifact {model_bytes}); quantize again under this limit"
            )


def budget_note(budget: BudgetConfig, code_bytes: int, bytes_total: int) -> str:
    """Return how far the record stays below its limit, and by how much the code reserve is too large, if that counts.

    `bytes_total`: code and largest artifact. A reserve costs the artifact its slack; small slack is not worth a rerun.
    """
    note = f"{100 * (1 - bytes_total / budget.limit_bytes):.3f} % below budget.limit_bytes"
    slack_bytes = budget.code_reserve_bytes - code_bytes
    if slack_bytes > _SLACK_FRAC * budget.limit_bytes:
        note += f"; budget.code_reserve_bytes could be {slack_bytes:,} lower"
    return note
