"""Properties of the visit order: LIFO skips, visit counts, depth."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.schedule import build_schedule
from pipeline.model.schedule_config import CoreSchedule, FoldedSchedule, HelixSchedule

COUNTS = st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(1, 5)).filter(lambda n: n[0] + n[1])


def looped_core_schedule(unique, looped, loops, active=None, order=None):
    config = CoreSchedule(kind="core", unique_blocks=unique, unique_order=order, looped_blocks=looped, num_loops=loops)
    return build_schedule(config, active)


def test_the_visit_order_of_seven_unique_and_three_looped():
    schedule = looped_core_schedule(7, 3, 2)
    order = [(visit.block, visit.loop, visit.phase[0]) for visit in schedule.visits]
    encoder = [(0, 0, "e"), (1, 0, "e"), (2, 0, "e")]
    core = [(7, 0, "c"), (8, 0, "c"), (9, 0, "c"), (7, 1, "c"), (8, 1, "c"), (9, 1, "c")]
    assert order == encoder + core + [(3, 0, "d"), (4, 0, "d"), (5, 0, "d"), (6, 0, "d")]
    assert schedule.looped == (7, 8, 9)
    assert schedule.skips == ((2, 0), (1, 1), (0, 2))


@given(COUNTS)
def test_unique_blocks_run_once_and_looped_blocks_once_per_pass(counts):
    unique, looped, loops = counts
    schedule = looped_core_schedule(unique, looped, loops)
    visits = Counter(visit.block for visit in schedule.visits)
    assert visits == {**dict.fromkeys(range(unique), 1), **dict.fromkeys(range(unique, unique + looped), loops)}
    assert schedule.effective_depth == unique + looped * loops
    assert schedule.num_blocks == unique + looped
    assert [v.block for v in schedule.visits if v.phase != "core"] == list(range(unique))


@given(COUNTS)
def test_skips_nest_like_brackets(counts):
    schedule = looped_core_schedule(*counts)
    stack = list(range(len(schedule.encoder)))
    popped = [(stack.pop(), i) for i in range(len(schedule.decoder)) if stack]
    assert list(schedule.skips) == popped
    assert len(popped) == counts[0] // 2


FOLDED = st.tuples(st.integers(1, 12), st.integers(0, 11), st.integers(0, 11), st.integers(1, 4)).filter(
    lambda n: n[1] <= n[2] < n[0]
)


def folded(unique, start, end, loops, active=None):
    config = FoldedSchedule(kind="folded", unique_blocks=unique, loop_start=start, loop_end=end, num_loops=loops)
    return build_schedule(config, active)


def test_the_published_visit_order_of_the_looped_unet():
    schedule = folded(11, 3, 5, 3)
    assert [visit.block for visit in schedule.encoder] == [0, 1, 2, 3, 4, 5, 3, 4]
    assert [visit.block for visit in schedule.decoder] == [5, 3, 4, 5, 6, 7, 8, 9, 10]
    inactive = folded(11, 3, 5, 3, active=1)
    assert [visit.block for visit in inactive.encoder] == [0, 1, 2, 3, 4]
    assert [visit.block for visit in inactive.decoder] == [5, 6, 7, 8, 9, 10]


@given(FOLDED)
def test_a_folded_segment_repeats_and_the_halves_balance(counts):
    unique, start, end, loops = counts
    schedule = folded(*counts)
    visits = Counter(visit.block for visit in schedule.visits)
    assert visits == {block: loops if start <= block <= end else 1 for block in range(unique)}
    assert len(schedule.decoder) - len(schedule.encoder) in (0, 1)
    assert schedule.effective_depth == unique + (loops - 1) * (end - start + 1)
    assert [visit.slot for visit in schedule.visits] == list(range(schedule.effective_depth))


@given(COUNTS)
def test_inactive_loops_drop_visits_and_keep_every_other_slot(counts):
    full = looped_core_schedule(*counts)
    for active in range(1, counts[2] + 1):
        fewer = looped_core_schedule(*counts, active=active)
        assert fewer.visits == tuple(visit for visit in full.visits if visit.loop < active)
        assert (fewer.skips, fewer.looped) == (full.skips, full.looped)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 9))
def test_a_helix_fires_after_every_stride_th_visit(unique, looped, stride):
    stride = min(stride, unique)
    schedule = build_schedule(
        HelixSchedule(
            kind="helix",
            unique_blocks=unique,
            unique_order=None,
            looped_blocks=looped,
            stride=stride,
            bridge="linear",
            bridge_dim=4,
        )
    )
    expected = []
    for i in range(unique):
        expected += [i, *(range(unique, unique + looped) if (i + 1) % stride == 0 else ())]
    assert [visit.block for visit in schedule.visits] == expected
    assert [visit.slot for visit in schedule.visits] == list(range(len(expected)))
