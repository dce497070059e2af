"""Every recipe for eight GPUs scores its headline within its limit, by projection."""

from pathlib import Path

import pytest

from benchmarks.projection import challenge_recipes
from pipeline.base.config import load_params
from pipeline.projection.machines import MACHINES
from pipeline.projection.scoring_time import mixture_seconds, scoring_seconds, val_targets


def test_recipes_of_the_challenge_are_those_for_its_track() -> None:
    names = {path.stem for path in challenge_recipes()}
    assert {"nightcrawler-7f3c", "fairway-16mb", "helix"} <= names
    assert not {"demo", "tiny"} & names


@pytest.mark.slow
@pytest.mark.parametrize("path", challenge_recipes(), ids=lambda path: path.stem)
def test_the_headline_of_a_recipe_for_eight_gpus_fits_its_limit(path: Path) -> None:
    params = load_params(path, ["data", "model", "launch", "calibrate", "evaluate"])
    evaluate, machine, targets = params.evaluate, MACHINES["8xh100"], val_targets(params.data)
    if params.launch.num_processes != machine.processes:
        pytest.skip("its limit is the user's: it does not run on the challenge's machine")
    headline = evaluate.protocols[evaluate.items[-1]]
    seconds = scoring_seconds(params.model, headline, evaluate.batch_tokens, machine, targets)
    seconds += mixture_seconds(headline, params.calibrate.mixture, machine, targets)
    print(path.stem, round(seconds))
    assert evaluate.limit_seconds == 600.0
    assert 20 < seconds < evaluate.limit_seconds
