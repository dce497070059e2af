"""Every pair of loss and bpb implies the text it divides by."""

import math
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.verification.denominators import CANONICAL, check_denominators, implied_bytes
from pipeline.verification.folder import read_record
from pipeline.verification.runs import Score

SP1024 = 151_080_362


def score(loss: float, num_bytes: float, targets: int = 62_021_632) -> str:
    return f"val_loss:{loss:.8f} val_bpb:{targets * loss / math.log(2) / num_bytes:.8f}"


def findings(folder: Path, *lines: str, targets: int = 62_021_632, submission: str = "{}"):
    (folder / "train.log").write_text("\n".join([f"val_loader: tokens:{targets}", *lines]))
    (folder / "submission.json").write_text(submission)
    return [(each.verdict, each.message) for each in check_denominators(read_record(folder))]


def test_implied_bytes_are_as_exact_as_the_digits():
    value, allowed = implied_bytes(Score(Decimal("1.91946510"), Decimal("1.13678077")), 62_021_632)
    assert value == pytest.approx(62_021_632 * 1.91946510 / (math.log(2) * 1.13678077))
    assert 1 < allowed < 4


@pytest.mark.parametrize("num_bytes", CANONICAL)
def test_the_challenges_text_is_known(tmp_path, num_bytes):
    targets, title = CANONICAL[num_bytes]
    ((verdict, said),) = findings(tmp_path, f"final {score(2.0, num_bytes, targets)}", targets=targets)
    assert verdict == "agreement"
    assert said.endswith(title)


def test_a_tail_scored_twice_is_explained_where_another_score_shows_the_text(tmp_path):
    sliding = f"final_sliding {score(2.0, SP1024 - 131)}"
    ((_, said),) = findings(tmp_path, f"final_roundtrip {score(2.1, SP1024)}", sliding)
    assert said.endswith("FineWeb val, 1,024 pieces, -131: 31 windows x 64 targets scored twice, 4,702 bytes of them")
    ((verdict, said),) = findings(tmp_path, sliding)
    assert verdict == "agreement"
    assert said.endswith("pieces, -131")


def test_targets_cut_to_whole_sequences_are_said(tmp_path):
    line = f"final {score(2.8, 151_078_222, 40_540_160)}"
    ((verdict, said),) = findings(tmp_path, line, targets=40_540_160)
    assert verdict == "agreement"
    assert said.endswith("FineWeb val, 8,192 pieces, -2,669: 40,540,160 targets, not 40,540,802")


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.03, "warning"), (1.002, "warning"), (0.5, "warning"), (1.06, "contradiction"), (2.0, "contradiction")],
)
def test_another_text_is_said_and_a_larger_one_contradicts(tmp_path, factor, verdict):
    ((found, said),) = findings(tmp_path, f"final {score(2.0, factor * SP1024)}")
    assert found == verdict
    assert said.endswith("another text")


def test_two_texts_in_one_log_contradict(tmp_path):
    found = findings(tmp_path, f"final_a {score(2.0, 1.01 * SP1024)}", f"final_b {score(2.0, SP1024)}")
    assert found[0] == (
        "contradiction",
        "train.log line 2 (final_a) implies 152,591,166 bytes of text, line 3 151,080,362",
    )


def test_a_text_of_ones_own_is_that_which_is_stated(tmp_path):
    entry = '{"seed_results": {"1": {"eval_bytes": %d}}}'
    line = f"seed: 1\nfinal {score(2.0, 15_000, 9_000)}"
    ((verdict, _),) = findings(tmp_path, line, targets=9_000, submission=entry % 15_000)
    assert verdict == "agreement"
    ((verdict, said),) = findings(tmp_path, line, targets=9_000, submission=entry % 15_001)
    assert verdict == "agreement"  # the digits cannot tell
    ((verdict, said),) = findings(tmp_path, line, targets=9_000, submission=entry % 15_100)
    assert verdict == "contradiction"
    assert "eval_bytes 15,100: train.log line 3 implies 15,000" in said


def test_a_fineweb_log_cannot_state_a_text_of_its_own(tmp_path):
    entry = '{"seed_results": {"1": {"eval_bytes": 302160724}}}'
    lines = ("seed: 1", "dataset:fineweb10B", f"final {score(2.0, 2 * SP1024)}")
    assert [verdict for verdict, _ in findings(tmp_path, *lines, submission=entry)] == ["agreement", "contradiction"]


@pytest.mark.parametrize(("loss", "bpb"), [("0.0", "1.1"), ("1.9", "0.00"), ("0." + "0" * 400 + "1", "1.1")])
def test_a_score_of_zero_implies_nothing(tmp_path, loss, bpb):
    ((verdict, said),) = findings(tmp_path, f"final val_loss:{loss} val_bpb:{bpb}")
    assert verdict == "contradiction"
    assert "expected scores above 0" in said
