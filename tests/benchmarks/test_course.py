"""What the course reads of what stages print."""

from benchmarks.course import stage_seconds


def test_seconds_are_those_of_summaries_folded_or_not():
    printed = (
        "Running stage 'train@1':\ntrain: seed 1, 20 steps (3.5 s)\n       0.02 epochs\n"
        "evaluate: seed 1, float: 3.6 bpb (0.5 s)\nevaluate: seed 1, ttt: a line as wide as\n  a terminal (1.0 s)\n"
    )
    assert stage_seconds(printed) == {"train": 3.5, "evaluate": 1.5}
