"""dvc.yaml against the code: file-level dependencies equal the import closure, outs equal the table of artifacts."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import TABLE, path_of
from pipeline.closure import loaded_sections, stage_closure

REPO = Path(__file__).resolve().parent.parent.parent
STAGES = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())["stages"]
COMMAND_OF = {name: ("evaluate" if name == "evaluate-float" else name) for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_code_dependencies_are_the_import_closure(name: str):
    listed = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    closure = {str(p.relative_to(REPO)) for p in stage_closure(COMMAND_OF[name], REPO)}
    assert closure - listed == set(), f"dvc.yaml stage {name} misses code it runs"
    assert listed - closure == set(), f"dvc.yaml stage {name} lists code it does not run"


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_depends_on_a_whole_package(name: str):
    folders = [d for d in STAGES[name]["deps"] if not d.startswith("artifacts/") and not d.endswith(".py")]
    assert folders == []


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
        for out in [*stage["outs"], *stage.get("metrics", []), *plots]:
            plain = out.replace("${item.seed}", "SEED").replace("${item.protocol}", "ITEM").replace("-float.", "-ITEM.")
            outs[plain] = COMMAND_OF[name]
    table = {str(path_of(key, seed="SEED", item="ITEM")): row.writer for key, row in TABLE.items()}
    assert outs == table


def test_scoring_code_never_requantizes_and_quantizer_code_never_retrains():
    deps = {name: set(stage["deps"]) for name, stage in STAGES.items()}
    assert not any(d.startswith("pipeline/scoring/") for d in deps["quantize"] | deps["calibrate"] | deps["train"])
    assert not any(d.startswith(("pipeline/quant/", "pipeline/codec/")) for d in deps["train"] | deps["prepare"])
    assert not any(d.startswith(("pipeline/model/", "pipeline/training/")) for d in deps["prepare"])
