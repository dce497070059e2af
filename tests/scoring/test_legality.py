"""What makes a score legal, seen from outside: causality, score first, normalised distributions, isolated documents."""

import numpy as np
import pytest
import torch

from pipeline.scoring import score_tokens
from tests.scoring.scoring_toys import (
    DOCUMENTS,
    EVERY_PROTOCOL,
    LORA,
    MIXTURES,
    PROTOCOLS,
    random_documents,
    random_tokens,
    tiny_network,
)

LENGTHS = [40, 0, 1, 17, 5, 60, 0, 0, 15]


def other_words(tokens: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the stream with other words at `where`; documents begin where they began."""
    return torch.where(where & (tokens != 1), 2 + (tokens - 1) % 62, tokens)


@EVERY_PROTOCOL
@pytest.mark.parametrize("cut", [2, 15, 16, 17, 39, 40, 45, 60, 81, 120, 145])
def test_tokens_after_a_cut_move_no_score_before_it(protocol: dict, cut: int) -> None:
    tokens = random_documents(LENGTHS)
    changed = other_words(tokens, torch.arange(len(tokens)) >= cut)
    before, after = (score_tokens(tiny_network(), stream, protocol, mixtures=MIXTURES) for stream in (tokens, changed))
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
        total += np.exp(-score_tokens(model, stream, protocol, mixtures=MIXTURES)[target - 1])
    assert total == pytest.approx(1.0, abs=1e-5)  # float32 log-softmax


@pytest.mark.parametrize(
    "protocol", [DOCUMENTS, LORA, PROTOCOLS["documents, counts"]], ids=["documents", "lora-ttt", "counts"]
)
@pytest.mark.parametrize("document", range(len(LENGTHS)))
def test_a_document_moves_no_bit_of_another(protocol: dict, document: int) -> None:
    tokens = random_documents(LENGTHS)
    owner_M = (tokens == 1).cumsum(0) - 1
    changed = other_words(tokens, owner_M == document)
    before, after = (score_tokens(tiny_network(), stream, protocol, mixtures=MIXTURES) for stream in (tokens, changed))
    others_N = owner_M[:-1].numpy() != document  # a document scores the BOS after it
    np.testing.assert_array_equal(before[others_N], after[others_N])
    assert (before != after).any() == bool(LENGTHS[document])
