"""A FineWeb recipe's data section as it ships, but for the hub's address: through the walls of every stage."""

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.base.artifacts import ROOT
from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.launching.firewall import SEALED, Walls
from pipeline.recipes.recipes import with_section
from tests.corpus.hub_stand_in import HubStandIn
from tests.corpus.test_fineweb import export_documents
from tests.stages.conftest import REPO, make_project

RECIPES = {path.stem: YAML(typ="safe").load(path.read_text()) for path in sorted((REPO / "recipes").glob("*.yaml"))}
FINEWEB = {name: recipe["data"] for name, recipe in RECIPES.items() if recipe["data"]["source"] == "fineweb"}


@pytest.fixture
def course(tmp_path: Path, programs: str):
    """Return a project with a FineWeb recipe's data section, and the running hub that serves what it asks for."""
    data = FINEWEB["nightcrawler-7f3c"]
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice([*"etaoinshrdlucm"], rng.integers(2, 9))) for _ in range(1500)]
    documents = [" ".join(rng.choice(words, rng.integers(60, 90))) for _ in range(500)]
    export = export_documents(tmp_path, train_tokenizer(documents, 1024), documents, shard_tokens=600)
    assert export.num_shards["train"] >= data["fineweb"]["train_shards"] == 80
    with HubStandIn(export.files, data["fineweb"]["repository"]).serving() as hub:
        project = make_project(tmp_path / "project", programs)
        fineweb = {**data["fineweb"], "endpoint": hub.endpoint}
        params = project.root / "params.yaml"
        params.write_text(with_section(params.read_text(), "data", {**data, "fineweb": fineweb}))
        project.edit(model={"vocab_size": 1024})
        yield project, hub


def test_every_model_is_made_and_scored(course) -> None:
    project, _ = course
    ran = project.repro("evaluate@1-blocks", "evaluate-float@1")
    assert {name.split("@")[0] for name in ran} == {
        "prepare",
        "train",
        "calibrate",
        "quantize",
        "evaluate",
        "evaluate-float",
    }
    assert len((project.root / ROOT / "data/train/train_shards.txt").read_text().split()) == 80


@pytest.mark.slow
def test_the_record_is_packaged_and_audited(course) -> None:
    project, hub = course
    project.repro()
    assert (project.root / ROOT / "submission/audit.json").exists()
    hub.requests.clear()
    assert project.repro() == []
    assert hub.requests == []


@pytest.mark.parametrize("name", FINEWEB)
@pytest.mark.parametrize("stage", SEALED)
def test_shards_where_a_recipe_keeps_them_are_open_to_their_own_split_only(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(FINEWEB[name]["fineweb"]["folder"])
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        shard, listing = folder / f"fineweb_{split}_000000.bin", ROOT / f"data/{split}/{split}_shards.txt"
        shard.write_bytes(b"tokens")
        listing.parent.mkdir(parents=True)
        listing.write_text(f"{shard.resolve()}\n")
    walls = Walls(stage, SEALED[stage], network=False)
    own = "val" if stage == "evaluate" else "train"
    sealed = [split for split in ("train", "val") if walls.is_sealed(folder / f"fineweb_{split}_000000.bin")]
    assert sealed == [split for split in ("train", "val") if split != own]
