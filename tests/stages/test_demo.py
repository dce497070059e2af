"""The shipped params.yaml: what it promises about sizes holds for the code as it is."""

from pathlib import Path

from pipeline.config import SECTIONS, load_params
from pipeline.submission.build import recipe_of, record_source, shipped_program


def test_the_demo_reserves_what_its_code_needs_and_little_more(repo: Path):
    params = load_params(repo / "params.yaml", SECTIONS)
    code = len(shipped_program(record_source(recipe_of(params), repo), params.package.readable))
    slack = params.size.code_reserve_bytes - code
    # Code and artifact together land within 0.1 % below the limit: the artifact's tolerance takes half of that.
    assert 0 <= slack <= 0.0005 * params.size.limit_bytes, f"code {code}: set size.code_reserve_bytes near it"
    assert params.size.tolerance_frac <= 0.0005
