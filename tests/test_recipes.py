"""Every recipe loads, counts as published, trains a step at reduced width, and is drawn as the document shows it."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.base.config import SECTIONS, load_params, parse_value
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet
from pipeline.recipes.recipes import description, recipe_names, recipe_path, section_values, with_section
from pipeline.reports.visit_picture import visit_picture
from tests.networks import roused

REPO = Path(__file__).resolve().parent.parent
RECIPES = REPO / "recipes"
NAMES = recipe_names(RECIPES)
PUBLISHED = {
    "nightcrawler-7f3c": 29_415_508,
    "microcrawler-4f1c": 14_462_508,
    "bwx-9f1c": 26_270_292,
    "ouroboros-9f1c": 26_253_908,
}


def model_config(name: str) -> ModelConfig:
    """Return section `model` of a recipe."""
    return load_params(RECIPES / f"{name}.yaml", ["model"]).model


def num_parameters(config: ModelConfig) -> int:
    """Return the count that publications state."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LoopedUNet(config).parameters())


def reduced(name: str) -> ModelConfig:
    """Return a recipe's network with heads of width 8 and small tables; context and everything else as it is."""
    values = section_values(RECIPES / f"{name}.yaml", "model")
    width = 8 * values["attention"]["num_heads"]
    values.update(vocab_size=64, model_dim=width, embedding_dim=width, unread={})
    values["rope"].update(dims=4, frequency_dims=8 if values["rope"]["frequency_dims"] else None)
    for part in ("bigram", "value_embedding"):
        if values[part]:
            values[part]["dim"] = 8
    if values["bigram"]:
        values["bigram"]["buckets"] = 32
    if values["conditioners"]["flow_dim"]:
        values["conditioners"]["flow_dim"] = 4
    if "bridge_dim" in values["schedule"]:
        values["schedule"]["bridge_dim"] = 4
    return parse_value(ModelConfig, values, "model")


def test_there_is_a_recipe_for_every_published_system():
    assert set(NAMES) == {
        *PUBLISHED,
        "helix",
        "frugendorff-6x2",
        "crawler-3f2c",
        "universal-4b7l",
        "sp8192-loop3",
        "parallel-lanes",
        "frontier",
        "fairway-16mb",
        "single-h100",
        "poscond-bigram",
        "demo",
        "tiny",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_section_loads_and_belongs_together(name: str):
    params = load_params(RECIPES / f"{name}.yaml", SECTIONS)
    assert params.model.vocab_size == params.data.vocab_size
    assert params.budget.limit_bytes <= 16_000_000
    unit = params.model.context_tokens * params.launch.num_processes
    assert params.train.batch_tokens % unit == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts_are_exact(name: str):
    assert num_parameters(model_config(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_the_description_states_the_count(name: str):
    stated = re.search(r"([\d,]+) parameters", description(recipe_path(RECIPES, name)))
    assert stated is not None
    assert int(stated[1].replace(",", "")) == num_parameters(model_config(name))


def test_the_demo_is_the_shipped_configuration():
    assert (RECIPES / "demo.yaml").read_bytes() == (REPO / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_a_comment_as_in_the_shipped_configuration(name: str):
    commented = _commented_keys(REPO / "params.yaml")
    kept = _commented_keys(RECIPES / f"{name}.yaml")
    present = _keys(RECIPES / f"{name}.yaml")
    assert commented & present <= kept


def _keys(path: Path) -> set[str]:
    return set(re.findall(r"^ *(\w+):", path.read_text(), re.M))


def _commented_keys(path: Path) -> set[str]:
    return set(re.findall(r"^ *(\w+):[^#\n]*#", path.read_text(), re.M))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_forward_and_backward_at_reduced_width(name: str):
    model = roused(reduced(name), 1, 1)
    ids_BT = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(2))
    logits_BTV = model(ids_BT[:, :-1])
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    loss.backward()
    assert torch.isfinite(loss)
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_later_tokens_and_other_sequences_change_no_bit(name: str):
    model = roused(reduced(name), 1, 1)
    ids_BT = random_ids(3, 32)
    logits_BTV = model(ids_BT)
    later_BT = ids_BT.clone()
    later_BT[:, 20:] = (later_BT[:, 20:] + 1) % 64
    assert torch.equal(model(later_BT)[:, :20], logits_BTV[:, :20])
    assert not torch.equal(model(later_BT)[:, 20:], logits_BTV[:, 20:])
    others_BT = ids_BT.flip(1)
    others_BT[1] = ids_BT[1]
    assert torch.equal(model(others_BT)[1], logits_BTV[1])
    assert not torch.equal(model(others_BT)[2], logits_BTV[2])


ROUNDING = 1e-12
"""Other shapes add up in another order: what float64 leaves of that in final states of size one, with room."""


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_batch_size_padding_and_truncation_change_nothing_but_rounding(name: str):
    model = roused(reduced(name), 1, 1).double()
    ids_BT = random_ids(3, 40)
    alone_BTD = model.hidden(ids_BT[1:2])
    assert (model.hidden(ids_BT)[1:2] - alone_BTD).abs().max() < ROUNDING
    assert (model.hidden(ids_BT[1:2, :25]) - alone_BTD[:, :25]).abs().max() < ROUNDING
    assert padding_moves(model, ids_BT[1:2], 24) < ROUNDING
    assert padding_moves(model, ids_BT[1:2], 1060) < ROUNDING


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_scored_positions_have_the_nats_of_the_full_path(name: str):
    """In float32, every recipe's architecture: one millionth of a nat per target."""
    model, ids_BT = roused(reduced(name), 1, 1), random_ids(3, 97)
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, -16:]
    nats_BT = model.nats(model.hidden(inputs_BT, 16), targets_BT)
    assert (nats_BT - model.nats(model.hidden(inputs_BT)[:, -16:], targets_BT)).abs().max() < 1e-6
    from_logits = F.cross_entropy(model(inputs_BT)[:, -16:].flatten(0, 1), targets_BT.flatten(), reduction="none")
    assert (nats_BT.flatten() - from_logits).abs().max() < 2e-6  # another kernel: the last two bits of 8 nats


@pytest.mark.parametrize("name", [name for name in NAMES if model_config(name).rope.base_tokens is not None])
@torch.no_grad()
def test_a_rotary_base_that_follows_the_tensor_would_be_noticed(name: str):
    model = roused(reduced(name), 1, 1).double()
    model.rotary.base_tokens = 32
    model.set_context(32)
    ids_BT = random_ids(1, 30)
    assert padding_moves(model, ids_BT, 30) < ROUNDING
    model.rotary.register_forward_pre_hook(lambda rotary, args: rotary.set_context(args[0]))
    assert padding_moves(model, ids_BT, 30) > 1e-3


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(3))


def padding_moves(model: LoopedUNet, ids_BT: torch.Tensor, num_tokens: int) -> float:
    """Return how far tokens appended on the right move the final states before them."""
    padded_BTD = model.hidden(F.pad(ids_BT, (0, num_tokens)))
    return (padded_BTD[:, : ids_BT.size(1)] - model.hidden(ids_BT)).abs().max().item()


@pytest.mark.parametrize("name", NAMES)
def test_the_document_shows_the_picture_of_every_recipe(name: str):
    shown = re.search(rf"^### {name}\n.*?```text\n(.*?)```", (REPO / "docs/architectures.md").read_text(), re.S | re.M)
    assert shown is not None, f"docs/architectures.md has no picture of {name}: fairway recipe show --visits {name}"
    assert shown[1] == visit_picture(model_config(name)), f"paste the output of: fairway recipe show --visits {name}"


def test_lanes_join_the_last_encoder_output_to_the_first_decoder_block():
    rows = visit_picture(model_config("nightcrawler-7f3c")).splitlines()
    row_of = {row.split()[1]: row for row in rows if row.startswith(("encoder", "decoder"))}
    for opens, closes in (("u2", "u3"), ("u1", "u4"), ("u0", "u5")):
        assert row_of[opens].index(".") == row_of[closes].index("'")
    assert not {".", "'", "|"} & set(row_of["u6"])


@pytest.mark.parametrize("before", ["demo", "crawler-3f2c", "frontier"])
@pytest.mark.parametrize("name", NAMES)
def test_a_section_is_written_in_place(name: str, before: str, tmp_path: Path):
    text = (RECIPES / f"{before}.yaml").read_text().replace("dims: 16 ", "dims:\n      16")
    values = section_values(RECIPES / f"{name}.yaml", "model")
    written = with_section(text, "model", values)
    assert written.partition("\nmodel:")[0] == text.partition("\nmodel:")[0]
    assert written.partition("\ntrain:")[2] == text.partition("\ntrain:")[2]
    assert "# width of the residual stream" in written
    (tmp_path / "params.yaml").write_text(written)
    assert load_params(tmp_path / "params.yaml", ["model"]).model == model_config(name)


def test_a_section_that_is_no_block_is_refused():
    with pytest.raises(ValueError, match="no such section"):
        with_section("model: {vocab_size: 3}\n", "model", {})
