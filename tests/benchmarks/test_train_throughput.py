"""The throughput benchmark at small size: it counts right, and the plain step computes what ours does."""

import pytest
import torch

from benchmarks.plain_step import PlainMuon, PlainStep
from benchmarks.results import ROOT
from benchmarks.train_throughput import cases, cpu_model, flops_per_token, measure
from pipeline.base.config import load_params
from pipeline.launching.processes import Ranks
from pipeline.model.network import LoopedUNet, build
from pipeline.optim.muon import Muon
from tests.networks import changed, random_ids, roused

SMALLER = {"model_dim": 64, "embedding_dim": 64, "vocab_size": 96, "context_tokens": 24}


def models():
    """Return the benchmark's models, small."""
    recipes = {
        name: load_params(ROOT / "recipes" / f"{name}.yaml", ["model"]).model
        for name in ("nightcrawler-7f3c", "sp8192-loop3")
    }
    return {
        "cpu": cpu_model(64, 96, 24),
        **{name: changed(config, {**SMALLER, "rope.dims": 4, "unread": {}}) for name, config in recipes.items()},
    }


@pytest.mark.parametrize("name", ["cpu", "nightcrawler-7f3c", "sp8192-loop3"])
def test_the_plain_step_has_our_loss_and_our_gradients(name):
    config = models()[name]
    model, ids_BT = roused(config, 0), random_ids(config, 2, 25)
    losses, gradients = [], []
    for loss_of in (model, PlainStep(model, torch.float32)):
        loss = loss_of(ids_BT[:, :-1], ids_BT[:, 1:])
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad(set_to_none=True)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # Other order of summation in float32, through up to seventeen visits.
    assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_the_count_is_the_stated_one():
    """39.4 million operations per token: 6 per multiply-add, causal attention at half length."""
    assert flops_per_token(build(cpu_model(256, 1024, 512))) == pytest.approx(39.4e6, rel=2e-3)


def test_both_muons_turn_a_gradient_into_the_same_step():
    """The plain one norms in bfloat16 and sums momentum, which the orthogonalisation does not see at a first step."""
    weights = [torch.nn.Parameter(torch.zeros(24, 40)) for _ in range(2)]
    gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for weight in weights:
        weight.grad = gradient.clone()
    Muon(
        [weights[0]],
        lr=1.0,
        momentum=0.9,
        weight_decay=0.0,
        newton_schulz="classic",
        newton_schulz_steps=5,
        normalize_rows=False,
        dtype=torch.bfloat16,
    ).step()
    PlainMuon([weights[1]], lr=1.0, momentum=0.9, weight_decay=0.0).step()
    assert (weights[0] - weights[1]).norm() < 0.05 * weights[0].norm()


def test_a_small_measurement_reports_both_steps():
    device = torch.device("cpu")
    result = measure(cases("small", device)["small"], device, rounds=1, ranks=Ranks(0, 0, 1))
    assert result["plain_over_ours"] > 0
    assert result["attention"] == "sdpa"
    for side in ("ours", "plain"):
        assert 0 < result[side]["fraction_of_peak"] < 1
        assert result[side]["tokens_per_second"] == pytest.approx(128e3 / result[side]["step_ms"])
    assert isinstance(build(cases("small", device)["small"].model), LoopedUNet)
