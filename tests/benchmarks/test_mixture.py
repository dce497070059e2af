"""The benchmark of mixtures: it runs, its gains are ratios of sums, and scoring would have mixed the same."""

import math

import numpy as np
import pytest

from benchmarks.mixture import (
    PLACES,
    SCALES,
    STEPS,
    describe,
    draw_plot,
    gain,
    gains_by,
    measure,
    scored_protocols,
    small_material,
    synthetic_tokens,
    where_saved,
    with_mixtures,
)
from benchmarks.quantization.data import ScoredStream
from pipeline.scoring.protocols import score_tokens
from tests.benchmarks.tiny_stream import tiny_stream

STREAM = tiny_stream(64, 24)
NUM_TARGETS = len(STREAM.bytes_N)


@pytest.fixture(scope="module")
def measured() -> dict:
    return measure("gains", "small")


@pytest.mark.slow
def test_small_measures_the_cost_of_every_mixture() -> None:
    cost = measure("cost", "small")["mixture_cost"]
    for name in STEPS:
        assert [row["tokens"] for row in cost[name]["texts"]] == list(SCALES["small"].cost_tokens)
        assert cost[name]["texts"][-1]["peak_mib"] > 50  # half the tensors of 8 bytes that are alive at a time
        most = cost[name]["texts"][-1]["user_us"] + cost[name]["texts"][-1]["system_us"]
        assert cost[name]["share_of_sliding"] * cost["sliding"]["us_per_target"] == pytest.approx(most)


def test_small_measures_every_protocol(measured: dict) -> None:
    gains = measured["mixture"]
    assert gains["protocols"].keys() == scored_protocols(SCALES["small"]).keys()
    for row in gains["protocols"].values():
        for name in STEPS:
            saved = 1000 * (row["bpb"]["network"] - row["bpb"][name])
            assert row["gain_mbpb"][name]["value"] == pytest.approx(saved, abs=1e-6)
    assert [row["asked_bits_per_weight"] for row in gains["quantization"]] == list(SCALES["small"].bits_per_weight)
    gap = gains["quantization"][0]
    lost = gap["bpb"]["document"] - gains["protocols"]["blocks"]["bpb"]["document"]
    assert gap["gap_mbpb"]["document"]["value"] == pytest.approx(1000 * lost, abs=1e-6)


def test_scoring_mixes_what_the_benchmark_mixes_of_its_nats(measured: dict) -> None:
    (model, scored), mixtures = small_material()[0][1::2], measured["mixture"]["mixtures"]
    for kind in ("sliding", "lora-ttt"):
        protocol = scored_protocols(SCALES["small"])[kind]
        found = with_mixtures(scored, score_tokens(model, scored.tokens_M, protocol), mixtures)
        for name in STEPS:
            asked = {**protocol, "mixture": name}
            np.testing.assert_array_equal(found[name], score_tokens(model, scored.tokens_M, asked, mixtures=mixtures))
            assert not np.array_equal(found[name], found["network"])


def test_synthetic_text_is_documents_of_zipf_pieces() -> None:
    tokens_M = synthetic_tokens(200_000, 1024, 300)
    assert len(tokens_M) == 200_000
    assert tokens_M[0] == 1
    counts_V = np.bincount(tokens_M, minlength=1024)
    lengths = np.diff(np.flatnonzero(tokens_M == 1)) - 1
    assert counts_V[0] == 0
    assert counts_V[2] / counts_V[11] == pytest.approx(10, rel=0.15)  # standard error: a fiftieth
    assert np.median(lengths) == pytest.approx(300, rel=0.25)  # standard error: a fifteenth
    np.testing.assert_array_equal(tokens_M, synthetic_tokens(200_000, 1024, 300))


def test_an_equal_saving_per_byte_is_certain_and_parts_make_up_the_whole() -> None:
    figure = gain(0.01 * STREAM.bytes_N, STREAM)
    assert list(figure.values()) == pytest.approx([10 / math.log(2)] * 3)
    saved_N = np.random.default_rng(0).normal(0.1, 1, NUM_TARGETS)
    part_N = np.arange(NUM_TARGETS) % 3
    parts = gains_by({"document": saved_N}, STREAM, part_N, "abc")
    whole = sum(
        part["gain_mbpb"]["document"]["value"] * STREAM.bytes_N[part_N == index].sum()
        for index, part in enumerate(parts)
    )
    assert gain(saved_N, STREAM)["value"] == pytest.approx(whole / STREAM.bytes_N.sum())
    assert sum(part["targets"] for part in parts) == NUM_TARGETS


def test_changes_are_those_of_whole_documents() -> None:
    scale_D = np.array([0.9, 1.02, 0.8, 0.7])
    nats = {"network": np.full(NUM_TARGETS, 2.0), "stream": np.full(NUM_TARGETS, 1.0)}
    nats["document"] = 2 * scale_D[STREAM.document_N]
    found = describe(nats, STREAM)
    assert found["change_percent"]["document"] == pytest.approx({"worst": 2.0, "median": -15.0})
    assert found["change_percent"]["stream"] == pytest.approx({"worst": -50.0, "median": -50.0})


def test_parts_are_lengths_places_and_quarters() -> None:
    document_N = np.repeat(np.arange(4), [3000, 100, 200, 600])
    scored = ScoredStream(np.ones(3901, np.int64), np.ones(3900, np.int64), document_N, 64)
    place_N = np.concatenate([np.arange(length) for length in (3000, 100, 200, 600)])
    zeros_N = np.zeros(3900)
    found = where_saved({"network": (place_N < PLACES[0]) * 1.0, "document": zeros_N, "stream": zeros_N}, scored)
    first, *later = found["place in the document"]
    assert [part["targets"] for part in (first, *later)] == [3 * 128 + 100, 384 + 72 + 384, 1536 + 88, 952]
    assert first["gain_mbpb"]["document"]["value"] == pytest.approx(1000 / math.log(2))
    assert all(part["gain_mbpb"]["document"]["value"] == 0 for part in later)
    assert [part["part"] for part in found["tokens of the document"]] == ["100-100", "200-200", "600-600", "3000-3000"]
    assert [part["targets"] for part in found["quarter of the stream"]] == [975] * 4
    assert found["documents"]["gain_mbpb"]["document"][1:] == pytest.approx(
        [1000 / math.log(2), 923.3, 307.8], rel=1e-3
    )


def test_plot_is_small(measured: dict, tmp_path) -> None:
    draw_plot(tmp_path / "mixture.png", measured["mixture"])
    assert 5_000 < (tmp_path / "mixture.png").stat().st_size < 150_000
