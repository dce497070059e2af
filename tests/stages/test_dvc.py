"""dvc.yaml against the code: a stage depends on the rooms that it runs, its outs equal the table of artifacts."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.base.artifacts import TABLE, path_of
from pipeline.base.closure import APART, import_closure, loaded_sections, stage_closure

REPO = Path(__file__).resolve().parent.parent.parent
STAGES = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())["stages"]
COMMAND_OF = {name: ("evaluate" if name == "evaluate-float" else name) for name in STAGES}


CODE = {name: {dep for dep in stage["deps"] if not dep.startswith("artifacts/")} for name, stage in STAGES.items()}


def rooms_of(files: Iterable[Path]) -> set[str]:
    """Return the folders of the library that files lie in, and those that are commands themselves."""
    places = [path.relative_to(REPO) for path in files]
    return {"/".join(place.parts[:2]) for place in places if len(place.parts) > 2 or place.name != "__init__.py"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_command_and_on_the_rooms_that_it_runs(name: str):
    if name == "metrics":  # its figures are others' results and values of params.yaml, whose classes only check them
        files = import_closure("stages.metrics", REPO, set(APART) - {"pipeline.reports"})
        assert CODE[name] == rooms_of(files)
        return
    rooms = rooms_of(stage_closure(COMMAND_OF[name], REPO, APART))
    if name == "package":
        rooms |= rooms_of(import_closure("pipeline.record.program", REPO))
    if name == "audit":
        rooms.add("pipeline/launching")  # which runs the record within walls: its verdicts rest on them
    assert CODE[name] == rooms
    assert {dep for dep in CODE[name] if dep.endswith(".py")} == {f"stages/{COMMAND_OF[name]}.py"}


def test_dependencies_are_few():
    assert len((REPO / "dvc.yaml").read_text().splitlines()) < 220
    assert "__pycache__/" in (REPO / ".dvcignore").read_text()  # part of no room


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_describes_itself_and_lists_the_sections_it_loads(name: str):
    assert STAGES[name]["desc"].endswith(".")
    assert {param.split(".")[0] for param in STAGES[name].get("params", [])} == set(
        loaded_sections(COMMAND_OF[name], REPO)
    )


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_the_code_of_its_own_checkout(name: str):
    # The console script imports the installed checkout, which in a second worktree or an experiment is another one.
    assert STAGES[name]["cmd"].startswith(f"python -m stages.cli {COMMAND_OF[name]}")


def test_outs_are_the_table_of_artifacts():
    outs: dict[str, str] = {}
    for name, stage in STAGES.items():
        plots = [next(iter(plot)) for plot in stage.get("plots", [])]
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *plots]:
            plain = out.replace("${item.seed}", "SEED").replace("${item.protocol}", "ITEM").replace("-float.", "-ITEM.")
            outs[plain] = COMMAND_OF[name]
    table = {str(path_of(key, seed="SEED", item="ITEM")): row.writer for key, row in TABLE.items()}
    assert outs == table


def test_scoring_code_never_requantizes_and_no_later_or_outer_room_retrains():
    assert CODE["quantize"].isdisjoint({"pipeline/scoring", "pipeline/record", "pipeline/data"})
    assert CODE["calibrate"].isdisjoint({"pipeline/scoring", "pipeline/record"})
    later = ("quant", "codec", "calibration", "scoring", "record", "launching", "reports")
    assert CODE["train"].isdisjoint({"stages/shell", *(f"pipeline/{room}" for room in later)})
    assert CODE["prepare"].isdisjoint({"pipeline/model", "pipeline/training"})
