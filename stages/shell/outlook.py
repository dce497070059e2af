"""What is known of a whole run: how stages stand, what runs, what `dvc repro` would do, and the command to type next.

The one idea: a command is advised only where it loses nothing. `dvc commit -f` is, where the files that a stage runs
are those its report was made with, where its outputs are younger than all it depends on, and for imported weights.

Checked by: tests/stages/test_status.py.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.shell.durations import REPORTS, StageName, expected_seconds, last_report, parse_name
from stages.shell.dvc_reading import Pipeline, dvc_pipeline
from stages.shell.interrupted import Snapshot, interrupted
from stages.shell.running import running_stages
from stages.shell.standing import SETTLED, Standing, file_standings

if TYPE_CHECKING:
    from pipeline.base.config import Params


class Outlook(NamedTuple):
    """What `fairway status` shows, besides results."""

    standings: list[Standing]
    note: str | None
    """Why DVC cannot say more, where it cannot."""
    running: dict[str, Mapping[str, Any]]
    """Stage -> what it reports of itself, empty for one that reports nothing yet."""
    interrupted: dict[str, Snapshot]
    """Training stage that was stopped -> what it left."""
    queue: dict[str, int]
    """State -> experiments of DVC's queue in it: running, queued, failed."""
    seconds: dict[str, float | None]
    """Stage that runs or that `dvc repro` would run -> seconds to expect, None where nothing says so."""
    command: str
    """To type next."""
    why: str


def look(params: "Params") -> Outlook:
    """Return what is known of the run in this folder; ValueError for a report that is damaged."""
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    reported: dict[str, Mapping[str, Any]] = {
        StageName(each["stage"], each["seed"], each["item"]).name: each for each in running_stages()
    }
    note, remedy = None, ""
    try:
        pipeline = dvc_pipeline(reported)
    except (DvcException, SCMError) as error:
        pipeline = Pipeline(file_standings(params, reported), {}, False, {})
        note, remedy = " ".join(str(error).split()), _repository_remedy()
    running = {place.name: reported.get(place.name, {}) for place in pipeline.standings if place.state == "running"}
    running |= reported
    ahead = [place.name for place in pipeline.standings if place.state not in SETTLED]
    seconds = expected_seconds(ahead, params)
    left = {name: each["seconds_left"] for name, each in reported.items() if name in seconds}
    seconds |= {name: value for name, value in left.items() if value is not None}
    advice = (remedy, "DVC then says what is out of date") if note else _advice(pipeline, list(running))
    return Outlook(pipeline.standings, note, running, interrupted(params, running), pipeline.queue, seconds, *advice)


def _repository_remedy() -> str:
    """Return what makes a DVC repository of this folder, or shows what is wrong with the one that is here."""
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        return "git init"
    return "dvc status" if Path(".dvc").is_dir() else "dvc init"


def _advice(pipeline: Pipeline, running: Sequence[str]) -> tuple[str, str]:
    """Return the command to type next, and why."""
    places = pipeline.standings
    if running:
        goes_on = "; `dvc repro` goes on by itself" if pipeline.at_work else ""
        return "fairway status", f"when {' and '.join(running)} is further{goes_on}"
    if kept := [place.name for place in places if place.code_only and is_imported(place.name)]:
        return _commit(kept), "keeps the imported checkpoint, which no code made; `dvc repro` would train"
    if same := [place.name for place in places if place.code_only and _runs_the_same_code(place.name)]:
        return _commit(same), "the code changed in files that these do not run"
    if uncached := [place.name for place in places if place.state == "uncached"]:
        return _commit(uncached), "puts the outputs into DVC's cache; `dvc repro` would make them again"
    if by_hand := [place for place in places if place.state == "by hand"]:
        return _advice_by_hand(by_hand)
    if all(place.state in SETTLED for place in places):
        if any(place.state == "in cache" for place in places):
            return "dvc checkout", "brings the outputs back from the cache"
        return "fairway report", "nothing to do: every stage is done"
    if pipeline.has_remote and any("neither here" in reason for place in places for reason in place.reasons):
        return "dvc pull", "brings the outputs from the remote"
    if lost := [place.name for place in places if place.state == "stale" and is_imported(place.name)]:
        return "dvc repro", f"trains {lost[0]} in the place of the imported checkpoint; or `fairway import` again"
    return "dvc repro", ""


def _advice_by_hand(places: Sequence[Standing]) -> tuple[str, str]:
    """Return what to do with outputs that DVC does not know."""
    if newest := [place.name for place in places if place.is_newest]:
        return _commit(newest), "keeps what was made by hand, after the last change of what it depends on"
    return "dvc repro", f"makes again what was made by hand; `dvc commit -f {places[0].name}` would keep it"


def _commit(names: Sequence[str]) -> str:
    return f"dvc commit -f {' '.join(names)}"


def is_imported(name: str) -> bool:
    """Return whether a stage's outputs are an imported checkpoint."""
    return parse_name(name).command == "train" and bool(last_report(name).get("imported"))


def _runs_the_same_code(name: str) -> bool:
    """Return whether a stage's report was made by exactly the files that the stage would run now."""
    command = parse_name(name).command
    made_by = last_report(name).get("provenance", {}).get("code_sha256")
    return command in REPORTS and made_by == _code_digest(command)


@cache
def _code_digest(command: str) -> str:
    from pipeline.base.artifacts import provenance
    from stages.shell.console import ROOT

    return provenance(command, ROOT, {}, [])["code_sha256"]
