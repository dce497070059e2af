"""What a record needs no more goes; what a judge can cause stays."""

import ast

import pytest

from pipeline.record.reachable import filled, remove_unreachable, remove_unread
from pipeline.record.trim import Bare, without_checks
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


def silent(done: int, total: int, note: str) -> None:
    pass


def main(wheel: Wheel, progress: "Callable[[int, int, str], None]" = silent) -> None:
    parser = argparse.ArgumentParser(description="described_message")
    parser.add_argument("--seed", type=int, default=3, help="help_message", metavar="META")
    check_all(["abcd"])
    assert wheel.spokes, "assert_message"
    seen: list[int] = []
    for number in (1, 2):
        if number > 1:
            seen.append(number)
        if wheel.spokes:
            progress(number, 2, f"progress_message {number}")
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
    "described_message",
    "help_message",
    "META",
    "advice_message",
    "progress_message",
    "strict",
    "check_all",
    "_check_more",
    "never_named",
    "__post_init__",
    "bool",
]


def small() -> str:
    tree = remove_unreachable(without_checks(ast.parse(PROGRAM)))
    return ast.unparse(filled(remove_unreachable(remove_unread(remove_unreachable(Bare().visit(tree))))))


def test_a_trimmed_program_prints_the_same_but_for_advice():
    expected = printed(PROGRAM).replace("; advice_message 36", "")
    assert printed(small()) == expected
    assert "kept_message\n" in expected
    assert "shared: ClassVar[int] = 4" in small()


@pytest.mark.parametrize("gone", GONE)
def test_what_a_record_needs_no_more_is_gone(gone: str):
    assert gone in PROGRAM
    assert gone not in small()


@pytest.mark.parametrize(
    "body",
    [
        "if len(['x']):\n    found = 1\nprint(found)",
        "if len(['x']):\n    found = 1\n    require(found > 0, 'found')\nprint(found)",
        "print(1)\nif len(['x']):\n    require(True, 'x')\n    return\nprint(2)",
        "if (found := 3) > 2:\n    require(True, 'x')\nprint(found)",
        "for found in (1, 2):\n    require(True, 'x')\nprint(found)",
        "try:\n    require(True, 'x')\nfinally:\n    print(1)",
    ],
)
def test_what_others_rest_on_stays(body: str):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = f"def require(ok, message):\n    pass\n\n\ndef main():\n{lines}\n\nmain()\n"
    assert printed(ast.unparse(filled(without_checks(ast.parse(source))))) == printed(source) != ""


def test_what_prepares_a_dataclass_stays():
    source = PROGRAM.replace("self._check_more()", "object.__setattr__(self, 'spokes', 40)")
    tree = remove_unreachable(without_checks(ast.parse(source)))
    assert "spokes are 40" in printed(ast.unparse(filled(tree)))
