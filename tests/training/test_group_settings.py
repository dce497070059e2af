"""Settings per group of parameters and per block: what the optimizers of a network are given, and what they do."""

from dataclasses import replace

import pytest
import torch

from pipeline.base.ranks import ALONE
from pipeline.model.network import LoopedUNet
from pipeline.optim.config import BlockRates, GroupBeta, GroupDecay, MomentumCycle, SparseEmaConfig
from pipeline.optim.lr_schedule import cyclic_momentum_at
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.regime import Regime, settings_at
from tests.networks import TINY, randomised
from tests.training.tiny_run import train_config

FACTORS = (1.0, 0.5, 1.0, 2.0, 0.5, 1.0)


def step_of(model: LoopedUNet, **settings) -> OptimizerStep:
    """Return the optimizers of a network at the start of training, at their peak rates."""
    config = train_config(**settings)
    step = OptimizerStep(model, config, ALONE)
    step.set_schedule(settings_at(config, 0, 0.0)._replace(lr_scale=1.0))
    return step


def test_every_group_has_its_decay_and_its_betas():
    adamw, muon = step_of(
        randomised(TINY),
        weight_decay=GroupDecay(matrix=0.3, embedding=0.2, scalar=0.1),
        adam_beta1=GroupBeta(embedding=0.8, scalar=0.7),
        adam_beta2=GroupBeta(embedding=0.99, scalar=0.98),
    ).optimizers
    tables, controls = adamw.param_groups
    assert (tables["weight_decay"], tables["betas"]) == (0.2, (0.8, 0.99))
    assert (controls["weight_decay"], controls["betas"]) == (0.1, (0.7, 0.98))
    assert [group["weight_decay"] for group in muon.param_groups] == [0.3]


def test_equal_values_per_group_are_those_of_one_number_but_for_the_decay_of_scalars():
    ones, groups = (
        step_of(randomised(TINY), **settings).optimizers
        for settings in (
            {},
            {
                "weight_decay": GroupDecay(matrix=0.04, embedding=0.04, scalar=0.0),
                "adam_beta1": GroupBeta(embedding=0.9, scalar=0.9),
                "adam_beta2": GroupBeta(embedding=0.95, scalar=0.95),
                "matrix_lr": BlockRates(peak=0.03, block_factors=(1.0,) * 6),
            },
        )
    )
    for one, other in zip(ones, groups, strict=True):
        for a, b in zip(one.param_groups, other.param_groups, strict=True):
            assert {k: v for k, v in a.items() if k != "params"} == {k: v for k, v in b.items() if k != "params"}
            assert [p.shape for p in a["params"]] == [p.shape for p in b["params"]]


def test_a_block_moves_as_far_as_its_factor_says():
    """Muon's steps have a length of their own: with equal gradients only the rate differs."""
    moved = {}
    for factors in ((1.0,) * 6, FACTORS):
        model = randomised(TINY)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        settings = {"matrix_lr": BlockRates(peak=0.02, block_factors=factors), "weight_decay": 0.0}
        step_of(model, **settings).update(torch.tensor(1.0))
        moved[factors] = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for name, plain in moved[(1.0,) * 6].items():
        parts = name.split(".")
        is_matrix = parts[0] == "blocks" and parts[-1] == "weight"
        factor = FACTORS[int(parts[1])] if is_matrix else 1.0
        assert torch.allclose(moved[FACTORS][name], factor * plain, rtol=1e-3, atol=1e-6), name


def test_a_factor_is_missing():
    with pytest.raises(ValueError, match=r"train.matrix_lr.block_factors: got \[1.0\], expected 6 numbers"):
        step_of(randomised(TINY), matrix_lr=BlockRates(peak=0.02, block_factors=(1.0,)))


def test_momentum_goes_up_and_down():
    cycle = [cyclic_momentum_at(step, low=0.85, high=0.95, cycle_steps=50) for step in range(101)]
    assert cycle[0] == cycle[50] == cycle[100] == 0.85
    assert [cycle[25], cycle[75]] == pytest.approx([0.95, 0.95])
    assert [cycle[10], cycle[40]] == pytest.approx([0.89, 0.89])
    config = train_config(
        muon_momentum=0.95, muon_momentum_start=0.85, muon_momentum_warmup_steps=MomentumCycle(cycle_steps=50)
    )
    assert [settings_at(config, step, 0.0).momentum for step in range(5)] == cycle[:5]


def test_an_average_of_every_nth_step():
    config = replace(
        train_config(max_steps=10), average=SparseEmaConfig(kind="ema", decay=0.9, from_frac=0.3, every_steps=3)
    )
    assert [step for step in range(10) if settings_at(config, step, 0.0).is_averaged] == [5, 8]
    average = Regime(randomised(TINY), config, 0).average
    assert average is not None
    assert average.decay == pytest.approx(0.9**3), "the decay of three steps"
