"""What a record needs no more goes; what a judge can cause stays."""

import ast

import pytest

from pipeline.record.reachable import remove_unreachable, remove_unread
from pipeline.record.trim import without_annotations, without_checks
from tests.record.test_settle import printed

PROGRAM = """
import argparse
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class HessianError(Exception):
    pass


def require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def require_always(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def check_all(names: list[str]) -> None:
    \"""Check.\"""
    for name in names:
        size = len(name)
        if size > 3:
            require(size < 9, "long_message")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    spokes: int
    shared: ClassVar[int] = 4

    def __post_init__(self) -> None:
        require(self.spokes > 0, "spokes_message")
        self._check_more()

    def _check_more(self) -> None:
        check_all([])


class Span(NamedTuple):
    start: "int | None"
    stop: int = 9


class Counter:
    total: int

    def __init__(self, total: int) -> None:
        self.total: int = total

    def next(self) -> int:
        require(self.total > 0, "total_message")
        self.total += 1
        return self.total

    def never_named(self) -> int:
        return 0


def main(wheel: Wheel) -> None:
    parser = argparse.ArgumentParser(description="described_message")
    parser.add_argument("--seed", type=int, default=3, help="help_message", metavar="META")
    check_all(["abcd"])
    assert wheel.spokes, "assert_message"
    seen: list[int] = []
    for number in (1, 2):
        if number > 1:
            seen.append(number)
    if wheel.spokes < 0:
        raise HessianError("hessian_message")
    try:
        require_always(wheel.spokes < 30, f"spokes are {wheel.spokes}, kept_message; advice_message {wheel.spokes}")
    except ValueError as error:
        print(error)
    pairs = list(zip(seen, (2,), strict=True))
    print(pairs, Counter(1).next(), Span(1), Wheel.shared, parser.parse_args([]).seed)


main(Wheel(spokes=36))
"""


GONE = [
    "long_message",
    "spokes_message",
    "total_message",
    "assert_message",
    "hessian_message",
    "described_message",
    "help_message",
    "META",
    "advice_message",
    "strict",
    "check_all",
    "_check_more",
    "never_named",
    "HessianError",
    "__post_init__",
    "bool",
]


def small() -> str:
    tree = remove_unreachable(without_checks(ast.parse(PROGRAM)))
    return ast.unparse(remove_unreachable(remove_unread(remove_unreachable(without_annotations(tree)))))


def test_a_trimmed_program_prints_the_same_but_for_advice():
    expected = printed(PROGRAM).replace("; advice_message 36", "")
    assert printed(small()) == expected
    assert "kept_message\n" in expected


@pytest.mark.parametrize("gone", GONE)
def test_what_a_record_needs_no_more_is_gone(gone: str):
    assert gone in PROGRAM
    assert gone not in small()


def test_a_block_that_checks_nothing_stays():
    source = "def main():\n    if len(['x']):\n        found = 1\n    print(found)\n\n\nmain()\n"
    assert printed(ast.unparse(without_checks(ast.parse(source)))) == "1\n"
    checked = source.replace("found = 1", "found = 1\n        require(found > 0, 'found')")
    assert printed(ast.unparse(without_checks(ast.parse(checked)))) == "1\n"
