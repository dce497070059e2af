"""The benchmark of phased test-time training: what is counted, and differences that are ratios of sums."""

import math

import numpy as np
import pytest

from benchmarks.phased import arms, describe, multiply_adds
from benchmarks.quantization.data import ScoredStream
from pipeline.projection.machines import MACHINES
from pipeline.projection.scoring_time import phase_seconds
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.windows import plan
from tests.networks import TINY

DOCUMENTS = [60, 90, 30, 200, 40]
ARMS = arms(32, 2, 2, 64)
ARMS = {name: {**fields, "chunk_tokens": 8} if "chunk_tokens" in fields else fields for name, fields in ARMS.items()}
ARMS = {name: {**fields, "stride_tokens": 8} if "stride_tokens" in fields else fields for name, fields in ARMS.items()}
GPUS = MACHINES["8xh100"]
ARMS["both, short chunks"]["short_chunks"] = [[20, 2], [60, 4]]


@pytest.mark.slow
def test_smaller_chunks_multiply_more() -> None:
    work = {name: multiply_adds(TINY, ARMS[name], DOCUMENTS) for name in ("sliding", "both", "both, short chunks")}
    assert work["both, short chunks"] > 1.2 * work["both"]
    assert work["both"] > 2 * work["sliding"]


@pytest.mark.slow
def test_the_phase_takes_its_time_in_a_projection() -> None:
    without, whole = (parse_protocol(ARMS[name]) for name in ("phased", "global phase"))
    assert isinstance(without, PhasedProtocol)
    assert isinstance(whole, PhasedProtocol)
    assert phase_seconds(TINY, without, plan(DOCUMENTS, without), GPUS) == 0
    assert phase_seconds(TINY, whole, plan(DOCUMENTS[:2], whole), GPUS) == 0  # nobody follows
    once, longer = (phase_seconds(TINY, whole, plan([count, *DOCUMENTS], whole), GPUS) for count in (100, 1000))
    assert 0 < once < longer


def test_differences_are_ratios_of_sums() -> None:
    scored = ScoredStream(np.arange(7), np.array([1, 2, 3, 4, 5, 5]), np.array([3, 3, 3, 4, 4, 4]), 8)
    nats = {"sliding": np.ones(6), "phased": np.array([1, 1, 1, 1, 1, 1 - math.log(2)])}
    rows = describe(nats, scored)
    # Ratio estimator: bits 0 and -1 of 6 and 14 bytes lie 0.3 above and below the mean's share.
    gain = pytest.approx((-1000 / 20, 1000 * 0.3 * 2**0.5 * 2**0.5 / 20))
    assert rows["phased"]["over_sliding_mbpb"] == gain
    assert rows["sliding"]["over_sliding_mbpb"] == rows["phased"]["over_phased_mbpb"] == (0, 0)
