"""The ledger: totals from its rows, the same bytes every time, damage refused."""

import math
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.scoring.config import SlidingProtocol
from pipeline.scoring.evaluate import Scores
from pipeline.scoring.ledger import Ledger, load_ledger, make_ledger, save_ledger

PROTOCOL = SlidingProtocol(kind="sliding", context_tokens=4, stride_tokens=2, mixture=None)


def example() -> Ledger:
    order = np.array([2, 0, 1, 4, 3])
    scores = Scores(np.array([0.1, 0.2, 0.3, 0.4, 1e16]), order, np.array([0, 0, 0, 1, 1]))
    return make_ledger(scores, np.array([1, 2, 3, 4, 5]), PROTOCOL)


def test_rows_are_in_scoring_order() -> None:
    ledger = example()
    assert ledger.target.tolist() == [2, 0, 1, 4, 3]
    assert ledger.nats.tolist() == [0.3, 0.1, 0.2, 1e16, 0.4]
    assert ledger.bytes.tolist() == [3, 1, 2, 5, 4]
    with pytest.raises(ValueError, match="read-only"):
        ledger.nats[0] = 0.0


def test_totals_do_not_depend_on_the_order() -> None:
    ledger = example()
    backwards = Ledger(
        target=ledger.target[::-1],
        nats=ledger.nats[::-1],
        bytes=ledger.bytes[::-1],
        group=ledger.group[::-1],
        num_targets=5,
        protocol=ledger.protocol,
    )
    assert ledger.total_nats == backwards.total_nats == math.fsum([0.1, 0.2, 0.3, 0.4, 1e16])
    assert ledger.total_bytes == 15
    assert ledger.val_loss == ledger.total_nats / 5
    assert ledger.val_bpb == pytest.approx(ledger.total_nats / math.log(2) / 15, rel=1e-15)


def test_the_sum_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(math, "fsum", lambda nats, real=math.fsum: taken.append(len(nats)) or real(nats))
    ledger = example()
    assert ledger.total_nats > ledger.val_loss > ledger.val_bpb
    assert taken == [5]


def test_a_file_gives_back_the_ledger_and_has_no_clock_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_ledger(tmp_path / "a.npz", example())
    later = time.localtime(time.time() + 60)  # what zipfile asks for the time of a member
    monkeypatch.setattr(time, "localtime", lambda *_: later)
    save_ledger(tmp_path / "b.npz", load_ledger(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_ledger(tmp_path / "b.npz")
    assert loaded.protocol == {"kind": "sliding", "context_tokens": 4, "stride_tokens": 2, "mixture": None}
    assert (loaded.num_targets, loaded.total_nats) == (5, example().total_nats)


@pytest.mark.parametrize("target", [[0, 1, 1], [0, 1, 3], [0, 1]])
def test_targets_scored_twice_or_never_are_refused(target: list[int]) -> None:
    rows = len(target)
    with pytest.raises(ValueError, match=r"ledger\.target"):
        Ledger(
            target=np.array(target),
            nats=np.ones(rows),
            bytes=np.ones(rows),
            group=np.zeros(rows),
            num_targets=3,
            protocol={},
        )


def test_bytes_that_do_not_fit_the_scores_are_refused() -> None:
    scores = Scores(np.ones(2), np.arange(2), np.zeros(2))
    with pytest.raises(ValueError, match="bytes"):
        make_ledger(scores, np.ones(3, np.int64), PROTOCOL)
    with pytest.raises(ValueError, match="bytes"):
        make_ledger(scores, np.array([1, -1]), PROTOCOL)


def test_no_targets_have_no_mean() -> None:
    empty = make_ledger(Scores(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)), np.empty(0, int), PROTOCOL)
    with pytest.raises(ValueError, match="two tokens"):
        _ = empty.val_loss
    with pytest.raises(ValueError, match="one byte"):
        _ = empty.val_bpb


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.npz"
    save_ledger(path, example())
    whole = path.read_bytes()
    for damaged in (whole[:-40], b"", whole[:30], whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="evaluate the item again") as caught:
            load_ledger(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="evaluate the item again"):
        load_ledger(tmp_path / "absent.npz")


DAMAGES = {
    "target": np.array([0.0, 1, 2, 3, 4]),
    "nats": np.full(5, np.nan),
    "bytes": np.array(["a"] * 5),
    "group": np.zeros((5, 1), np.int32),
    "meta": np.frombuffer(b'{"num_targets": 5.0, "protocol": {}}', np.uint8),
    "no meta": None,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_columns_of_another_kind_are_one_line(tmp_path: Path, name: str) -> None:
    save_ledger(tmp_path / "a.npz", example())
    with np.load(tmp_path / "a.npz") as file:
        arrays = {**file, name: DAMAGES[name]} if name in file else {key: file[key] for key in file if key != "meta"}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="not a readable ledger"):
        load_ledger(tmp_path / "a.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    save_ledger(tmp_path / "a.npz", example())
    with np.load(tmp_path / "a.npz") as file:
        np.savez_compressed(tmp_path / "b.npz", **{**file, "nats": np.zeros(1 << 23)})
    with pytest.raises(ValueError, match="unpacked size"):
        load_ledger(tmp_path / "b.npz")


def test_files_that_raised_something_else_are_one_line(shared: Path) -> None:
    for path in (shared / "hostile/parsers").glob("ledger*"):
        with pytest.raises(ValueError, match="not a readable ledger") as caught:
            load_ledger(path)
        assert len(str(caught.value)) < 500
