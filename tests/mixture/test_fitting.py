"""Constants by likelihood: they are best where they were fitted, and good on text that they never saw."""

import math

import torch

from pipeline.mixture.fitting import fit_mixture
from pipeline.mixture.mixing import checked_mixtures, mixed_nats

STEPS = [(-1, 2), (1, 1), (1, 3)]


def repetitive_text(seed: int, num_documents: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Return documents, each a few phrases over and over, and what a network without memory makes of them."""
    random = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(num_documents):
        phrases = torch.randint(2, 50, (6, 8), generator=random)
        parts += [torch.tensor([1]), phrases[torch.randint(6, (20,), generator=random)].flatten()]
    tokens_M = torch.cat(parts)
    return tokens_M, 3.0 + torch.rand(len(tokens_M) - 1, generator=random)


def test_fitted_constants_help_on_other_text() -> None:
    tokens_M, nats_N = repetitive_text(0)
    mixture = fit_mixture(tokens_M, nats_N, STEPS)
    checked_mixtures({"fitted": tuple(map(tuple, mixture))})
    assert [(step[0], step[1]) for step in mixture] == STEPS
    other_M, other_N = repetitive_text(1)
    assert mixed_nats(other_M, other_N, mixture).mean() < 0.5 * other_N.mean()


def test_no_constant_can_be_moved_for_the_better() -> None:
    tokens_M, nats_N = repetitive_text(0)
    mixture = fit_mixture(tokens_M, nats_N, STEPS)
    best = mixed_nats(tokens_M, nats_N, mixture).mean()
    for step in range(len(STEPS)):
        for column in range(2, len(mixture[0])):
            for factor in (0.8, 1.25):
                moved = [list(row) for row in mixture]
                moved[step][column] *= factor
                assert mixed_nats(tokens_M, nats_N, moved).mean() > best - 1e-4, (step, column, factor)


def test_constants_are_short_and_the_same_again() -> None:
    tokens_M, nats_N = repetitive_text(2)
    mixture = fit_mixture(tokens_M, nats_N, STEPS)
    assert mixture == fit_mixture(tokens_M, nats_N, STEPS)
    assert all(value == float(f"{value:.4g}") for step in mixture for value in step)


def test_counts_that_say_nothing_are_left_to_the_network() -> None:
    """Words drawn at random, by a network that knows their frequencies: the best strength is without end."""
    tokens_M = torch.randint(2, 9, (3000,), generator=torch.Generator().manual_seed(0))
    nats_N = torch.full((2999,), math.log(7), dtype=torch.float64)
    mixture = fit_mixture(tokens_M, nats_N, STEPS)
    checked_mixtures({"fitted": tuple(map(tuple, mixture))})
    assert mixed_nats(tokens_M, nats_N, mixture).mean() < nats_N.mean() + 1e-3


def test_what_came_often_may_count_for_little() -> None:
    """Every word is followed by one other three times, and never again: most of a count of three is taken away."""
    random = torch.Generator().manual_seed(0)
    parts = [torch.tensor([word, word + 1]).repeat(3) for word in range(100, 400, 2)]
    parts += [torch.tensor([word, int(torch.randint(2, 99, (1,), generator=random))]) for word in range(100, 400, 2)]
    tokens_M = torch.cat(parts)
    ((_, _, _, twice, often, *_),) = fit_mixture(tokens_M, torch.full((len(tokens_M) - 1,), 4.0), [(-1, 1)])
    assert twice < 0.5, "what came twice came again"
    assert often > 2.5
