"""What the schedule decides about a step, and what a run then does: loops, decay, averages, perturbed weights."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.model.network import LoopedUNet, build
from pipeline.training.config import EmaConfig, FakeQuantConfig, LoopStage, NoiseConfig, SwaConfig
from pipeline.training.contexts import ContextStage
from pipeline.training.journal import TrainResult
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.regime import Regime, settings_at
from tests.networks import architecture
from tests.training.tiny_run import ALONE, MODEL, train_config, train_tiny

STAGES = (LoopStage(from_frac=0.0, loops=1), LoopStage(from_frac=0.5, loops=2))
FAKE_QUANT = FakeQuantConfig(
    kind="fake-quant", from_frac=0.75, matrix_bits=6, embedding_bits=8, clip_std=12.85, embedding_clip_ratio=1.556
)
NOISE = NoiseConfig(kind="noise", from_frac=0.5, bits=6, clip_std=12.85)
EVERYTHING = {
    "max_steps": 40,
    "warmup_steps": 4,
    "warmdown_frac": 0.5,
    "min_lr_frac": 0.1,
    "weight_decay_end_frac": 0.5,
    "muon_momentum_warmup_steps": 10,
    "loop_stages": STAGES,
    "quantization": FAKE_QUANT,
    "average": SwaConfig(kind="swa", every_steps=5),
}


def test_all_settings_of_a_step_budget_at_its_corners() -> None:
    """Columns behind the step: learning rate, momentum, decay, loops, averaged, quantized; the model's length."""
    expected: dict[int, tuple[Any, ...]] = {
        0: (0.25, 0.85, 1.0, 1, False, False),
        3: (1.0, 0.88, 1.0, 1, False, False),
        10: (1.0, 0.95, 1.0, 1, False, False),
        19: (1.0, 0.95, 1.0, 1, False, False),
        20: (1.0, 0.95, 1.0, 2, False, False),
        21: (0.955, 0.95, 0.975, 2, False, False),
        24: (0.82, 0.95, 0.9, 2, True, False),
        29: (0.595, 0.95, 0.775, 2, True, False),
        30: (0.55, 0.95, 0.75, 2, False, True),
        39: (0.145, 0.95, 0.525, 2, True, True),
    }
    config = train_config(**EVERYTHING)
    for step, row in expected.items():
        assert settings_at(config, step, 1e9) == pytest.approx((step, *row, None)), step


def test_all_settings_of_a_clock_budget_at_its_corners() -> None:
    """50 seconds, 10 of them reserved, one step a second: the same 40 steps."""
    on_clock = train_config(**EVERYTHING | {"max_steps": None, "max_seconds": 50.0, "reserve_seconds": 10.0})
    on_steps = train_config(**EVERYTHING)
    for step in range(40):
        assert settings_at(on_clock, step, float(step)) == pytest.approx(settings_at(on_steps, step, 0.0)), step


def test_with_both_budgets_the_one_further_spent_decides() -> None:
    both = train_config(**EVERYTHING | {"max_seconds": 50.0, "reserve_seconds": 10.0})
    assert settings_at(both, 4, 30.0)[3:] == (0.75, 2, True, True, None), "the clock, at 30 of 40 seconds"
    assert settings_at(both, 30, 5.0)[3:] == (0.75, 2, False, True, None), "the steps, at 30 of 40"


def test_an_ema_begins_at_its_share_of_the_budget() -> None:
    config = train_config(average=EmaConfig(kind="ema", decay=0.9, from_frac=0.25))
    assert [settings_at(config, step, 0.0).is_averaged for step in range(12)] == [False] * 3 + [True] * 9


def test_the_reserve_ends_training_early() -> None:
    def result(**budget: Any) -> TrainResult:
        return train_tiny(train_config(max_steps=None, **budget), clock=itertools.count().__next__)[1]

    reserved = result(max_seconds=20.0, reserve_seconds=5.0)
    assert reserved == result(max_seconds=15.0)
    assert 15.0 <= reserved.last["seconds"] < 20.0


def test_rates_and_decays_follow_the_settings() -> None:
    """Each group keeps its own peaks; a second call starts from them, not from what the first left."""
    weights = [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    groups = [
        {"params": [weights[0]], "lr": 0.5, "peak_lr": 0.5, "peak_decay": 0.1},
        {"params": [weights[1]], "lr": 0.2, "peak_lr": 0.2, "peak_decay": 0.0},
    ]
    optimizer, config = torch.optim.SGD(groups), train_config(**EVERYTHING)
    optimizer_step = OptimizerStep(build(MODEL), config, ALONE)
    optimizer_step.optimizers = [optimizer]
    for step, rate, decay in [(30, 0.55, 0.75), (39, 0.145, 0.525), (10, 1.0, 1.0)]:
        optimizer_step.set_schedule(settings_at(config, step, 0.0))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 * rate, 0.2 * rate])
        assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.1 * decay, 0.0])


def passes_per_step(**changes: Any) -> list[int]:
    """Return how often each step of a run visits the looped block."""
    model, visits, counts = build(MODEL), [0], []
    model.blocks[2].register_forward_hook(lambda *_: visits.append(visits.pop() + 1))

    def count(*_: object) -> None:
        counts.append(visits[0])
        visits[0] = 0

    train_tiny(train_config(**changes), model, progress=count)
    return counts


def test_loops_switch_on_during_training() -> None:
    assert passes_per_step(max_steps=8, loop_stages=STAGES) == [1] * 4 + [2] * 4


def test_cadence_runs_all_loops_in_every_nth_step() -> None:
    assert passes_per_step(max_steps=7, all_loops_every_steps=3) == [2, 1, 1, 2, 1, 1, 2]


def test_parameters_of_inactive_loops_get_no_gradient_and_do_not_move() -> None:
    model = build(MODEL)
    config = train_config(max_steps=8, loop_stages=STAGES)
    regime = Regime(model, config, seed=0)
    for step, expected in [(0, ["1"]), (4, [])]:
        model.zero_grad(set_to_none=True)
        with regime.step(settings_at(config, step, 0.0)):
            model(torch.zeros(1, 4, dtype=torch.long)).square().mean().backward()
        without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert without == [f"conditioners.flow.up.{loop}.weight" for loop in expected]


def test_a_run_of_few_loops_ends_with_all_of_them() -> None:
    model, _ = train_tiny(train_config(max_steps=6, all_loops_every_steps=4))
    assert isinstance(model, LoopedUNet)
    assert model.schedule == build(MODEL).schedule


def walk_of(**changes: Any) -> tuple[list[Tensor], Tensor, TrainResult]:
    """Train; return the weights after every step, the weights at the end (flat, fp64), and the result."""
    model, walk = build(MODEL), []

    def flat() -> Tensor:
        return nn.utils.parameters_to_vector(model.parameters()).detach().double()

    _, result = train_tiny(train_config(**changes), model, progress=lambda *_: walk.append(flat()))
    return walk, flat(), result


def test_a_run_ends_with_the_ema_of_its_weights() -> None:
    average = EmaConfig(kind="ema", decay=0.7, from_frac=0.25)
    walk, end, result = walk_of(max_steps=8, average=average)
    expected = walk[2]
    for weights in walk[3:]:
        expected = 0.7 * expected + 0.3 * weights
    assert torch.allclose(end, expected, rtol=0, atol=1e-6)
    assert result.regime == {"average": "ema", "averaged_weights": 6}


def test_a_run_ends_with_the_mean_of_weights_of_its_warm_down() -> None:
    """Twelve steps, the last six warm down: of those, steps 8, 10 and 12 are taken."""
    walk, end, result = walk_of(max_steps=12, average=SwaConfig(kind="swa", every_steps=2))
    assert torch.allclose(end, (walk[7] + walk[9] + walk[11]) / 3, rtol=0, atol=1e-6)
    assert result.regime == {"average": "swa", "averaged_weights": 3}


@pytest.mark.parametrize("config", [FAKE_QUANT, NOISE])
def test_quantization_awareness_begins_on_time_and_is_reported(config: FakeQuantConfig | NoiseConfig) -> None:
    lines: list[str] = []
    changes = {"max_steps": 8, "log_every_steps": 1}
    _, plain = train_tiny(train_config(**changes))
    _, aware = train_tiny(train_config(**changes, quantization=config), log=lines.append)
    first = round(config.from_frac * 8)
    for step, (one, two) in enumerate(zip(plain.curve, aware.curve, strict=True)):
        assert (one["loss"] == two["loss"]) == (step < first), step
    assert lines[-1] == f"quantization:{config.kind} quantized_steps:{8 - first}"
    assert plain.regime == {}


def test_a_regime_goes_on_from_its_state() -> None:
    config = train_config(max_steps=8, average=EmaConfig(kind="ema", decay=0.7, from_frac=0.0), quantization=NOISE)
    models = [build(MODEL) for _ in range(2)]
    whole, first = (Regime(model, config, seed=0) for model in models)
    for step in range(8):
        if step == 5:
            state = first.state_dict()
            first = Regime(models[1], config, seed=0)
            first.load_state_dict(state)
        for regime in (whole, first):
            settings = settings_at(config, step, 0.0)
            regime.step(settings)
            with torch.no_grad():
                for parameter in regime.model.parameters():
                    parameter.mul_(0.9)
            regime.after_step(settings)
    assert (
        whole.finish()
        == first.finish()
        == {"average": "ema", "averaged_weights": 8, "quantization": "noise", "quantized_steps": 4}
    )
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_every_number_of_loops_is_compiled_beforehand() -> None:
    def graphs(**changes: Any) -> list[tuple[int | None, int | None]]:
        return Regime(build(MODEL), train_config(**changes), seed=0).graphs()

    assert graphs() == [(None, None)]
    assert graphs(loop_stages=STAGES) == [(1, None), (2, None)]
    assert graphs(all_loops_every_steps=2) == [(1, None), (None, None)]
    assert graphs(all_loops_every_steps=2, loop_stages=STAGES) == [(1, None), (2, None)]
    contexts = tuple(ContextStage(from_frac=frac, context_tokens=tokens) for frac, tokens in ((0.0, 8), (0.25, 16)))
    assert graphs(context_stages=contexts, max_steps=12) == [(None, 8), (None, 16)]
    assert graphs(context_stages=contexts, loop_stages=STAGES) == [(1, 8), (1, 16), (2, 16)]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tiny", {"loop_stages": STAGES}, r"train\.loop_stages\[-1\]\.loops: got 2, expected 3: what is never trained"),
        ("folded once", {"loop_stages": STAGES}, r"train\.loop_stages\[1\]\.loops: got 2, expected at most .* 1"),
        ("helix, linear", {"all_loops_every_steps": 2}, r"train\.all_loops_every_steps: got 2.*no loops to switch"),
        ("unique only", {"all_loops_every_steps": 2}, r"train\.all_loops_every_steps: got 2.*no loops to switch"),
    ],
)
def test_loops_that_the_network_has_not_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regime(build(architecture(name)), train_config(**changes), seed=0)
