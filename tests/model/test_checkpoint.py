"""Models on disk: what was saved comes back, what does not fit is refused in one line."""

import dataclasses
import functools
import operator
from pathlib import Path

import pytest
import torch

from pipeline.base.artifacts import save_tensors
from pipeline.base.config import load_params
from pipeline.codec.container import ArtifactError, write_artifact
from pipeline.codec.foreign import load_artifact_model
from pipeline.model.checkpoint import load_checkpoint, save_checkpoint
from pipeline.model.config import ModelConfig
from pipeline.model.network import build
from tests.networks import changed


@pytest.fixture
def config(repo: Path) -> ModelConfig:
    """Return the demo's model config at toy width."""
    model = load_params(repo / "params.yaml", ["model"]).model
    return changed(
        model,
        {
            "model_dim": 32,
            "embedding_dim": 32,
            "attention.num_heads": 2,
            "attention.num_kv_heads": 1,
            "rope.dims": 8,
            "vocab_size": 64,
        },
    )


def test_a_checkpoint_comes_back_bit_for_bit_with_its_config(tmp_path: Path, config: ModelConfig):
    model = build(config, 5)
    save_checkpoint(tmp_path / "c", model, config, {"seed": 5})
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_weights_that_do_not_fit_their_config_are_one_line(tmp_path: Path, config: ModelConfig):
    larger = dataclasses.replace(config, vocab_size=65)
    save_tensors(tmp_path / "c", build(config).state_dict(), {"model": dataclasses.asdict(larger)})
    with pytest.raises(ValueError, match="weights do not fit the model config inside") as caught:
        load_checkpoint(tmp_path / "c")
    assert "token_embedding.weight" in str(caught.value)


def test_an_artifact_that_does_not_fit_its_config_is_an_artifact_error(tmp_path: Path, config: ModelConfig):
    state = {name: tensor.half().numpy() for name, tensor in build(config).state_dict().items()}
    write_artifact(tmp_path / "a", state, {"model": dataclasses.asdict(config)})
    assert load_artifact_model(tmp_path / "a")[0].config == config
    write_artifact(tmp_path / "a", state, {"model": dataclasses.asdict(dataclasses.replace(config, model_dim=64))})
    with pytest.raises(ArtifactError, match="does not fit the model config inside"):
        load_artifact_model(tmp_path / "a")
    write_artifact(tmp_path / "a", state, {})
    with pytest.raises(ArtifactError, match="a mapping of keys"):
        load_artifact_model(tmp_path / "a")


@pytest.mark.parametrize(
    "damage",
    [
        lambda weight: weight.fill_(float("nan")),
        lambda weight: weight.to(torch.int8),
        lambda weight: torch.full_like(weight, 1e30),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight > 0,
    ],
)
def test_a_tensor_that_is_no_finite_float_is_named(tmp_path: Path, config: ModelConfig, damage):
    state = build(config).state_dict()
    state["bigram.table.weight"] = damage(state["bigram.table.weight"])
    save_tensors(tmp_path / "c", state, {"model": dataclasses.asdict(config)})
    with pytest.raises(ValueError, match=r"c: bigram\.table\.weight: got .*, expected") as caught:
        load_checkpoint(tmp_path / "c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp.mult": 1e12},
        {"conditioners.flow_dim": 10**13},
        {"schedule.looped_blocks": 10**7},
        {"bigram.buckets": 2**62},
        {"unread": {"x": [2**40, 2**40]}},
    ],
)
def test_sizes_are_compared_before_anything_is_built(tmp_path: Path, config: ModelConfig, changes: dict):
    state, large = build(config).state_dict(), dataclasses.asdict(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        functools.reduce(operator.getitem, path, large)[last] = value
    save_tensors(tmp_path / "c", state, {"model": large})
    write_artifact(tmp_path / "a", {name: tensor.half().numpy() for name, tensor in state.items()}, {"model": large})
    with pytest.raises(ValueError, match=str(tmp_path / "c")) as caught:
        load_checkpoint(tmp_path / "c")
    assert len(str(caught.value)) < 1000
    with pytest.raises(ArtifactError, match=str(tmp_path / "a")) as caught:
        load_artifact_model(tmp_path / "a")
    assert len(str(caught.value)) < 1000
