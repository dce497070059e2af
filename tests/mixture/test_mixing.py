"""The mixture against its definition: a whole distribution, kept and mixed by a loop."""

import math

import numpy as np
import pytest
import torch

from pipeline.mixture.mixing import (
    LONGEST_CONTEXT,
    NUM_CONSTANTS,
    SURPRISE_KNOTS,
    TOTAL_BOUNDS,
    checked_mixtures,
    mixed_nats,
)
from pipeline.quant.config import MixtureConfig
from tests.mixture.test_counts import BOS
from tests.scoring.scoring_toys import MIXTURES, random_documents

VOCAB = 12


def strength_of(constants: list[float], counts: list[int], surprise: float) -> float:
    """Return A for what followed a context so far, after a target of so many nats."""
    total, distinct = sum(counts), sum(count > 0 for count in counts)
    strengths, factors = constants[3 : 3 + NUM_CONSTANTS[1]], constants[3 + NUM_CONSTANTS[1] :]
    which = 2 * sum(total >= bound for bound in TOTAL_BOUNDS) + (distinct == 1)
    return strengths[which] * float(np.interp(surprise, SURPRISE_KNOTS, factors))


def distributions(tokens: list[int], base_NV: np.ndarray, mixture: list[list[float]]) -> np.ndarray:
    """Return every target's distribution over the vocabulary (N, V), by the formula, token by token."""
    books: list[dict[tuple[int, ...], list[int]]] = [{} for _ in mixture]
    starts, found = [0] * len(mixture), []
    for target, token in enumerate(tokens[1:]):
        q_V = base_NV[target].copy()
        for step, (empties, order, *constants) in enumerate(mixture):
            if tokens[target] == empties:
                starts[step], books[step] = target, {}
            if target + 1 - order < starts[step]:
                continue
            counts = books[step].setdefault(tuple(tokens[target + 1 - int(order) : target + 1]), [0] * VOCAB)
            if total := sum(counts):
                strength = strength_of(constants, counts, -math.log(base_NV[target - 1, tokens[target]]))
                taken = [0.0, *constants[:3]]
                freed = sum(taken[min(count, 3)] for count in counts) + strength
                kept_V = np.array([count - taken[min(count, 3)] for count in counts])
                q_V = (kept_V + freed * q_V) / (total + strength)
            counts[token] += 1
        found.append(q_V)
    return np.array(found)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_mixture_is_its_definition_and_sums_to_one(name: str) -> None:
    tokens = random_documents([90, 0, 1, 40, 7, 200], vocab_size=VOCAB)
    base_NV = np.random.default_rng(3).dirichlet(np.ones(VOCAB), len(tokens) - 1)
    expected_NV = distributions(tokens.tolist(), base_NV, MIXTURES[name])
    np.testing.assert_allclose(expected_NV.sum(1), 1, rtol=1e-12)
    following = tokens[1:].numpy()
    base_N = torch.from_numpy(-np.log(base_NV[np.arange(len(following)), following]))
    found_N = mixed_nats(tokens, base_N, MIXTURES[name])
    np.testing.assert_allclose(found_N.numpy(), -np.log(expected_NV[np.arange(len(following)), following]), rtol=1e-12)
    assert (found_N != base_N).sum() > 200


def test_what_repeats_costs_less_and_what_is_new_costs_more() -> None:
    tokens = torch.tensor([BOS, *(5 * [7, 8, 9, 10]), 3])
    base_N = torch.full((len(tokens) - 1,), math.log(VOCAB), dtype=torch.float64)
    nats_N = mixed_nats(tokens, base_N, MIXTURES["document"])
    assert torch.equal(nats_N[:5], base_N[:5]), "no context has been seen"
    assert (nats_N[5:-1] < base_N[5:-1]).all()
    assert nats_N[-1] > base_N[-1]


def test_a_document_starts_from_nothing() -> None:
    document = [BOS, 5, 6, 5, 6, 5, 6]
    nats_N = torch.full((2 * len(document) - 1,), 2.0)
    once, again = mixed_nats(torch.tensor(2 * document), nats_N, MIXTURES["document"]).split((len(document), 6))
    assert torch.equal(once[:6], again)
    *_, second = mixed_nats(torch.tensor(2 * document), nats_N, MIXTURES["stream"]).split((len(document), 6))
    assert (second < again).all()


def test_the_longest_context_is_that_of_the_configuration() -> None:
    MixtureConfig(tokens=2, document_orders=(LONGEST_CONTEXT,), stream_orders=())
    with pytest.raises(ValueError, match=r"document_orders.*16"):
        MixtureConfig(tokens=2, document_orders=(LONGEST_CONTEXT + 1,), stream_orders=())


FINE = (0.5, 1.0, 1.0, *([1.0] * sum(NUM_CONSTANTS[1:])))


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ((),),
        ((1, 1, 0.5),),
        ((1, 0, *FINE),),
        ((1, 17, *FINE),),
        ((0.5, 1, *FINE),),
        ((1, 1, 1.5, *FINE[1:]),),
        ((1, 1, *FINE[:-1], -1.0),),
        ((1, 1, *FINE[:-1], 0.0),),
        ((1, 1, *FINE[:-1], math.nan),),
        ((1, 1, *FINE[:-1], math.inf),),
        ((1, 1, *FINE, 1.0),),
        ((1, 1, *FINE), (1, 1, *FINE)),
        ((1, 2, *FINE), (1, 1, *FINE)),
        ((-1, 1, *FINE), (1, 1, *FINE), (-1, 2, *FINE)),
        tuple((token, 1, *FINE) for token in range(33)),
    ],
)
def test_constants_of_no_mixture_are_refused(steps: tuple[tuple[float, ...], ...]) -> None:
    checked_mixtures(MIXTURES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mixtures\.an\\x1bother") as caught:
        checked_mixtures({"an\x1bother": steps})
    assert len(str(caught.value)) < 400


def test_no_score_hangs_on_the_last_bit_of_another() -> None:
    tokens = random_documents([200], vocab_size=VOCAB)
    nats_N = torch.full((len(tokens) - 1,), 2.0, dtype=torch.float64)
    for nats in (*SURPRISE_KNOTS, 0.3, 9.0):
        found = [mixed_nats(tokens, nats_N + nats - 2.0 + step, MIXTURES["document"]) for step in (0.0, 1e-9)]
        torch.testing.assert_close(*found, rtol=0, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_mixes_what_a_cpu_mixes() -> None:
    tokens = random_documents([900, 3, 2000, 0, 500])
    nats_N = 4 * torch.rand(len(tokens) - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mixture in MIXTURES.values():
        found_N = mixed_nats(tokens.cuda(), nats_N.cuda(), mixture).cpu()
        torch.testing.assert_close(found_N, mixed_nats(tokens, nats_N, mixture), rtol=1e-12, atol=0)
