"""Tokens drawn from a model: against plain forward passes, against the scorer, and as a distribution."""

from itertools import islice, pairwise

import pytest
import torch

from pipeline.inference.sampling import SamplingConfig, choose, continued, next_logits
from pipeline.model.stream_cache import StreamCache
from pipeline.scoring import score_tokens
from tests.networks import ARCHITECTURES, TINY, architecture, random_ids, randomised

GREEDY = SamplingConfig(temperature=0.0, seed=0)
CONTEXT = TINY.context_tokens


def drawn(model, prompt: list[int], config: SamplingConfig, count: int) -> list[int]:
    return list(islice(continued(model, prompt, config), count))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_is_a_loop_of_largest_logits_in_plain_torch(name: str) -> None:
    model = randomised(architecture(name)).eval()
    prompt = random_ids(model.config, 5).tolist()
    tokens = list(prompt)
    with torch.no_grad():
        while len(tokens) < CONTEXT:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert drawn(model, prompt, GREEDY, CONTEXT - 5) == tokens[5:]


def test_beyond_the_context_a_token_is_as_probable_as_the_protocol_stream_says() -> None:
    model = randomised(TINY).eval()
    tokens = random_ids(TINY, 3 * CONTEXT).tolist()
    protocol = {"kind": "stream", "context_tokens": CONTEXT, "stride_tokens": 1, "lane_tokens": 4096, "mixture": None}
    nats = score_tokens(model, torch.tensor(tokens), protocol)
    cache, own = StreamCache(CONTEXT - 1), []
    for token, target in pairwise(tokens):
        own.append(-float(torch.log_softmax(next_logits(model, [token], cache), 0)[target]))
    # float32 products of other shapes.
    torch.testing.assert_close(torch.tensor(own), torch.tensor(nats, dtype=torch.float32), atol=1e-4, rtol=0)


def test_draws_go_on_beyond_the_context_with_what_a_window_holds() -> None:
    """The one before the window must not be seen: with it, these draws part from the first that lies behind it on."""
    model, config, tokens = randomised(TINY).eval(), SamplingConfig(temperature=1.0, seed=4), [1]
    cache, generator = StreamCache(CONTEXT - 1), torch.Generator().manual_seed(4)
    for _ in range(600):
        tokens.append(choose(next_logits(model, tokens[-1:], cache), 1.0, generator))
    assert drawn(model, [1], config, 600) == tokens[1:]


def test_of_a_long_prompt_the_last_tokens_of_a_context_are_read() -> None:
    model, prompt = randomised(TINY).eval(), random_ids(TINY, 2 * CONTEXT).tolist()
    config = SamplingConfig(temperature=1.0, seed=4)
    assert drawn(model, prompt, config, 40) == drawn(model, prompt[CONTEXT:], config, 40)


def test_a_seed_draws_the_same_whatever_happens_around_it() -> None:
    model, prompt = randomised(TINY).eval(), [1, 2, 3]
    config = SamplingConfig(temperature=1.0, seed=4)
    once = drawn(model, prompt, config, 60)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert drawn(model, prompt, config, 60) == once
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn(model, prompt, SamplingConfig(temperature=1.0, seed=5), 60) != once


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_are_as_frequent_as_the_softmax_of_logits_over_the_temperature(temperature: float) -> None:
    logits_V = torch.tensor([0.0, 1.0, -2.0, 2.5, 1.0], dtype=torch.float64)
    expected_V = (logits_V / temperature).exp() / (logits_V / temperature).exp().sum()
    generator, count = torch.Generator().manual_seed(0), 20_000
    draws = torch.tensor([choose(logits_V, temperature, generator) for _ in range(count)])
    found_V = torch.bincount(draws, minlength=5) / count
    # Five standard errors of a share.
    assert (found_V - expected_V).abs().max() < 5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_no_temperature_overflows(temperature: float) -> None:
    logits_V = torch.tensor([30.0, -30.0, 29.0], dtype=torch.float64)
    assert choose(logits_V, temperature, torch.Generator().manual_seed(0)) in ((0,) if temperature < 1 else (0, 1, 2))


@pytest.mark.parametrize("temperature", [-0.1, float("inf"), float("nan")])
def test_other_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"--temperature: got .*, expected 0, for the most probable token, or"):
        SamplingConfig(temperature=temperature, seed=0)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = randomised(TINY).eval()
    with torch.no_grad():
        model.token_embedding.weight[7] = float("nan")
    with pytest.raises(ValueError, match="logits: got 'some that are not finite'"):
        drawn(model, [1], GREEDY, 1)
