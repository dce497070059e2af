"""The shipped configurations: what they promise about sizes holds for the code as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.config import SECTIONS, load_params
from pipeline.record.build import recipe_of, record_source

REPO = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (REPO / "recipes").glob("*.yaml") if path.stem != "demo")


def slack_bytes(path: Path, shipped: Callable[[str], bytes]) -> tuple[int, int]:
    """Return what a configuration reserves beyond its code's bytes, and its limit."""
    params = load_params(path, SECTIONS)
    assert not params.package.readable
    code = len(shipped(record_source(recipe_of(params), REPO)))
    return params.budget.code_reserve_bytes - code, params.budget.limit_bytes


def test_the_demo_reserves_what_its_code_needs_and_little_more(shipped: Callable[[str], bytes]):
    slack, limit = slack_bytes(REPO / "params.yaml", shipped)
    # Code and artifact together land within 0.1 % below the limit: the artifact's tolerance takes half of that.
    assert 0 <= slack <= 0.0005 * limit, f"slack {slack}: set budget.code_reserve_bytes near the code's size"
    assert load_params(REPO / "params.yaml", SECTIONS).budget.tolerance_frac <= 0.0005


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reserves_what_its_code_needs(name: str, shipped: Callable[[str], bytes]):
    slack, limit = slack_bytes(REPO / "recipes" / f"{name}.yaml", shipped)
    assert slack >= 0, f"budget.code_reserve_bytes is {-slack} too small: package would refuse the record"
    assert slack <= 1000 < limit
