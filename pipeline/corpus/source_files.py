"""Finding the files that `data.files` names: paths and globs, with a helpful answer when one matches nothing.

Checked by: tests/corpus/test_corpora.py.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.files import nearest_file


def find_source_files(patterns: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files of all patterns, each once: patterns in their order, the matches of a glob sorted.

    `~` and paths relative to the working directory are fine. ValueError when a pattern matches no file or a file has
    none of `suffixes`.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        matches = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
        files = [Path(match) for match in matches if os.path.isfile(match)]
        if not files:
            is_folder = any(os.path.isdir(match) for match in matches)
            remedy = f"write {pattern.rstrip('/')}/*{suffixes[0]}" if is_folder else nearest_file(Path(expanded))
            found_instead = "a folder" if is_folder else "no file"
            raise ValueError(f"data.files: got {pattern!r}, which names {found_instead}; {remedy}")
        for path in files:
            if not path.name.lower().endswith(tuple(suffixes)):
                raise ValueError(f"data.files: got {str(path)!r}, expected a name ending in {', '.join(suffixes)}")
            found[path] = None
    return list(found)
