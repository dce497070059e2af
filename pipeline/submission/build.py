"""From a resolved recipe to the text of train_gpt.py.

Checked by: tests/submission/test_program.py.
"""

from pathlib import Path

from pipeline.submission.bundle import bundle
from pipeline.submission.minify import minify, wrap
from pipeline.submission.program import Recipe


def record_source(recipe: Recipe, root: Path) -> str:
    """Return the readable one-file program for `recipe`, bundled from the library below `root`."""
    return bundle("pipeline.submission.program", root, f"main({recipe!r})")


def shipped_program(source: str, readable: bool) -> bytes:
    """Return the bytes of train_gpt.py: the smallest wrapped form, or the source itself when `readable`."""
    return source.encode() if readable else wrap(minify(source))
