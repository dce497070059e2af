"""Training for the grid: the exporter's own grid, the straight-through gradient, and a gap that shrinks."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from pipeline.base.progress import silent
from pipeline.data.batches import SequenceSampler
from pipeline.model.network import build
from pipeline.quant.gptq import round_to_nearest
from pipeline.quant.roles import tensor_roles
from pipeline.quant.steps import max_code_of, sdclip_step
from pipeline.training.config import FakeQuantConfig, NoiseConfig
from pipeline.training.loop import train
from pipeline.training.quant_aware import GridWeight, Perturbation, grid_weights, perturbed
from tests.networks import TINY, architecture, changed, randomised
from tests.training.tiny_run import ALONE, MODEL, SEQUENCE_TOKENS, VOCAB_SIZE, train_config, train_tiny

FAKE_QUANT = FakeQuantConfig(
    kind="fake-quant", from_frac=0.5, matrix_bits=4, embedding_bits=6, clip_std=5.0, embedding_clip_ratio=0.8
)
NOISE = NoiseConfig(kind="noise", from_frac=0.25, bits=3, clip_std=6.0)
LOOPED_FOUR_TIMES = changed(MODEL, {"schedule.num_loops": 4, "rope.loop_scales": None})


def cross_entropy(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Return the mean nats per target of tokens (B, T + 1)."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())


def backward_of(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Add the gradients of the mean loss to `model`; return the loss."""
    loss = cross_entropy(model(tokens_BT[:, :-1]), tokens_BT)
    loss.backward()
    return loss.detach()


def some_tokens() -> Tensor:
    """Return a batch for TINY."""
    return torch.randint(TINY.vocab_size, (3, 21), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("bits", "clip_std"), [(2, 1.0), (4, 1.5), (4, 5.0), (8, 12.85)])
def test_the_grid_is_the_exporters_bit_for_bit(bits: int, clip_std: float) -> None:
    generator = torch.Generator().manual_seed(bits)
    spread_R1 = torch.logspace(-9, 1, 40)[:, None]
    for weight_RC in (torch.randn(40, 64, generator=generator) * spread_R1, torch.randn(7, 1, generator=generator)):
        weight_RC[3] = 0
        step_R = sdclip_step(weight_RC, clip_std, max_code_of(bits))
        codes_RC = round_to_nearest(weight_RC, step_R, max_code_of(bits))
        found_RC = perturbed(GridWeight(nn.Parameter(weight_RC), bits, clip_std), None)
        assert torch.equal(found_RC, codes_RC.float() * step_R[:, None])


@pytest.mark.parametrize("name", ["tiny", "folded", "helix, linear", "per visit", "grouped choke"])
def test_fake_quantization_covers_every_matrix_and_the_tied_embedding(name: str) -> None:
    model = build(architecture(name))
    owners = {id(parameter): parameter_name for parameter_name, parameter in model.named_parameters()}
    entries = grid_weights(model, FAKE_QUANT)
    found = {owners[id(entry.weight)]: entry[1:] for entry in entries}
    grids = {"matrix": (4, 5.0), "embedding": (6, 4.0)}
    assert len(found) == len(entries)
    assert found == {key: grids[role] for key, role in tensor_roles(model).items() if role in grids}


@pytest.mark.parametrize(("name", "looped"), [("tiny", "45"), ("folded", "23"), ("helix, linear", "56")])
def test_noise_covers_the_matrices_of_looped_blocks_alone(name: str, looped: str) -> None:
    model = build(architecture(name))
    owners = {id(parameter): parameter_name for parameter_name, parameter in model.named_parameters()}
    found = {owners[id(entry.weight)] for entry in grid_weights(model, NOISE)}
    blocks = tuple(f"blocks.{block}." for block in looped)
    assert found == {key for key, role in tensor_roles(model).items() if key.startswith(blocks) and role == "matrix"}


def test_noise_without_looped_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.quantization\.kind: got 'noise'.*no looped blocks"):
        grid_weights(build(architecture("unique only")), NOISE)


class RoundStraightThrough(torch.autograd.Function):
    """The oracle: rounds forward, passes the gradient through backward."""

    @staticmethod
    def forward(ctx: Any, weight_RC: Tensor, entry: GridWeight) -> Tensor:
        return perturbed(GridWeight(nn.Parameter(weight_RC), *entry[1:]), None)

    @staticmethod
    def backward(ctx: Any, gradient_RC: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient_RC, None


@pytest.mark.parametrize("name", ["tiny", "folded", "flow, anchor, tap, smear, pyramid"])
def test_swapping_weights_is_the_straight_through_gradient(name: str) -> None:
    """The same products of the same numbers: equal to the last bit."""
    model, tokens_BT = randomised(architecture(name)), some_tokens()
    entries = {id(entry.weight): entry for entry in grid_weights(model, FAKE_QUANT)}
    rounded = {
        key: RoundStraightThrough.apply(parameter, entries[id(parameter)]) if id(parameter) in entries else parameter
        for key, parameter in model.named_parameters()
    }
    logits_BTV = torch.func.functional_call(model, rounded, (tokens_BT[:, :-1],))
    oracle = cross_entropy(logits_BTV, tokens_BT)
    expected = torch.autograd.grad(oracle, list(model.parameters()))
    with Perturbation(model, FAKE_QUANT, seed=1).at(step=0):
        loss = backward_of(model, tokens_BT)
    assert loss == oracle
    for (key, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient), key


@pytest.mark.parametrize("config", [FAKE_QUANT, NOISE])
def test_the_weights_come_back_bit_for_bit(config: FakeQuantConfig | NoiseConfig) -> None:
    model = randomised(TINY)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    places = [parameter.data_ptr() for parameter in model.parameters()]
    perturbation = Perturbation(model, config, seed=1)
    with perturbation.at(step=0):
        backward_of(model, some_tokens())

    def broken_backward() -> None:
        assert any(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), perturbation.at(step=0):
        broken_backward()
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert places == [parameter.data_ptr() for parameter in model.parameters()], "compiled graphs may hold them"


def test_noise_is_uniform_and_as_wide_as_a_step() -> None:
    weight_RC = torch.randn(50, 400, generator=torch.Generator().manual_seed(0))
    step_R1 = sdclip_step(weight_RC, 6.0, max_code_of(3))[:, None]
    moved_RC = perturbed(GridWeight(nn.Parameter(weight_RC), 3, 6.0), torch.Generator().manual_seed(1))
    noise_RC = (moved_RC - weight_RC) / step_R1
    assert noise_RC.abs().max() <= 0.5 + 1e-5
    # 20,000 draws: the standard error of the mean is 0.002, of the variance 0.0005.
    assert noise_RC.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise_RC.var().item() == pytest.approx(1 / 12, abs=0.003)


def test_noise_depends_on_seed_and_step_alone() -> None:
    def losses(seed: int, step: int) -> Tensor:
        model = randomised(TINY)
        with Perturbation(model, NOISE, seed).at(step):
            return backward_of(model, some_tokens())

    assert losses(7, 3) == losses(7, 3)
    assert len({losses(seed, step).item() for seed, step in [(7, 3), (7, 4), (8, 3), (7 + 2**32, 3)]}) == 4


def test_a_compiled_graph_is_not_compiled_again() -> None:
    model, tokens_BT = randomised(TINY), some_tokens()
    counter = CompileCounter()
    compiled = torch.compile(
        lambda ids_BT: cross_entropy(model(ids_BT[:, :-1]), ids_BT), fullgraph=True, dynamic=False, backend=counter
    )

    def backward(ids_BT: Tensor) -> Tensor:
        loss = compiled(ids_BT)
        loss.backward()
        return loss.detach()

    perturbation, plain, noisy = Perturbation(model, NOISE, seed=1), backward(tokens_BT), []
    for step in (0, 1, 1):
        with perturbation.at(step):
            noisy.append(backward(tokens_BT))
    assert counter.frame_count == 1
    assert noisy[1] == noisy[2]
    assert len({plain.item(), noisy[0].item(), noisy[1].item()}) == 3, "the graph reads the perturbed weights"


def test_two_runs_with_noise_give_the_same_bits() -> None:
    ends = [train_tiny(train_config(quantization=NOISE, precision="bf16"))[0].state_dict() for _ in range(2)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@cache
def markov_text() -> np.ndarray:
    """Return a text with as much chance in it as rule: a model of it is never sure, so that rounding matters."""
    rng = np.random.default_rng(0)
    num_tokens = 40_000
    thresholds = rng.dirichlet(np.full(VOCAB_SIZE, 0.15), size=(VOCAB_SIZE, 4)).cumsum(-1)
    text, drawn = np.zeros(num_tokens, dtype=np.uint16), rng.random(num_tokens)
    for i in range(2, num_tokens):
        follows = np.searchsorted(thresholds[text[i - 1], text[i - 2] % 4], drawn[i])
        text[i] = min(VOCAB_SIZE - 1, follows)
    return text


@cache
def trained(config: FakeQuantConfig | NoiseConfig | None, seed: int) -> nn.Module:
    """Return a small network, its core looped four times, after 150 steps on the Markov text."""
    model = build(LOOPED_FOUR_TIMES, seed)
    train(
        model,
        train_config(max_steps=150, matrix_lr=0.02, quantization=config, log_every_steps=150),
        SequenceSampler([markov_text()], SEQUENCE_TOKENS, seed),
        ALONE,
        torch.device("cpu"),
        lambda line: None,
        silent,
    )
    return model


@torch.no_grad()
def losses_on_and_off_the_grid(model: nn.Module, config: FakeQuantConfig | NoiseConfig) -> tuple[float, float]:
    """Return (loss with the weights of `config` rounded to nearest, float loss) on the same 512 sequences."""
    tokens_BT = SequenceSampler([markov_text()], SEQUENCE_TOKENS, seed=99).batch(0, 512, 0, 1)
    entries = grid_weights(model, config)
    kept = [entry.weight.clone() for entry in entries]
    float_loss = cross_entropy(model(tokens_BT[:, :-1]), tokens_BT).item()
    for entry in entries:
        entry.weight.copy_(perturbed(entry, None))
    rounded_loss = cross_entropy(model(tokens_BT[:, :-1]), tokens_BT).item()
    for entry, weight_RC in zip(entries, kept, strict=True):
        entry.weight.copy_(weight_RC)
    return rounded_loss, float_loss


@pytest.mark.parametrize(
    ("config", "factor", "cost"), [(FAKE_QUANT, 0.25, 0.0), (NOISE, 0.5, 0.01)], ids=["fake-quant", "noise"]
)
def test_the_quantization_gap_shrinks(config: FakeQuantConfig | NoiseConfig, factor: float, cost: float) -> None:
    """The gap left, over the gap of the same training without, two seeds together; and how rounded weights score.

    Noise costs the float model about what it saves: there the two differ by less than other sums do.
    """
    without, with_it = (
        np.mean([losses_on_and_off_the_grid(trained(used, seed), config) for seed in (0, 1)], axis=0)
        for used in (None, config)
    )
    gap_without, gap_with = without[0] - without[1], with_it[0] - with_it[1]
    assert gap_without > 0.02, "rounding hurts"
    assert gap_with < factor * gap_without
    assert with_it[0] < without[0] + cost
