"""Properties of the visit order: LIFO skips, visit counts, depth."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.schedule import build_schedule
from pipeline.model.schedule_config import CoreSchedule

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
