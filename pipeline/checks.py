"""One way to refuse a bad value: a single line that names the field, the value and what was expected."""

SHOWN_CHARACTERS = 100
"""How much of a value a message shows."""


def shown(value: object) -> str:
    """Return a value as Python writes it, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, lists inside themselves
        text = "a value too large to be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def require(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise ValueError `<field>: got <got>, expected <expected>` unless `ok`."""
    if not ok:
        raise ValueError(f"{field}: got {shown(got)}, expected {expected}")


def demand(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise as `require` does, for what the files and the machine of a run decide: a record keeps these checks."""
    if not ok:
        raise ValueError(f"{field}: got {got!r}, expected {expected}")


class FairwayError(Exception):
    """A failure that the person at the keyboard can resolve; stages print it as one line and exit 1."""
