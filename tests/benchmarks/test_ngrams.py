"""The published n-gram helpers: what they hint at against a slow search, sums of one, nothing of what comes later."""

import itertools
import math

import numpy as np
import pytest
import torch

from benchmarks.mixture import BOS_ID, SCALES, fitted_mixtures, scored_protocols, small_material
from benchmarks.ngrams import (
    HELPERS,
    LONGEST_MATCH,
    NO_HINT,
    Asked,
    Hints,
    best_constants,
    gated,
    measure,
    mixed_asked,
    network_nats,
    read_text,
    tap_hints,
    tilt_hints,
)
from benchmarks.quantization.data import ScoredStream
from pipeline.mixture.mixing import mixed_nats
from pipeline.scoring.protocols import score_tokens
from pipeline.scoring.windows import Window
from tests.scoring.scoring_toys import MIXTURES

SCALE = SCALES["small"]
VOCABULARY = 9
MATERIAL, TRAINED = small_material()


def repetitive(num_tokens: int, seed: int = 0) -> np.ndarray:
    """Return documents that quote themselves and each other, BOS first."""
    generator = np.random.default_rng(seed)
    phrases = [generator.integers(2, VOCABULARY, length).tolist() for length in (5, 9, 18)]
    tokens = [BOS_ID]
    while len(tokens) < num_tokens:
        tokens += phrases[generator.integers(3)] if generator.random() < 0.5 else [generator.integers(2, VOCABULARY)]
        tokens += [BOS_ID] if generator.random() < 0.04 else []
    return np.array(tokens[:num_tokens])


TOKENS = repetitive(400)
QUOTED = np.concatenate([[BOS_ID], np.tile([3, 4], 120), [5, 5, 5], repetitive(120)[1:]])


def slow_tilt(tokens: list[int], target: int, order: int) -> tuple[int, float]:
    """Return hint and share by comparing every earlier place."""
    ends = range(order, target + 1)
    followers = [tokens[end] for end in ends if tokens[end - order : end] == tokens[target + 1 - order : target + 1]]
    if target + 1 < order or not followers:
        return NO_HINT, 0.0
    most = max(map(followers.count, followers))
    reached = {token: [i for i, each in enumerate(followers) if each == token] for token in followers}
    hint = min((places[most - 1], token) for token, places in reached.items() if len(places) == most)[1]
    return hint, most / len(followers)


def slow_tap(tokens: list[int], target: int) -> tuple[int, ...]:
    """Return hint, length, votes and last place by trying every length at every earlier place of the document."""
    start = max(i for i in range(target + 1) if tokens[i] == BOS_ID)
    for length in range(LONGEST_MATCH, 2, -1):
        last = tokens[target + 1 - length : target + 1]
        places = [i for i in range(start + length, target + 1) if tokens[i - length : i] == last]
        if target + 1 - length >= start and places:
            following = [tokens[place] for place in places]
            place = max(places, key=lambda place: (following.count(tokens[place]), place))
            return tokens[place], length, following.count(tokens[place]), place
    return (NO_HINT,) * 4


@pytest.mark.parametrize("order", [1, 3, 15])
def test_the_tilt_hints_at_what_followed_most(order: int) -> None:
    found = tilt_hints(TOKENS, order)
    expected = [slow_tilt(TOKENS.tolist(), target, order) for target in range(len(TOKENS) - 1)]
    assert list(zip(found.token_N.tolist(), found.evidence[0].tolist(), strict=True)) == expected
    assert (found.token_N != NO_HINT).sum() > 20


@pytest.mark.parametrize("tokens", [TOKENS, QUOTED], ids=["many", "long"])
def test_tap_in_hints_at_what_followed_the_longest_match(tokens: np.ndarray) -> None:
    found = tap_hints(tokens)
    rows = zip(found.token_N.tolist(), *(each.tolist() for each in found.evidence), strict=True)
    assert list(rows) == [slow_tap(tokens.tolist(), target) for target in range(len(tokens) - 1)]
    length_N, votes_N, _ = found.evidence
    assert (length_N.max() == LONGEST_MATCH) == (tokens is QUOTED)
    assert votes_N.max() > 2


def hints_of(tokens_M: np.ndarray) -> dict[str, Hints]:
    tilt, tap = tilt_hints(tokens_M, 3), tap_hints(tokens_M)
    *trust, place_N = tap.evidence
    return {"tilt": tilt, "Tap-In": tap._replace(evidence=(*trust, place_N % 2 == 0))}


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_is_its_definition_and_sums_to_one(name: str) -> None:
    helper, hints = HELPERS[name], hints_of(TOKENS)[name]
    p_NV = np.random.default_rng(3).dirichlet(np.ones(VOCABULARY), len(TOKENS) - 1)
    hint_p_N = p_NV[np.arange(len(p_NV)), hints.token_N]
    columns = []
    for token, p_N in enumerate(p_NV.T):
        asked = Asked(-np.log(p_N), -np.log(hint_p_N), hints.token_N == token)
        unhinted_N = hints.token_N == NO_HINT
        found_N = helper.effect(asked, hints, helper.published)
        np.testing.assert_array_equal(found_N[unhinted_N], asked.nats_N[unhinted_N])
        np.testing.assert_array_equal(helper.effect(asked, hints, (0.0, 0.0)), asked.nats_N)
        columns.append(np.exp(-found_N))
    found_NV = np.stack(columns, 1)
    np.testing.assert_allclose(found_NV.sum(1), 1, rtol=1e-12)
    for p_V, found_V, hint, *evidence in zip(p_NV, found_NV, hints.token_N, *hints.evidence, strict=True):
        expected_V = p_V.copy()
        if name == "tilt" and hint != NO_HINT and evidence[0] >= 0.8:
            expected_V[hint] *= math.exp(2.625)
            expected_V /= expected_V.sum()
        elif name == "Tap-In" and hint != NO_HINT:
            length, votes, is_inside = evidence
            base = 0.02 if is_inside else 0.09
            weight = min(base * (1 + 0.15 * (length - 3)) * (1 + 0.2 * math.log(votes)), 0.5)
            expected_V = (1 - weight) * p_V + weight * (np.arange(VOCABULARY) == hint)
        np.testing.assert_allclose(found_V, expected_V, rtol=1e-12)
    assert (abs(found_NV - p_NV).max(1) > 0.01).mean() > 0.2


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_mixture_answers_for_any_token_and_sums_to_one(mixture: str) -> None:
    tokens, following_N = torch.from_numpy(TOKENS), TOKENS[1:]
    p_NV = np.random.default_rng(4).dirichlet(np.ones(VOCABULARY), len(following_N))
    nats_N = -np.log(p_NV[np.arange(len(p_NV)), following_N])
    found_VN = np.array(
        [
            mixed_asked(TOKENS, nats_N, np.full_like(following_N, token), -np.log(p_N), MIXTURES[mixture])
            for token, p_N in enumerate(p_NV.T)
        ]
    )
    np.testing.assert_allclose(np.exp(-found_VN).sum(0), 1, rtol=1e-12)
    expected_N = mixed_nats(tokens, torch.from_numpy(nats_N), MIXTURES[mixture]).numpy()
    np.testing.assert_array_equal(found_VN[following_N, np.arange(len(following_N))], expected_N)
    np.testing.assert_array_equal(mixed_asked(TOKENS, nats_N, following_N, nats_N, MIXTURES[mixture]), expected_N)


def test_later_tokens_change_nothing() -> None:
    tokens, kept = repetitive(260), 150
    changed = np.concatenate([tokens[: kept + 1], repetitive(260, seed=1)[kept + 1 :]])
    protocol, mixtures = scored_protocols(SCALE)["sliding"], dict(MIXTURES)
    first, second = (read_text(MATERIAL.model, each, mixtures, protocol) for each in (tokens, changed))
    for name, helper in HELPERS.items():
        for base in ("network", *mixtures):
            before_N, after_N = (
                helper.effect(text.asked[base][name], text.hints[name], (0.3, 0.3)) for text in (first, second)
            )
            np.testing.assert_allclose(before_N[:kept], after_N[:kept], rtol=1e-5)
            assert (before_N[:kept] != first.asked[base][name].nats_N[:kept]).any()
            assert not np.allclose(before_N[kept:], after_N[kept:], rtol=1e-3)
        assert np.array_equal(first.hints[name].token_N[:kept], second.hints[name].token_N[:kept])


def test_the_network_is_asked_as_it_is_scored() -> None:
    protocol = scored_protocols(SCALE)["sliding"]
    tokens = repetitive(150)
    text = read_text(MATERIAL.model, tokens, {}, protocol)
    expected_N = score_tokens(MATERIAL.model, tokens, protocol)
    np.testing.assert_allclose(text.asked["network"]["tilt"].nats_N, expected_N, rtol=1e-5)
    windows, asked_N = [Window(0, 60, 0), Window(20, 80, 60)], np.arange(80)
    nats_1N, rank_1N = network_nats(MATERIAL.model, tokens[:81], asked_N[None], windows)
    with torch.no_grad():
        logs_TV = MATERIAL.model(torch.from_numpy(tokens[None, 20:80]))[0].log_softmax(-1)
    for target in (60, 79):
        logs_V = logs_TV[target - 20]
        assert nats_1N[0, target] == pytest.approx(-float(logs_V[target]), rel=1e-5)
        assert rank_1N[0, target] == int((logs_V > logs_V[target]).sum())


def test_a_hint_that_the_network_ranks_low_is_dropped_and_a_window_says_what_lies_inside() -> None:
    taps = Hints(np.array([5, 6, 7, 8, 8]), (np.full(5, 3), np.ones(5), np.array([0, 1, 2, 1, 2])))
    found = gated(taps, np.array([999, 1000, 0, 0, 0]), [Window(0, 3, 0), Window(2, 5, 3)])
    assert found.token_N.tolist() == [5, NO_HINT, 7, 8, 8]
    assert found.evidence[2].tolist() == [True, True, True, False, True]


def test_the_grid_holds_the_published_constants_and_nothing() -> None:
    for helper in HELPERS.values():
        published = itertools.zip_longest(helper.names, helper.published, helper.grid)
        assert all(value in grid and 0 in grid for _, value, grid in published)


def test_small_measures_every_helper_on_every_base() -> None:
    scored = MATERIAL.scored
    tokens_M = repetitive(len(scored.tokens_M))
    document_N = (tokens_M == BOS_ID).cumsum()[1:] - 1
    material = MATERIAL._replace(scored=ScoredStream(tokens_M, scored.bytes_N, document_N, scored.context_tokens))
    trained_M = repetitive(600, seed=1)
    found = measure(SCALE, material, trained_M)
    assert [(row["base"], row["helper"], row["chosen"]) for row in found["rows"]] == list(
        itertools.product(("network", "document", "stream"), HELPERS, ("published", "fitted"))
    )
    for row in found["rows"]:
        saved = 1000 * (found["bpb"][row["base"]] - row["bpb"])
        assert row["gain_mbpb"]["value"] == pytest.approx(saved, abs=1e-6)
    gains = {(row["base"], row["helper"], row["chosen"]): row["gain_mbpb"]["value"] for row in found["rows"]}
    assert gains["network", "Tap-In", "fitted"] > gains["network", "Tap-In", "published"] > 10
    mixtures = fitted_mixtures(MATERIAL.model, trained_M, SCALE.fitted_tokens)
    text = read_text(MATERIAL.model, trained_M, mixtures, scored_protocols(SCALE)["sliding"])
    helper, asked, hints = HELPERS["Tap-In"], text.asked["document"]["Tap-In"], text.hints["Tap-In"]
    best = helper.effect(asked, hints, best_constants(helper, asked, hints)).sum()
    assert all(best <= helper.effect(asked, hints, each).sum() for each in itertools.product(*helper.grid))
