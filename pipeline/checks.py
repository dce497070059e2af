"""One way to refuse a bad value: a single line that names the field, the value and what was expected."""


def require(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise ValueError `<field>: got <got>, expected <expected>` unless `ok`; a long value is cut."""
    if not ok:
        raise ValueError(f"{field}: got {got!r:.100}, expected {expected}")


def demand(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise as `require` does, for what the files and the machine of a run decide: a record keeps these checks."""
    if not ok:
        raise ValueError(f"{field}: got {got!r:.100}, expected {expected}")


class FairwayError(Exception):
    """A failure that the person at the keyboard can resolve; stages print it as one line and exit 1."""
