"""From the readable program to the one that a record runs: nothing left that its recipe does not use.

Checked by: tests/submission/test_fold.py.
"""

import ast

from pipeline.submission.fold import fold
from pipeline.submission.reachable import remove_unreachable
from pipeline.submission.trim import trim


def specialise(source: str) -> str:
    """Return the source of a program that computes what `source` does; `source` ends with the call that runs it."""
    tree = trim(ast.parse(source))
    tree = fold(ast.parse(ast.unparse(tree)))
    tree = remove_unreachable(tree)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
