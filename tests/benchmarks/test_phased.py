"""The benchmark of phased test-time training: what is counted, and differences that are ratios of sums."""

import math

import numpy as np
import pytest

from benchmarks.phased import arms, describe, multiply_adds
from benchmarks.quantization.data import ScoredStream
from pipeline.projection.machines import MACHINES
from pipeline.projection.scoring_time import scoring_seconds
from pipeline.scoring.protocols import parse_protocol
from tests.networks import TINY

DOCUMENTS = [60, 90, 30, 200, 40]
ARMS = arms(32, 2, 2, 64)
ARMS = {name: {**fields, "chunk_tokens": 8} if "chunk_tokens" in fields else fields for name, fields in ARMS.items()}
ARMS = {name: {**fields, "stride_tokens": 8} if "stride_tokens" in fields else fields for name, fields in ARMS.items()}
ARMS["both, short chunks"]["short_chunks"] = [[20, 2], [60, 4]]


def test_smaller_chunks_multiply_more_and_warmth_costs_nothing() -> None:
    work = {name: multiply_adds(TINY, fields, DOCUMENTS) for name, fields in ARMS.items()}
    assert work["both, short chunks"] > work["both"] == pytest.approx(work["global phase"], rel=0.01)
    assert work["phased"] > 2 * work["sliding"]
    assert work["warm A"] == pytest.approx(work["phased"], rel=0.05)  # others run side by side


def test_the_phase_takes_its_time_in_a_projection() -> None:
    without, whole = (
        scoring_seconds(TINY, parse_protocol(ARMS[name]), 256, MACHINES["8xh100"], 60_000)
        for name in ("phased", "global phase")
    )
    assert 0 < whole - without < without


def test_differences_are_ratios_of_sums() -> None:
    scored = ScoredStream(np.arange(7), np.array([1, 2, 3, 4, 5, 5]), np.array([3, 3, 3, 4, 4, 4]), 8)
    nats = {"sliding": np.ones(6), "other": np.array([1, 1, 1, 1, 1, 1 - math.log(2)])}
    rows = describe(nats, scored)
    assert rows["other"]["over_sliding_mbpb"] == pytest.approx(-1000 / 20)
    assert rows["sliding"]["over_sliding_mbpb"] == rows["sliding"]["standard_error_mbpb"] == 0
    # Ratio estimator: bits 0 and -1 of 6 and 14 bytes lie 0.3 above and below the mean's share.
    assert rows["other"]["standard_error_mbpb"] == pytest.approx(1000 * 0.3 * 2**0.5 * 2**0.5 / 20)
