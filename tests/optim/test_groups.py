"""Roles of parameters, of a module with every role and of the networks of all recipes and branches."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.base.config import load_params
from pipeline.model.network import LoopedUNet
from pipeline.optim.groups import build_adamw, parameter_groups
from pipeline.recipes.recipes import recipe_names, recipe_path
from tests.networks import ARCHITECTURES, architecture

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


class EveryRole(nn.Module):
    """A linear layer with bias, a table, a tied head, a gain, a frozen gain."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.ones(4))
        self.mix = nn.Parameter(torch.ones(2, 4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)


def test_roles() -> None:
    model = EveryRole()
    groups = parameter_groups(model)
    assert [id(p) for p in groups.matrices] == [id(model.inner.weight)], "tied matrices once"
    assert [id(p) for p in groups.tables] == [id(model.embedding.weight)], "a tied head is a table"
    assert {id(p) for p in groups.controls} == {id(model.gain), id(model.mix), id(model.inner.bias)}


def test_every_trainable_element_is_covered_once() -> None:
    model = EveryRole()
    covered = sum(p.numel() for group in parameter_groups(model) for p in group)
    assert covered == sum(p.numel() for p in model.parameters() if p.requires_grad)


def assert_every_parameter_has_the_role_of_its_owner(model: nn.Module) -> None:
    """Count elements, and tell roles from names and shapes rather than from modules."""
    groups = parameter_groups(model)
    grouped = [id(parameter) for group in groups for parameter in group]
    trainable = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(grouped) == sorted(trainable)
    assert all(parameter.ndim == 2 and trainable[id(parameter)].endswith(".weight") for parameter in groups.matrices)
    tables = {trainable[id(parameter)] for parameter in groups.tables}
    assert tables <= {"token_embedding.weight", "bigram.table.weight", "value_embedding.table.weight"}
    assert "token_embedding.weight" in tables
    controls = sum(parameter.numel() for parameter in groups.controls)
    assert controls < 0.25 * sum(parameter.numel() for parameter in groups.matrices), "a matrix that Muon misses"


@pytest.mark.parametrize("name", recipe_names(RECIPES))
def test_groups_of_every_recipe(name: str) -> None:
    """At full size: on the meta device parameters take no memory."""
    with torch.device("meta"):
        model = LoopedUNet(load_params(recipe_path(RECIPES, name), ["model"]).model)
    assert_every_parameter_has_the_role_of_its_owner(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups_of_every_branch(name: str) -> None:
    with torch.device("meta"):
        model = LoopedUNet(architecture(name))
    assert_every_parameter_has_the_role_of_its_owner(model)


def test_adamw_is_fused() -> None:
    adamw = build_adamw(parameter_groups(EveryRole()), embed_lr=0.1, scalar_lr=0.2, betas=(0.9, 0.95), weight_decay=0.5)
    assert all(group["fused"] for group in adamw.param_groups)


def test_adamw_decays_tables_only() -> None:
    """With zero gradients only weight decay moves a parameter."""
    model = EveryRole()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_adamw(parameter_groups(model), embed_lr=0.1, scalar_lr=0.2, betas=(0.9, 0.95), weight_decay=0.5).step()
    torch.testing.assert_close(model.embedding.weight, before["embedding.weight"] * 0.95)
    assert torch.equal(model.gain, before["gain"])
    assert torch.equal(model.inner.weight, before["inner.weight"]), "matrices are Muon's"


def test_adamw_agrees_with_the_formula() -> None:
    """First step of Adam: every element moves by the learning rate against the gradient's sign."""
    model = EveryRole()
    before = model.gain.detach().clone()
    model.gain.grad = torch.tensor([1.0, -2.0, 3.0, -4.0])
    build_adamw(parameter_groups(model), embed_lr=0.1, scalar_lr=0.2, betas=(0.9, 0.95), weight_decay=0.5).step()
    torch.testing.assert_close(model.gain.detach(), before - 0.2 * torch.tensor([1.0, -1.0, 1.0, -1.0]))
