"""What makes a score legal, seen from outside: causality, score first, a normalised distribution."""

import numpy as np
import pytest
import torch

from pipeline.scoring import score_tokens
from tests.scoring.scoring_toys import BLOCKS, SLIDING, TTT, random_tokens, tiny_network

EVERY_PROTOCOL = pytest.mark.parametrize("protocol", [BLOCKS, SLIDING, TTT], ids=lambda protocol: protocol["kind"])


@EVERY_PROTOCOL
@pytest.mark.parametrize("cut", [1, 15, 16, 17, 39, 40, 41, 60, 81, 120, 148])
def test_tokens_after_a_cut_move_no_score_before_it(protocol: dict, cut: int) -> None:
    tokens = random_tokens(150)
    changed = torch.cat([tokens[:cut], (tokens[cut:] + 1) % 64])
    before, after = (score_tokens(tiny_network(), stream, protocol) for stream in (tokens, changed))
    np.testing.assert_array_equal(before[: cut - 1], after[: cut - 1])
    assert (before[cut - 1 :] != after[cut - 1 :]).any()


@EVERY_PROTOCOL
@pytest.mark.parametrize("target", [16, 90])
def test_probabilities_over_the_vocabulary_sum_to_one(protocol: dict, target: int) -> None:
    model, tokens = tiny_network(vocab_size=16), random_tokens(91, vocab_size=16)
    total = 0.0
    for candidate in range(16):
        stream = tokens.clone()
        stream[target] = candidate
        total += np.exp(-score_tokens(model, stream, protocol)[target - 1])
    assert total == pytest.approx(1.0, abs=1e-5)  # float32 log-softmax
