"""Finding files of text by paths, globs and folders, with a helpful answer when one names nothing.

Checked by: tests/corpus/test_corpora.py.
"""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.base.files import nearest_file


def find_source_files(patterns: Iterable[str], suffixes: Sequence[str], key: str) -> list[Path]:
    """Return the files of all patterns, each once: patterns in their order, the matches of a glob sorted.

    A folder stands for all files below it with one of `suffixes`, sorted. `~` and paths relative to the working
    directory are fine. ValueError, which begins with `key`, when a pattern names no file or a file of another kind.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if os.path.isdir(expanded):
            files = [path for path in _files_below(Path(expanded)) if _ends(path, suffixes)]
        else:
            files = _matches(expanded)
        if not files:
            raise ValueError(f"{key}: got {pattern!r}, {_nothing(pattern, expanded, suffixes)}")
        for path in files:
            if not _ends(path, suffixes):
                raise ValueError(f"{key}: got {str(path)!r}, expected a name ending in {', '.join(suffixes)}")
        found |= dict.fromkeys(files)
    return list(found)


def unread_files(patterns: Iterable[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files below folders among `patterns` that are left out because they end like none of `suffixes`."""
    folders = filter(os.path.isdir, map(os.path.expanduser, patterns))
    return [path for folder in folders for path in _files_below(Path(folder)) if not _ends(path, suffixes)]


def _files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted; hidden ones, whose name or folder begins with a dot, are left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _matches(pattern: str) -> list[Path]:
    """Return the files that a path or a glob names, sorted."""
    matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    return [Path(match) for match in matches if os.path.isfile(match)]


def _ends(path: Path, suffixes: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(suffixes))


def _nothing(pattern: str, expanded: str, suffixes: Sequence[str]) -> str:
    """Return what a pattern names instead of files, and the remedy."""
    if os.path.isdir(expanded):
        return f"a folder without a file that ends in {', '.join(suffixes)}; name another"
    if any(map(os.path.isdir, glob.glob(expanded, recursive=True))):
        return f"which names a folder; write {pattern.rstrip('/')}/**/*{suffixes[0]}"
    return f"which names no file; {nearest_file(Path(expanded))}"
