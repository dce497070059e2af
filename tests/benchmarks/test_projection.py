"""Projections: what is counted, and that every recipe for eight GPUs scores its headline within its limit."""

from pathlib import Path

import pytest
import torch

from benchmarks.projection import (
    VAL_TARGETS,
    Counts,
    challenge_documents,
    challenge_recipes,
    count,
    forward_counts,
    scoring_seconds,
)
from pipeline.base.config import load_params


def test_products_are_counted_with_their_operands_and_views_are_free() -> None:
    a_RC, b_CR = torch.zeros(4, 6), torch.zeros(6, 4)
    counts = count(lambda: (a_RC @ b_CR).view(16)[:3].add(1.0))
    assert counts == Counts(2, 4 * (24 + 24 + 16) + 4 * (3 + 3), 4 * (24 + 24 + 16), 2 * 4 * 6 * 4)


def test_the_slowest_of_launches_bytes_and_products_decides() -> None:
    assert Counts(1000, 1, 1, 1).seconds(compiled=False) == pytest.approx(4e-3)
    assert Counts(1000, 1, 1, 1).seconds(compiled=True) < 1e-9
    assert Counts(0, 2.68e12, 0, 0).seconds(compiled=False) == pytest.approx(1)
    assert Counts(0, 2.68e12, 2.68e12, 0).seconds(compiled=True) == pytest.approx(2)


def test_documents_of_the_challenge_add_up_and_are_the_same_in_every_run() -> None:
    documents = challenge_documents(VAL_TARGETS[8192])
    assert sum(documents) == VAL_TARGETS[8192]
    assert min(documents) >= 0
    assert documents == challenge_documents(VAL_TARGETS[8192])


@pytest.mark.slow
@pytest.mark.parametrize("path", challenge_recipes(), ids=lambda path: path.stem)
def test_the_headline_of_a_recipe_for_eight_gpus_fits_its_limit(path: Path) -> None:
    params = load_params(path, ["model", "launch", "evaluate"])
    evaluate, vocab_size = params.evaluate, params.model.vocab_size
    if params.launch.num_processes != 8:
        pytest.skip("its limit is the user's: it does not run on the challenge's machine")
    headline = evaluate.protocols[evaluate.items[-1]]
    seconds = scoring_seconds(params.model, headline, evaluate.batch_tokens, 8, VAL_TARGETS[vocab_size])
    print(path.stem, round(seconds))
    assert evaluate.limit_seconds == 600.0
    assert 20 < seconds < evaluate.limit_seconds


def test_a_deeper_visit_schedule_costs_more() -> None:
    """Scored positions alone pass the last visit: the counts follow the planner's saving."""
    config = load_params(challenge_recipes()[0], ["model"]).model
    some, all_ = forward_counts(config, 256, 64), forward_counts(config, 256, 256)
    assert some.flops < all_.flops
    assert some.bytes < all_.bytes
