"""From the readable program to the one that a record runs: nothing left that its recipe does not use.

In order: checks of what the record carries inside go (`trim.py`); then, until nothing changes, the program is analysed
(`flow.py`), what the recipe decides is decided (`fold.py`), unread parameters and fields are dropped (`drop.py`) and
dead stores (`prune.py`); at last arguments go by position (`positional.py`) and attributes get short names
(`shorten.py`).

The promise: on every run in which no check fires that `trim.py` takes out, the result prints and writes what the
program does. What the analysis does not model is refused (`admit.py`) with a ValueError of one line. Taken as given,
because the house rules and mypy hold them: annotations are true; foreign code calls of our objects only dunder
methods, those of their foreign base class or of a common protocol, and functions that it was handed, by position;
reading an attribute of a foreign object and using an operator on it change nothing; nobody reads the `repr` of ours.

Checked by: tests/record/test_specialise.py, tests/record/test_specialise_meaning.py.
"""

import ast

from pipeline.record.drop import drop_unread
from pipeline.record.flow import Flow
from pipeline.record.fold import fold
from pipeline.record.positional import by_position
from pipeline.record.prune import prune
from pipeline.record.reachable import remove_unreachable
from pipeline.record.shorten import shorten
from pipeline.record.trim import trim


def specialise(source: str) -> str:
    """Return the source of a program that computes what `source` does; `source` ends with the call that runs it."""
    tree = ast.parse(without_unused(source))
    flow = Flow(tree)
    text = ast.unparse(shorten(by_position(tree, flow), flow)) + "\n"
    compile(text, "<specialised>", "exec")  # what parses may still bind names in ways that Python refuses
    return text


def without_unused(source: str) -> str:
    """Return the program without checks, without branches that cannot run and without what nobody reads."""
    text = ast.unparse(trim(ast.parse(source)))
    while True:
        tree = ast.parse(text)
        flow = Flow(tree)
        tree = remove_unreachable(prune(drop_unread(fold(tree, flow), flow), flow))
        shorter = ast.unparse(ast.fix_missing_locations(tree))
        if len(shorter) >= len(text):
            return text
        text = shorter
