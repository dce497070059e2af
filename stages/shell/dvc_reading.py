"""How every stage stands: what `dvc.lock` says against the files that are there.

The one idea: `dvc status` waits for DVC's lock and refuses while `dvc repro` is at work; its dependencies and outputs
asked one by one need no lock and write nothing here. What another stage has yet to make is no cause of its own: a stage
follows the first one that has such a cause.

Checked by: tests/stages/test_status.py.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.shell.durations import parse_name
from stages.shell.dvc_work import queue_counts, stages_at_work
from stages.shell.standing import SETTLED, Standing

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.stage import Stage

_SHOWN_CHARACTERS = 40
_UNCACHED = "its outputs are not in DVC's cache"


class Pipeline(NamedTuple):
    """How all stages stand by DVC."""

    standings: list[Standing]
    """In the order of dvc.yaml."""
    at_work: dict[str, int]
    """Stage that DVC runs now -> DVC's process."""
    has_remote: bool
    """Whether there is a default remote to pull from."""
    queue: dict[str, int]
    """State -> experiments of DVC's queue in it, of those that have not ended well."""


def dvc_pipeline(running: Collection[str]) -> Pipeline:
    """Return how stages stand by DVC; `running`: stages known to run.

    Raises DvcException or SCMError where there is no repository or its files are not sound.
    """
    import networkx
    from dvc.repo import Repo

    from pipeline.base.config import read_yaml

    repo = Repo()
    repo.scm  # noqa: B018  # raises where git is missing
    graph, at_work, values = repo.index.graph, stages_at_work(repo), read_yaml(Path(repo.root_dir) / "params.yaml")
    found: dict[Stage, Standing] = {}
    for stage in reversed(list(networkx.topological_sort(graph))):
        if stage.cmd:  # others are data of the user's
            before = {maker: found[maker] for maker in graph.successors(stage) if maker in found}
            busy = stage.addressing in running or stage.addressing in at_work
            found[stage] = Standing(stage.addressing, "running") if busy else _standing(stage, before, values)
    has_remote = "remote" in repo.config["core"]
    standings = [found[stage] for stage in repo.index.stages if stage in found]
    return Pipeline(standings, at_work, has_remote, queue_counts(repo))


def _standing(stage: "Stage", before: Mapping["Stage", Standing], values: Mapping[str, Any]) -> Standing:
    """Return how a stage stands that does not run; `before`: those that make what it depends on."""
    is_recorded = all(out.hash_info for out in stage.outs)
    follows, causes = None, ["command changed"] if stage.cmd_changed and is_recorded else []
    code_only = not causes
    for dependency in [] if stage.frozen else stage.deps:
        makers = [place for maker, place in before.items() if _makes(maker, dependency)]
        if waiting := next((place for place in makers if place.state not in (*SETTLED, "uncached")), None):
            follows = follows or waiting.follows or parse_name(waiting.name).row
        elif is_recorded and not any(place.state == "in cache" for place in makers):
            changes = list(_changes(dependency, values))
            causes += changes
            code_only &= not changes or str(dependency).startswith(("pipeline", "stages"))
    state, reasons = _state_of_outputs(stage, is_recorded, bool(causes or follows))
    code_only &= state == "stale" and bool(causes) and not follows
    is_newest = state == "by hand" and max(_written(stage.deps), default=0.0) <= min(_written(stage.outs), default=0.0)
    return Standing(stage.addressing, state, (*causes, *reasons), follows, code_only, is_newest)


def _written(places: "list[Dependency] | list[Output]") -> Iterator[float]:
    """Yield when files were last written, in unix seconds; infinity for one that is not there."""
    for place in map(Path, (place.fs_path for place in places)):
        files = place.rglob("*") if place.is_dir() else [place]
        for file in files:
            if not file.is_dir() and "__pycache__" not in file.parts:
                yield file.stat().st_mtime if file.exists() else math.inf


def _makes(stage: "Stage", dependency: "Dependency") -> bool:
    """Return whether a stage makes a dependency or something in it."""
    place = Path(dependency.fs_path)
    made = [Path(out.fs_path) for out in stage.outs]
    return any(out == place or place in out.parents or out in place.parents for out in made)


def _changes(dependency: "Dependency", values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between a dependency and what `dvc.lock` says of it; `values`: those of params.yaml."""
    from dvc.dependency.param import ParamsDependency

    from pipeline.recipes.recipes import value_differences

    if isinstance(dependency, ParamsDependency):  # which would read the file once per stage
        recorded = dependency.hash_info.value or {}
        before = {key: recorded[key] for key in dependency.params if key in recorded}
        now = {key: value for key in dependency.params for value in _value(values, key)}
        for key, old, new in value_differences(before, now, ""):
            yield f"params {key} {_short(old)} -> {_short(new)}"
    elif status := dependency.status():
        yield f"{dependency} {'is gone' if 'deleted' in status.values() else 'changed'}"


def _value(values: Mapping[str, Any], key: str) -> list[Any]:
    """Return the value of a dotted key, nothing where there is none."""
    try:
        return [reduce(getitem, key.split("."), values)]
    except (LookupError, TypeError):
        return []


def _short(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARACTERS else f"{value[: _SHOWN_CHARACTERS - 3]}..."


def _state_of_outputs(stage: "Stage", is_recorded: bool, is_stale: bool) -> tuple[str, list[str]]:
    """Return the state of a stage by its outputs, and what is wrong with them."""
    outs: list[Output] = stage.outs
    absent = [str(out) for out in outs if not out.exists]
    if absent:
        if is_recorded and not is_stale and not any(out.changed_cache() for out in outs):
            return "in cache", []
        is_lost = is_recorded and not is_stale
        return "missing", [f"{absent[0]} is neither here nor in DVC's cache"] if is_lost else []
    if changed := [str(out) for out in outs if not out.hash_info or out.changed_checksum()]:
        return "by hand", [f"{changed[0]} is not what DVC knows"] if is_recorded else ["not made by `dvc repro`"]
    if is_stale:
        return "stale", []
    return ("uncached", [_UNCACHED]) if any(out.changed_cache() for out in outs) else ("done", [])
