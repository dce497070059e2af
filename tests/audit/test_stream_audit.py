"""The audit finds nothing in stream scoring: strictly causal, normalised, whatever follows."""

import pytest

from pipeline.audit.behaviour import audit_behaviour
from pipeline.audit.streams import StreamMaker
from tests.audit.test_mutants import Library
from tests.scoring.scoring_toys import TTT

STREAM = {"kind": "stream", "context_tokens": 16, "stride_tokens": 4, "lane_tokens": 24}


@pytest.mark.parametrize(
    "protocol",
    [
        STREAM,
        pytest.param({**STREAM, "lane_tokens": 400}, marks=pytest.mark.slow),
        pytest.param({**TTT, **STREAM, "kind": "ttt", "chunk_tokens": 60}, marks=pytest.mark.slow),
    ],
)
def test_stream_passes_every_check(protocol: dict, small_processor) -> None:
    library = Library(small_processor, {"item": protocol})
    findings = audit_behaviour(library, StreamMaker(small_processor), tolerance=0.0, num_processes=2)
    assert {check: finding for check, finding in findings.items() if finding.verdict == "fail"} == {}
