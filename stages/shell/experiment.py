"""Data files for a queued experiment: DVC runs it in a checkout of its own, which holds only what git and DVC track.

The one idea: whatever section `data` names relative to the checkout, and the cache of downloads, is linked into the
experiment's checkout from the one that queued it, where it is missing. What is tracked stays the experiment's own.

Checked by: tests/stages/test_sweeps.py.
"""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.artifacts import CACHE

if TYPE_CHECKING:
    from pipeline.corpus.config import DataConfig

_EXPERIMENTS = (".dvc", "tmp", "exps")


def link_data(config: "DataConfig") -> None:
    """Link the files that `config` names into the working directory, where that is an experiment's checkout."""
    here = Path.cwd()
    if (home := queued_from(here)) is None:
        return
    for name in [CACHE.as_posix(), *_named(config)]:
        for found in glob.glob(name, root_dir=home, recursive=True):
            _link(home / found, here / found)


def queued_from(checkout: Path) -> Path | None:
    """Return the checkout that a queued experiment in `checkout` came from; None when it is none."""
    parts = checkout.parts
    starts = (at for at in range(len(parts)) if parts[at : at + len(_EXPERIMENTS)] == _EXPERIMENTS)
    return next((Path(*parts[:at]) for at in starts), None)


def _named(config: "DataConfig") -> Iterator[str]:
    """Yield the relative paths and globs of a section `data`."""
    single = [config.tokenizer_model, config.fineweb and config.fineweb.folder]
    names = [*config.files, *config.val_files, *(name for name in single if name)]
    return (name for name in names if not name.startswith(("/", "~")))


def _link(source: Path, place: Path) -> None:
    """Link a file or folder where it is missing; in a folder that is there, what is missing below it."""
    if place.is_dir() and not place.is_symlink():
        for child in source.iterdir() if source.is_dir() else []:
            _link(child, place / child.name)
    elif not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
