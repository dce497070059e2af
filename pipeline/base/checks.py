"""One way to refuse a bad value: a single line that names the field, the value and what was expected.

Checked by: tests/base/test_checks.py.
"""

import errno
import re
import struct

_DAMAGED, _ENDS_EARLY = "it is damaged: its parts contradict each other", "it ends too early"
_MEANINGS: dict[type[Exception], str] = {
    EOFError: _ENDS_EARLY,
    struct.error: _ENDS_EARLY,
    RecursionError: "it is nested too deeply",
    MemoryError: "it asks for more memory than there is",
}
"""What a reader raises -> what that says of the file."""
_FEWEST_WORDS = 3


def require(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise ValueError `<field>: got <got>, expected <expected>` unless `ok`; a long value is cut, a tuple is a list.

    A record is without these checks: its configuration has passed them.
    """
    require_always(ok, field, list(got) if isinstance(got, tuple) else got, expected)


def require_always(ok: bool, field: str, got: object, expected: str) -> None:
    """Raise as `require` does, in a record too: for what the files and the machine of a run decide."""
    if not ok:
        raise ValueError(f"{field}: got {got!r:.100}, expected {expected}")


def one_line(error: object, longest: int = 200) -> str:
    """Return what an error or a foreign text says as one short line of printable ASCII that keeps a table in shape.

    What a terminal would obey, or cannot show, is written as Python's literals write it.
    """
    words = " ".join(str(error)[: 4 * longest].replace("|", "/").split())
    shown = "".join(each if each.isprintable() and each.isascii() else ascii(each)[1:-1] for each in words)
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Return a number of things as people write it: 0 files, 1 file, 1,200 files; `ending` is the plural's."""
    return f"{number:,} {noun}{ending * (number != 1)}"


def explain_failure(error: Exception) -> str:
    """Return in words, as one short line, why a file could not be read.

    A reader that trusts its bytes trips over damage anywhere and raises a number, a key or nothing: about itself.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _DAMAGED if error.errno == errno.EINVAL else one_line(error.strerror)  # it: seeks to outside of the file
    if isinstance(error, UnicodeDecodeError):
        return f"a text in it is not {error.encoding.upper()} at byte {error.start}"
    for kind, meaning in _MEANINGS.items():
        if isinstance(error, kind):
            return meaning
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    sentence = re.split(r"\n|\. \(?(?=[A-Z])", str(said).strip())[0]  # what follows tells how to go on unsafely
    text = one_line(re.sub(r"^Error -?\d+ ", "", sentence).rstrip("."))
    if not isinstance(error, AttributeError | IndexError | TypeError):
        if len(re.findall("[A-Za-z]{2,}", text)) >= _FEWEST_WORDS:
            return text
        if isinstance(error, KeyError) and isinstance(said, str):
            return f"it has no entry {text!r}"
    return _DAMAGED


class FairwayError(Exception):
    """A failure that the person at the keyboard can resolve; stages print it as one line and exit 1."""
