"""What a record states is read back as it was written, by whoever reads it."""

from decimal import Decimal

import pytest

from pipeline.record.statements import (
    count_lines,
    float_score_line,
    headline,
    log_lines,
    score_cells,
    score_name,
    size_lines,
    time_line,
)
from pipeline.verification.reading import read_log
from pipeline.verification.readme import score_rows
from pipeline.verification.runs import Run, Score

KINDS = {
    "final_int6_roundtrip_exact": {"kind": "blocks"},
    "final_int6_documents_exact": {"kind": "blocks", "documents": True},
    "final_int6_sliding_window_exact": {"kind": "sliding"},
    "final_int6_stream_exact": {"kind": "stream"},
    "final_ttt_exact": {"kind": "ttt"},
    "final_ttt_lora_exact": {"kind": "lora-ttt", "documents": True},
    "final_ttt_phased_exact": {"kind": "phased-ttt"},
}
SCORE = Score(Decimal("3.12345679"), Decimal("1.50000000"))
STEP = "step:4/4 train_loss:3.0000 train_time:2500ms step_avg:625.00ms\n"


def report(weights: str, protocol: dict) -> dict:
    counts = {"tokens": 1001, "targets": 1000, "bytes": 12_345, "seconds": {"total": 1.25}}
    return {"weights": weights, "protocol": protocol, "val_loss": 3.123456789, "val_bpb": 1.5, **counts}


@pytest.fixture
def log() -> str:
    scores = [report("float", {"kind": "blocks"}), *(report("artifact", protocol) for protocol in KINDS.values())]
    digests = {"config": "aa", "my model.fwy": "bb"}
    return log_lines(STEP, scores, code_bytes=70, unwrapped_bytes=99, artifact_bytes=2000, digests=digests)


def read(text: str) -> Run:
    (run,) = read_log("train_seed7.log", text.encode()).runs
    return run


def test_a_log_is_read_back(log):
    run = read(log)
    assert [(line.name, line.score) for line in run.scores] == [(name, SCORE) for name in KINDS]
    assert run.float_score == SCORE
    assert run.digests == {"config": "aa", "my model.fwy": "bb"}
    expected = {"code bytes": 99, "model bytes": 2000, "total bytes": 2070, "tokens": 1001, "targets": 1000}
    times = {"eval ms": 8800, "train ms": 2500, "step ms": 625, "steps": 4}
    assert {kind: run.last(kind) for kind in (*expected, *times)} == {**expected, **times}
    assert [(figure.label, figure.value) for figure in run.latest("code bytes")] == [("", 70), ("unwrapped", 99)]
    assert run.oddities == []


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (size_lines(70, 2000), {"code bytes", "model bytes", "total bytes"}),
        (count_lines(1001, 1000), {"tokens", "targets"}),
        ([time_line(7.5)], {"eval ms"}),
    ],
)
def test_every_written_number_is_read_as_what_it_is(lines, kinds):
    assert set(read("\n".join(lines)).figures) == kinds


@pytest.mark.parametrize(
    ("line", "oddity"),
    [
        ("val_tokens: 9", "tokens in several ways"),
        ("sha256 00 config", "config in several ways"),
        (float_score_line(3.0, 1.0), "pre_quant in several ways"),
        ("best val_bpb: 1.0", "best val_bpb: 1.0"),
        ("\x0bfinal_a_exact val_loss:3.0 val_bpb:1.0", "final_a_exact val_loss:3.0 val_bpb:1.0"),
        ("final_ttt_exact val_loss:3.1 val_bpb:1.5", "final_ttt_exact val_loss:3.1 val_bpb:1.5"),
    ],
)
def test_what_no_log_of_ours_states_is_odd(log, line, oddity):
    assert read(f"{log}{line}\n").oddities == [oddity]
    assert read(f"{line}\n{log}").oddities == [oddity]


def test_two_runs_in_a_log_are_odd(log):
    runs = read_log("train_seed7.log", f"seed: 7\n{log}seed: 8\n{log}".encode()).runs
    assert [run.seed.value for run in runs] == [7, 8]
    assert all("several runs" in run.oddities for run in runs)


def test_a_row_and_the_headline_of_the_readme_are_read_back():
    rows = ["| " + " | ".join(score_cells(7, item, report(item, {}))) + " |" for item in ("artifact", "float")]
    (row,) = score_rows("\n".join(rows))
    assert row == ("7", "artifact", SCORE, 1000, 12_345)
    assert headline(3.123456789, 1.5) == "**val_bpb 1.50000000** (val_loss 3.12345679 nats per target"


def test_a_kind_without_a_line_is_refused():
    with pytest.raises(ValueError, match="sliding, stream, ttt"):
        score_name({"kind": "streams"})
