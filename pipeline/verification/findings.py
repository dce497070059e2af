"""What a comparison found: a verdict, what is stated, what was found; and when two numbers agree.

Numbers are compared at the digits of the one that has fewer.

Checked by: tests/verification/test_verify.py.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pipeline.base.checks import one_line

Verdict = Literal["contradiction", "warning", "not stated", "agreement"]
COARSEST_SCORE = 0.0005
"""Half of the unit of a loss or bpb that counts at most."""
VERDICTS: tuple[Verdict, ...] = ("contradiction", "warning", "not stated", "agreement")
"""Worst first."""


class Place(NamedTuple):
    """Where a record states something, or shows it."""

    file: str
    where: str | int | None
    """A key of submission.json, a line of a text; None for a file itself."""
    value: Any


class Finding(NamedTuple):
    """What one comparison found."""

    check: str
    verdict: Verdict
    message: str
    stated: Place | None = None
    found: Place | None = None
    """None when there is nothing to compare with."""

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON has it."""
        stated, found = self.stated, self.found
        return {
            "check": self.check,
            "verdict": self.verdict,
            "stated": stated and {"file": stated.file, "place": stated.where, "value": _plain(stated.value)},
            "found": found and {"file": found.file, "line": found.where, "value": _plain(found.value)},
            "message": self.message,
        }


def finding(
    check: str, verdict: Verdict, message: object, stated: Place | None = None, found: Place | None = None
) -> Finding:
    """Return a finding whose message is one line of printable text, whatever foreign words it quotes."""
    return Finding(check, verdict, one_line(message, 600), stated, found)


def compared(check: str, what: str, stated: Place, found: Place) -> Finding:
    """Return whether a number, as stated, is what was found elsewhere; what is cut off and not rounded is a warning."""
    if agree(stated.value, found.value, COARSEST_SCORE):
        return finding(check, "agreement", f"{what} {shown(stated.value)}: {_named(found)}", stated, found)
    verdict: Verdict = "warning" if is_cut_off(stated.value, found.value, COARSEST_SCORE) else "contradiction"
    tail = ", cut off and not rounded" if verdict == "warning" else ""
    said = f"{what}: {_named(stated)} states {shown(stated.value)}, {_named(found)} {shown(found.value)}{tail}"
    return finding(check, verdict, said, stated, found)


def same(check: str, what: str, stated: Place, found: Place) -> Finding:
    """Return whether two places state exactly the same: sizes, counts, digests."""
    if stated.value == found.value:
        return finding(
            check, "agreement", f"{what}: {shown(stated.value)} by {_named(stated)} and {_named(found)}", stated, found
        )
    said = f"{what}: {_named(stated)} states {shown(stated.value)}, {_named(found)} {shown(found.value)}"
    return finding(check, "contradiction", said, stated, found)


def _named(place: Place) -> str:
    if place.where is None:
        return place.file
    return f"{place.file} line {place.where}" if isinstance(place.where, int) else f"{place.file} {place.where}"


def shown(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, Decimal) and value == value.to_integral_value() and value.adjusted() > 3:
        value = int(value)
    if isinstance(value, Decimal):
        return f"{value:f}" if abs(value.adjusted()) < 12 else str(value)
    if isinstance(value, float):
        return f"{value:.8f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        is_integer = value == value.to_integral_value() and value.adjusted() < 20
        return int(value) if is_integer else float(value)
    return value if isinstance(value, int | float | None) else one_line(value)


def agree(stated: Decimal | int, value: Decimal | int | float, coarsest: float = math.inf) -> bool:
    """Return whether two numbers agree at the digits of the one that has fewer.

    `coarsest`: half of the unit that counts at most: a score of 1 is not one of 1.08.
    """
    first, second = Decimal(stated), Decimal(value)
    slack = min(max(half_unit(first), half_unit(second)), coarsest)
    return abs(float(first - second)) <= slack * (1 + 1e-6)


def is_cut_off(stated: Decimal | int, value: Decimal | int | float, coarsest: float = math.inf) -> bool:
    """Return whether a fraction is another one of which digits were left out."""
    first, second = Decimal(stated), Decimal(value)
    unit = 2 * min(half_unit(first), coarsest)
    fewer_digits = -30 < int(first.as_tuple().exponent) < 0 and half_unit(first) > half_unit(second)
    return fewer_digits and 0 <= float(abs(second) - abs(first)) < unit


def half_unit(value: Decimal) -> float:
    """Return half of the last digit's unit."""
    exponent = value.as_tuple().exponent
    return 0.5 * 10.0 ** max(exponent, -400) if isinstance(exponent, int) else math.nan


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return each finding once, worst first, otherwise in order."""
    return sorted(dict.fromkeys(findings), key=lambda each: VERDICTS.index(each.verdict))
