"""From the readable text of a program to the bytes of train_gpt.py.

Checked by: tests/record/test_specialise.py, tests/stages/test_audit.py.
"""

from pipeline.record.minify import is_wrapped, minify, wrap
from pipeline.record.specialise import specialise


def shipped_program(source: str, readable: bool) -> bytes:
    """Return the bytes of train_gpt.py: the smallest wrapped form, or the source itself when `readable`."""
    return source.encode() if readable else wrap(minify(specialise(source)))


def is_built_from(code: bytes, source: str) -> bool:
    """Return whether `code`, the bytes of a train_gpt.py, is what `shipped_program` makes of `source`."""
    try:
        return code == shipped_program(source, readable=not is_wrapped(code))
    except Exception:  # whatever a text that is no program of ours makes of the analysis
        return False
