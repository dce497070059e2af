"""Finding the files that `data.files` names: paths and globs, with a helpful answer when one matches nothing.

Checked by: tests/corpus/test_corpora.py.
"""

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path


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
            remedy = f"write {pattern.rstrip('/')}/*{suffixes[0]}" if is_folder else _nearest_file(Path(expanded))
            found_instead = "a folder" if is_folder else "no file"
            raise ValueError(f"data.files: got {pattern!r}, which names {found_instead}; {remedy}")
        for path in files:
            if not path.name.lower().endswith(tuple(suffixes)):
                raise ValueError(f"data.files: got {str(path)!r}, expected a name ending in {', '.join(suffixes)}")
            found[path] = None
    return list(found)


def _nearest_file(path: Path) -> str:
    """Return advice naming what exists nearest to a path or pattern that does not."""
    missing, folder = path, path.parent
    while not folder.is_dir() and folder != folder.parent:
        missing, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if not names:
        return f"the folder {folder} is empty"
    nearest = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.0)[0]
    return f"the nearest that exists is {str(folder / nearest)!r}"
