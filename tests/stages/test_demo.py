"""The shipped params.yaml: what it promises about sizes holds for the code as it is."""

from pathlib import Path

from pipeline.config import SECTIONS, load_params
from pipeline.submission.build import Recipe, record_source, shipped_program


def test_the_demo_reserves_what_its_code_needs_and_little_more(repo: Path):
    params = load_params(repo / "params.yaml", SECTIONS)
    sections = ("model", "train", "calibrate", "quantize", "size", "evaluate")
    recipe = Recipe(
        seed=params.seeds[0],
        device=params.launch.device,
        attention=params.launch.attention,
        **{name: getattr(params, name) for name in sections},
    )
    code = len(shipped_program(record_source(recipe, repo), params.package.readable))
    slack = params.size.code_reserve_bytes - code
    # Code and artifact together land within 0.1 % below the limit: the artifact's tolerance takes half of that.
    assert 0 <= slack <= 0.0005 * params.size.limit_bytes, f"code {code}: set size.code_reserve_bytes near it"
    assert params.size.tolerance_frac <= 0.0005
