"""Numbers that are stated at two places, compared at the digits at which they are stated.

Checked by: tests/record/test_verify.py.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

Claim = tuple[str, bool | None]
"""Evidence, and whether it holds; None when there is nothing to compare."""
BEYOND = Decimal(10) ** 18
"""What stands for every larger number."""


def stated_number(text: str) -> Decimal:
    """Return a number as written; beyond anything that a record counts `BEYOND`, which agrees with nothing."""
    try:
        number = Decimal(text)
    except ArithmeticError:  # an exponent of twenty digits
        return BEYOND
    return number if number.adjusted() < BEYOND.adjusted() else BEYOND


def number_of(fields: Mapping[str, Any], key: str) -> Decimal | int | None:
    """Return a finite number that was stated; None for anything else."""
    value = fields.get(key)
    is_number = isinstance(value, Decimal | int) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def agreement(what: str, values: Mapping[str, Any]) -> Claim:
    """Compare what several places state; one place alone shows nothing."""
    stated = {where: value for where, value in values.items() if value is not None}
    listing = ", ".join(f"{where} {value:,}" for where, value in stated.items())
    if len(stated) < 2:
        return f"{what}: {listing or 'nothing'}", None
    same = len(set(stated.values())) == 1
    return (f"{what}: {next(iter(stated.values())):,}" if same else f"{what}: {listing}"), same


def recomputed(what: str, stated: Decimal | int, value: float) -> Claim:
    """Compare a number as stated with what it is computed from."""
    ok = equal_as_stated(stated, Decimal(value))
    return (f"{what} {stated}" if ok else f"{what}: {stated} stated, {value:.8f} by the seeds"), ok


def equal_as_stated(stated: Decimal | int, value: Decimal) -> bool:
    """Return whether two numbers agree at the digits of the one that has fewer."""
    return abs(float(Decimal(stated) - value)) <= max(half_unit(Decimal(stated)), half_unit(value)) * (1 + 1e-6)


def half_unit(value: Decimal) -> float:
    """Return half of the last digit's unit."""
    exponent = value.as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else math.nan
