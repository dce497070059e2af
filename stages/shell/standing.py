"""How a stage stands, as `fairway status` says it; and what can be known of it without DVC.

Checked by: tests/stages/test_status.py.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from stages.shell.durations import parse_name, stages_of

if TYPE_CHECKING:
    from pipeline.base.config import Params

SETTLED = ("done", "in cache", "there")
"""States of stages that `dvc repro` does not run."""


class Standing(NamedTuple):
    """How one stage stands."""

    name: str
    """DVC's: train@444."""
    state: str
    """done, stale, by hand (outputs there, but not those DVC knows), uncached (those, but DVC has no copy), in cache
    (`dvc checkout` brings them), missing, running, or without DVC: there."""
    reasons: tuple[str, ...] = ()
    """What changed."""
    follows: str | None = None
    """The stage with a cause of its own that runs before it."""
    code_only: bool = False
    """Nothing but rooms of the code changed."""
    is_newest: bool = False
    """By hand, and no file that it depends on was changed after its outputs were written."""


def file_standings(params: "Params", running: Collection[str]) -> list[Standing]:
    """Return how stages stand where DVC cannot say: by what runs, and by whether all outputs are there."""
    from pipeline.base.artifacts import outputs_of

    def state(name: str) -> str:
        command, seed, item = parse_name(name)
        is_there = all(path.exists() for path in outputs_of(command, seed=seed, item=item))
        return "running" if name in running else "there" if is_there else "missing"

    return [Standing(name, state(name)) for name in stages_of(params)]
