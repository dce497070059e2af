"""The record program: its digest, its seed, and what it says about bad inputs before it trains."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from pipeline.base.artifacts import params_digest, path_of, read_text
from pipeline.base.config import SECTIONS, Params, load_params
from pipeline.data.shards import write_shard
from pipeline.record.build import recipe_digest, recipe_of
from pipeline.record.flatten import flatten
from pipeline.record.program import Recipe, main
from pipeline.record.record import SeedRun
from pipeline.record.runs import check_settings, read_run
from pipeline.record.ship import minify


@pytest.fixture
def params(repo: Path) -> Params:
    return load_params(repo / "params.yaml", SECTIONS)


@pytest.fixture
def recipe(params: Params) -> Recipe:
    return dataclasses.replace(recipe_of(params), seed=1, device="cpu")


def test_the_minified_program_computes_the_digest_of_the_library(recipe, repo, capsys):
    values = {**dataclasses.asdict(recipe), "seed": 0}
    settings = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert recipe_digest(recipe) == hashlib.sha256(f"{settings} {recipe.seed}".encode()).hexdigest()
    tail = f"print(seeded_digest(settings_digest({recipe!r}), {recipe.seed}), {recipe!r})"
    exec(compile(minify(flatten("pipeline.record.program", repo, tail)), "<small>", "exec"), {"__name__": "small"})
    digest, _, shown = capsys.readouterr().out.strip().partition(" ")
    assert digest == recipe_digest(recipe)
    assert not shown.startswith("Recipe(")  # the class lost its name, the digest did not change


def tokenizer_file(folder: Path, recipe: Recipe, pieces: int) -> Path:
    words = " ".join(f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words] * 20),
        model_prefix=str(folder / "toy"),
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=5,
    )
    return folder / "toy.model"


@pytest.mark.parametrize("fault", ["no val shard", "damaged val shard", "no tokenizer", "other vocabulary", "artifact"])
def test_bad_inputs_end_in_one_line_before_training(fault, recipe, tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, vocab_size=300))
    tokenizer = tokenizer_file(tmp_path, recipe, 290 if fault == "other vocabulary" else 300)
    for split in ("train", "val"):
        write_shard(tmp_path / f"toy_{split}_0.bin", np.arange(300, dtype=np.uint16))
    val = tmp_path / "toy_val_0.bin"
    if fault == "no val shard":
        val.unlink()
    elif fault == "damaged val shard":
        val.write_bytes(val.read_bytes()[:-1])
    elif fault == "no tokenizer":
        tokenizer.unlink()
    extra = ["--evaluate-only", str(tmp_path / "absent.fwy")] if fault == "artifact" else []
    (tmp_path / "train_gpt.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--data", str(tmp_path), "--tokenizer", str(tokenizer), *extra])
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as caught:
        main(recipe, "digest")
    message = str(caught.value.code)
    words = {
        "no val shard": "no val shards",
        "damaged val shard": "truncated",
        "no tokenizer": "no such tokenizer",
        "other vocabulary": "got 290, expected 300",
        "artifact": "absent.fwy",
    }
    assert message.startswith("train_gpt.py: error: ")
    assert "\n" not in message
    assert words[fault] in message
    assert capsys.readouterr().out == ""


def test_a_wrong_option_stays_a_usage_error(recipe, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--sed", "1x"])
    with pytest.raises(SystemExit) as caught:
        main(recipe, "digest")
    assert caught.value.code == 2


def test_the_seed_of_the_command_line_replaces_the_recipes(recipe, monkeypatch):
    seen: list[Recipe] = []
    monkeypatch.setattr("pipeline.record.program._run_record", lambda recipe, *others: seen.append(recipe))
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--seed", "9"])
    main(recipe, "digest")
    assert seen == [dataclasses.replace(recipe, seed=9)]
    assert recipe_digest(seen[0]) != recipe_digest(recipe)


def reports(params: Params) -> SeedRun:
    def made_with(**sections: object) -> dict:
        return {"provenance": {"params_sha256": params_digest(sections)}}

    protocols = params.evaluate.protocols
    return SeedRun(
        seed=3,
        artifact=Path("model.fwy"),
        log="",
        train=made_with(model=params.model, train=params.train, launch=params.launch.result_settings()),
        calibrate=made_with(calibrate=params.calibrate, device=params.launch.device),
        quantize=made_with(quantize=params.quantize, budget=params.budget),
        scores={item: made_with(protocol=protocols[item]) for item in ("float", "ttt")},
    )


@pytest.mark.parametrize(
    ("section", "change", "stage"),
    [
        ("train", {"warmup_steps": 99}, "train"),
        ("calibrate", {"sweeps": 99}, "calibrate"),
        ("budget", {"tolerance_frac": 0.25}, "quantize"),
    ],
)
def test_reports_made_with_other_settings_are_refused(params, section, change, stage):
    run = reports(params)
    check_settings(run, params)
    other = Params(**{**vars(params), section: dataclasses.replace(getattr(params, section), **change)})
    with pytest.raises(ValueError, match=rf"^report of {stage}, seed 3: .*run `dvc repro`$"):
        check_settings(run, other)


def test_scores_of_another_protocol_and_reports_without_provenance_are_refused(params):
    run = reports(params)
    run.scores["ttt"] = run.scores["float"]
    with pytest.raises(ValueError, match=r"^report of evaluate, item ttt, seed 3"):
        check_settings(run, params)
    with pytest.raises(ValueError, match=r"^report of train, seed 3"):
        check_settings(dataclasses.replace(run, train={}), params)


def test_a_missing_training_log_names_its_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train_report", "calibrate_report", "quantize_report"):
        path = path_of(name, seed=3)
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    path_of("scores", seed=3, item="float").parent.mkdir(parents=True)
    path_of("scores", seed=3, item="float").write_text("{}")
    with pytest.raises(ValueError, match=r"train\.log: no such file; run `dvc repro"):
        read_run(3, "ttt")
    path_of("train_log", seed=3).write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"train\.log: not text \(a text in it is not UTF-8 at byte 0"):
        read_text(path_of("train_log", seed=3))
