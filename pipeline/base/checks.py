"""One way to refuse a bad value: a single line that names the field, the value and what was expected."""


def require(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise ValueError `<field>: got <got>, expected <expected>` unless `ok`; a long value is cut.

    A record is without these checks: its configuration has passed them.
    """
    require_always(ok, field, got, expected)


def require_always(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise as `require` does, in a record too: for what the files and the machine of a run decide."""
    if not ok:
        raise ValueError(f"{field}: got {got!r:.100}, expected {expected}")


def one_line(error: object, longest: int = 200) -> str:
    """Return what an error or a foreign text says as one short line of printable ASCII that keeps a table in shape."""
    words = " ".join(str(error)[: 4 * longest].replace("|", "/").split())
    shown = "".join(each if each.isprintable() and each.isascii() else "?" for each in words)
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


class FairwayError(Exception):
    """A failure that the person at the keyboard can resolve; stages print it as one line and exit 1."""
