"""Text as wide as a terminal.

Checked by: tests/verification/test_verify.py, tests/stages/test_recipe.py, tests/stages/test_status.py.
"""

import re
import textwrap

COLUMNS = 80


def wrapped(text: str) -> str:
    """Return lines of text with those folded, at spaces, that are wider than a terminal; columns stay columns.

    The same on a terminal and in a pipe: a program reads what --json prints, which nothing folds.
    """
    return "\n".join(_folded(line) for line in text.splitlines())


def hanging(text: str, first: str, later: str) -> list[str]:
    """Return text as lines that begin with `first` and then `later`."""
    return textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _folded(line: str) -> str:
    columns = [gap.end() for gap in re.finditer(r"(?<=\S) {2,}", line) if gap.end() <= COLUMNS // 2]
    indent = " " * max(columns, default=len(line) - len(line.lstrip()) + 2)
    fold = textwrap.TextWrapper(COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return fold.fill(line)
