"""The second family of the quantization benchmark: its recipe, its way through the import, and what is measured."""

import numpy as np
import pytest
import torch

from benchmarks.quantization import data as quantization_data
from benchmarks.quantization import second_checkpoint
from benchmarks.quantization.data import FAMILIES, load_material
from benchmarks.quantization.second_checkpoint import RECIPE, load_recipe, run, training_tokens, write
from pipeline.interop.adopt import read_community
from pipeline.model.network import build

SHARED_PARAMETERS = 4_069_143


@pytest.fixture
def tiny_recipe(tmp_path):
    """Return the recipe as a file, its network and its run made tiny."""
    changes = {
        "max_steps: 600": "max_steps: 4",
        "batch_tokens: 4096": "batch_tokens: 64",
        "\n  warmup_steps: 10\n": "\n  warmup_steps: 0\n",
        "micro_batch_sequences: 4": "micro_batch_sequences: null",
        "compile: true": "compile: false",
        "model_dim: 256": "model_dim: 32",
        "embedding_dim: 256": "embedding_dim: 32",
        "rope_dims: 16": "rope_dims: 4",
        "vocab_size: 1024": "vocab_size: 64",
        "train_sequence_tokens: 512": "train_sequence_tokens: 16",
        "train_seq_len: 512": "train_seq_len: 16",
    }
    text = RECIPE.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return path


def test_the_recipe_is_a_looped_unet_of_the_shared_checkpoints_size():
    recipe = load_recipe(RECIPE)
    with torch.device("meta"):
        model = build(recipe.translation.config)
    assert recipe.stated["layout"] == "looped-unet"
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(SHARED_PARAMETERS, rel=0.1)
    assert (recipe.translation.config.model_dim, recipe.translation.config.vocab_size) == (256, 1024)
    assert recipe.translation.config.context_tokens == 512
    assert len(model.schedule.looped) == 2
    assert model.schedule.effective_depth == 10


def test_a_recipe_is_read_strictly(tiny_recipe):
    text = tiny_recipe.read_text()
    for old, new, said in (
        ("matrix_lr:", "matrix_rate:", "train.matrix_rate: unknown key"),
        ("num_layers:", "layers:", "layers: got 6, expected no such argument"),
        ("seed: 444", "seed: 444\nseeds: [1]", "expected the keys"),
        ("layout: looped-unet", "layout: looped", "layout: got 'looped'"),
    ):
        tiny_recipe.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
            load_recipe(tiny_recipe)
        assert said in str(error.value)


def test_what_was_trained_comes_back_through_the_import(tiny_recipe, tmp_path):
    recipe = load_recipe(tiny_recipe)
    tokens_M = np.random.default_rng(0).integers(0, 64, 2000).astype(np.uint16)
    model, result = run(recipe, tokens_M, tmp_path / "state", lambda _line: None)
    assert result.last["step"] == 4
    assert not (tmp_path / "state").exists()
    write(tmp_path / "second.safetensors", recipe, model, result)
    community = read_community(tmp_path / "second.safetensors", "looped-unet", tmp_path / "second.json", False, print)
    assert community.config == recipe.translation.config
    imported = build(community.config)
    imported.load_state_dict(community.state)
    ids_BT = torch.arange(32).reshape(2, 16)
    assert torch.equal(imported.eval()(ids_BT), model(ids_BT))
    assert not torch.equal(imported(ids_BT), build(community.config, recipe.seed).eval()(ids_BT))


def test_held_out_documents_are_refused_as_training_text(shared, monkeypatch):
    trained, held_out = quantization_data.read_sample(shared / "data")
    assert (len(trained), len(held_out)) == (160, 40)
    monkeypatch.setattr(second_checkpoint, "fetch_wheel", lambda *_: None)
    monkeypatch.setattr(
        "benchmarks.quantization.second_checkpoint.read_wheel_documents", lambda *_: iter([held_out[3] + "\n"])
    )
    with pytest.raises(ValueError, match="documents: got 'a held-out document'"):
        training_tokens(shared / "data", shared)


def test_a_missing_checkpoint_is_one_line_that_says_what_makes_it(tmp_path, monkeypatch):
    second = FAMILIES["looped-unet"]._replace(checkpoint=tmp_path / "none.safetensors")
    monkeypatch.setitem(quantization_data.FAMILIES, "looped-unet", second)
    for family, remedy in (
        ("looped-unet", "python -m benchmarks.quantization.second_checkpoint"),
        ("crawler", "a file of DATA"),
    ):
        with pytest.raises(ValueError, match=rf"^checkpoint: got '{tmp_path}[^\n]*{remedy}[^\n]*$"):
            load_material(tmp_path, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_material_of_both_families(family, shared):
    if not (shared / "data" / FAMILIES[family].checkpoint).is_file():
        pytest.skip(f"checkpoint absent: {FAMILIES[family].remedy}")
    material = load_material(shared / "data", family)
    assert material.family == family
    assert len(material.scored.bytes_N) == 100_568
    assert [tuple(draw.shape) for draw in material.draws] == [(128, 512)] * 2
    with torch.no_grad():
        nats = float(material.model(material.draws[0][:2, :-1], material.draws[0][:2, 1:]))
    assert nats < 0.7 * np.log(1024)
