"""From the readable program to the one that a record runs: nothing left that its recipe does not use.

Checked by: tests/submission/test_fold.py.
"""

import ast

from pipeline.submission.flow import Flow
from pipeline.submission.fold import fold
from pipeline.submission.positional import by_position
from pipeline.submission.prune import prune
from pipeline.submission.reachable import remove_unreachable
from pipeline.submission.shorten import shorten
from pipeline.submission.trim import trim


def specialise(source: str) -> str:
    """Return the source of a program that computes what `source` does; `source` ends with the call that runs it."""
    text = ast.unparse(trim(ast.parse(source)))
    while True:
        tree = ast.parse(text)
        flow = Flow(tree)
        tree = remove_unreachable(prune(fold(tree, flow), flow))
        shorter = ast.unparse(ast.fix_missing_locations(tree))
        if shorter == text:
            break
        text = shorter
    tree = ast.parse(text)
    flow = Flow(tree)
    tree = shorten(by_position(tree, flow), flow)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
