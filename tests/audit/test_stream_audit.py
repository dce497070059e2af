"""The audit finds nothing in stream scoring: strictly causal, normalised, whatever follows."""

import pytest

from pipeline.audit.behaviour import audit_behaviour
from pipeline.audit.streams import StreamMaker
from tests.audit.test_mutants import Library


@pytest.mark.parametrize("lane_tokens", [24, pytest.param(400, marks=pytest.mark.slow)])
def test_stream_passes_every_check(lane_tokens: int, small_processor) -> None:
    protocol = {"kind": "stream", "context_tokens": 16, "stride_tokens": 4, "lane_tokens": lane_tokens}
    findings = audit_behaviour(
        Library(small_processor, {"item": protocol}), StreamMaker(small_processor), tolerance=0.0
    )
    assert {check: finding for check, finding in findings.items() if finding.verdict == "fail"} == {}
