"""Averages against their closed forms, in float64."""

import pytest
import torch
from torch import nn

from pipeline.model.network import build
from pipeline.optim.averaging import WeightAverage
from tests.networks import TINY

NUM_UPDATES = 9


def moving_model() -> tuple[nn.Module, list[torch.Tensor]]:
    """Return a model and the flat weights (fp64) that it will take in turn."""
    model = build(TINY)
    size = sum(parameter.numel() for parameter in model.parameters())
    return model, list(torch.randn(NUM_UPDATES, size, generator=torch.Generator().manual_seed(3)).double())


def average_of(model: nn.Module, average: WeightAverage, walk: list[torch.Tensor]) -> torch.Tensor:
    """Walk the model along its weights, averaging; return the flat average as stored in the model."""
    for weights in walk:
        nn.utils.vector_to_parameters(weights.float(), model.parameters())
        average.update()
    average.store()
    return nn.utils.parameters_to_vector(model.parameters()).detach().double()


def test_ema_is_the_geometrically_weighted_sum() -> None:
    model, walk = moving_model()
    decay = 0.8
    last = NUM_UPDATES - 1
    shares = [decay**last, *((1 - decay) * decay ** (last - i) for i in range(1, NUM_UPDATES))]
    expected = sum(share * weights for share, weights in zip(shares, walk, strict=True))
    assert sum(shares) == pytest.approx(1.0)
    # fp32 rounds each of nine updates to half a unit in the last place of values up to 4.
    assert torch.allclose(average_of(model, WeightAverage(model, decay), walk), expected, rtol=0, atol=2e-6)


def test_swa_is_the_plain_mean() -> None:
    model, walk = moving_model()
    expected = torch.stack(walk).mean(0)
    assert torch.allclose(average_of(model, WeightAverage(model, None), walk), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("decay", [0.8, None])
def test_going_on_from_its_state_changes_no_bit(decay: float | None) -> None:
    model, walk = moving_model()
    whole = average_of(model, WeightAverage(model, decay), walk)
    for cut in (0, 1, 4):
        first = WeightAverage(model, decay)
        average_of(model, first, walk[:cut])
        second = WeightAverage(model, decay)
        second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
        assert torch.equal(average_of(model, second, walk[cut:]), whole), cut


def test_without_updates_the_weights_stay() -> None:
    model = build(TINY)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    average = WeightAverage(model, 0.9)
    average.store()
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
    assert set(average.state_dict()) == {"count"}


def test_the_average_is_fp32_and_a_copy() -> None:
    model = build(TINY).bfloat16()
    average = WeightAverage(model, 0.5)
    average.update()
    names = {name for name, _ in model.named_parameters()}
    state = average.state_dict()
    assert set(state) == names | {"count"}
    assert {state[name].dtype for name in names} == {torch.float32}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert any(average.averages[i].any() for i in range(len(names)))
