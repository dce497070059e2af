"""From the readable text of a program to the bytes of train_gpt.py.

Checked by: tests/record/test_ship.py, tests/stages/test_audit.py.
"""

import ast

from pipeline.record.minify import is_wrapped, minify, wrap
from pipeline.record.reachable import remove_unreachable, remove_unread
from pipeline.record.settle import settle
from pipeline.record.trim import without_annotations, without_checks


def shipped_program(source: str, readable: bool) -> bytes:
    """Return the bytes of train_gpt.py: the smallest file, or the source itself when `readable`."""
    return source.encode() if readable else wrap(minify(without_unused(source)))


def without_unused(source: str) -> str:
    """Return the text of a program without what its record does not need."""
    tree = remove_unreachable(without_checks(ast.parse(source)))
    tree = remove_unreachable(settle(remove_unreachable(settle(tree))))
    return ast.unparse(remove_unreachable(remove_unread(remove_unreachable(without_annotations(tree)))))


def is_built_from(code: bytes, source: str) -> bool:
    """Return whether `code`, the bytes of a train_gpt.py, is what `shipped_program` makes of `source`."""
    try:
        return code == shipped_program(source, readable=not is_wrapped(code))
    except Exception:  # whatever a text that is no program of ours makes of the analysis
        return False
