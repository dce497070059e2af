"""Mixtures of an artifact: from which text, fitted to what, and what they gain on the rest."""

import numpy as np
import pytest
import torch

from pipeline.base.ranks import ALONE
from pipeline.calibration.mixtures import collect_mixtures, first_tokens, mixture_gains, score_text
from pipeline.mixture.fitting import fit_mixture
from pipeline.mixture.mixing import checked_mixtures
from pipeline.quant.config import MixtureConfig
from tests.calibration.calibrate_run import BOS, MIXTURE, MODEL, TEXT
from tests.networks import roused

CPU = torch.device("cpu")


def test_the_text_is_the_first_of_the_split() -> None:
    shards = [np.arange(5), np.arange(5, 8), np.arange(8, 20)]
    for count in (1, 5, 6, 8, 20, 99):
        np.testing.assert_array_equal(first_tokens(shards, count), np.arange(min(count, 20)))


def test_a_text_is_scored_in_sequences_of_the_context() -> None:
    model, length = roused(MODEL, 3), MODEL.context_tokens
    tokens_M = first_tokens(TEXT, 3 * length + 7)
    text = score_text(model, tokens_M, ALONE, CPU)
    assert text.tokens_M.tolist() == tokens_M[: 3 * length + 1].tolist()
    for start in range(0, 3 * length, length):
        ids_1T = text.tokens_M[None, start : start + length]
        probabilities_TV = model(ids_1T)[0].double().softmax(-1)
        expected_T = -probabilities_TV.gather(1, text.tokens_M[start + 1 : start + length + 1, None])[:, 0].log()
        torch.testing.assert_close(text.nats_N[start : start + length], expected_T, rtol=0, atol=1e-5)


def test_mixtures_are_fitted_to_the_first_tokens_and_judged_by_the_next() -> None:
    model = roused(MODEL, 3)
    fitted = collect_mixtures(model, TEXT, BOS, MIXTURE, ALONE, CPU)
    checked_mixtures({name: tuple(map(tuple, rows.tolist())) for name, rows in fitted.items()})
    assert fitted["mixture/document"][:, :2].tolist() == [[BOS, 1], [BOS, 3]]
    assert fitted["mixture/stream"][:, :2].tolist() == [[-1, 2], [BOS, 1], [BOS, 3]]
    text = score_text(model, first_tokens(TEXT, MIXTURE.tokens), ALONE, CPU)
    assert fitted["mixture/document"].tolist() == fit_mixture(*text, [(BOS, 1), (BOS, 3)])

    elsewhere = [TEXT[0], TEXT[1][: MIXTURE.tokens - len(TEXT[0])], np.full(700, 5)]
    same = collect_mixtures(model, elsewhere, BOS, MIXTURE, ALONE, CPU)
    assert all(torch.equal(fitted[name], rows) for name, rows in same.items()), "later text counts for nothing"
    gains = mixture_gains(model, TEXT, fitted, MIXTURE, ALONE, CPU)
    assert gains["document"]["mixed"] < 0.7 * gains["document"]["network"]
    assert gains["stream"]["network"] == gains["document"]["network"]
    assert mixture_gains(model, elsewhere, fitted, MIXTURE, ALONE, CPU) != gains


def test_without_stream_orders_there_is_no_mixture_of_the_stream() -> None:
    config = MixtureConfig(tokens=10**6, document_orders=(2,), stream_orders=())
    fitted = collect_mixtures(roused(MODEL, 3), TEXT, BOS, config, ALONE, CPU)
    assert fitted.keys() == {"mixture/document"}
    assert mixture_gains(roused(MODEL, 3), TEXT, fitted, config, ALONE, CPU) == {}, "the split ends where the fit does"


def test_less_than_a_sequence_is_refused() -> None:
    config = MixtureConfig(tokens=MODEL.context_tokens, document_orders=(1,), stream_orders=())
    with pytest.raises(ValueError, match=r"^calibrate\.mixture\.tokens: got 16, expected at least 17, a sequence$"):
        collect_mixtures(roused(MODEL, 3), TEXT, BOS, config, ALONE, CPU)
