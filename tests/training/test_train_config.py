"""Section `train`: every setting that could never take effect is refused with its key."""

import re
from typing import Any

import pytest

from pipeline.base.config import parse_value
from pipeline.optim.config import MomentumCycle
from pipeline.training.config import EmaConfig, LoopStage, NoiseConfig, SwaConfig, TrainConfig
from pipeline.training.contexts import ContextStage
from tests.training.tiny_run import train_config

SWA = SwaConfig(kind="swa", every_steps=3)


def stages(*pairs: tuple[float, int]) -> tuple[LoopStage, ...]:
    """Return stages from (from_frac, loops)."""
    return tuple(LoopStage(from_frac=from_frac, loops=loops) for from_frac, loops in pairs)


def contexts(*pairs: tuple[float, int]) -> tuple[ContextStage, ...]:
    """Return stages from (from_frac, context_tokens)."""
    return tuple(ContextStage(from_frac=from_frac, context_tokens=tokens) for from_frac, tokens in pairs)


def ema(from_frac: float) -> EmaConfig:
    """Return an EMA from a share of the budget on."""
    return EmaConfig(kind="ema", decay=0.99, from_frac=from_frac)


def noise(from_frac: float) -> NoiseConfig:
    """Return noise from a share of the budget on."""
    return NoiseConfig(kind="noise", from_frac=from_frac, bits=6, clip_std=12.0)


CLOCK = {"max_steps": None, "max_seconds": 60.0}
NO_WARMDOWN = {"warmdown_frac": None}
COUNTED = {"warmdown_frac": None, "warmdown_steps": 5}
CYCLE = {"muon_momentum_warmup_steps": MomentumCycle(cycle_steps=2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reserve_seconds": 5.0}, "reserve_seconds: got 5.0, expected 0 without max_seconds"),
        (CLOCK | {"reserve_seconds": 60.0}, "reserve_seconds: got 60.0, expected 0 or more and below max_seconds (60"),
        (CLOCK | {"reserve_seconds": -1.0}, "reserve_seconds: got -1.0, expected 0 or more"),
        ({"warmdown_steps": 5}, "warmdown_steps: got 5, expected null beside warmdown_frac"),
        ({"warmdown_frac": 0.0}, "warmdown_frac: got 0.0, expected null or a share above 0"),
        ({"warmdown_frac": 1.1}, "warmdown_frac: got 1.1"),
        ({"warmdown_frac": 0.08}, "warmdown_frac: got 0.08, expected above 1 / max_steps (1 / 12), or it would never"),
        (CLOCK | COUNTED | {"warmdown_steps": 1}, "warmdown_steps: got 1, expected null or at least 2, or it would"),
        (COUNTED | {"warmdown_steps": 13}, "warmdown_steps: got 13, expected at most max_steps (12), or the learning"),
        ({"min_lr_frac": 1.0}, "min_lr_frac: got 1.0, expected at least 0 and below 1"),
        (NO_WARMDOWN | {"min_lr_frac": 0.1}, "min_lr_frac: got 0.1, expected 0 without a warm-down"),
        (NO_WARMDOWN | {"weight_decay_end_frac": 0.5}, "weight_decay_end_frac: got 0.5, expected 1 without a warm"),
        (NO_WARMDOWN | {"average": SWA}, "average.kind: got 'swa', expected ema or null without a warm-down"),
        ({"average": SWA}, "average.every_steps: got 3, expected below half of the warm-down's 6 steps"),
        (COUNTED | {"average": SWA}, "average.every_steps: got 3, expected below half of the warm-down's 5 steps"),
        ({"average": ema(1.0)}, "average.from_frac: got 1.0, expected a share of the budget at which a step starts"),
        ({"quantization": noise(1.0)}, "quantization.from_frac: got 1.0, expected a share of the budget"),
        (CLOCK | {"quantization": noise(1.0)}, "quantization.from_frac: got 1.0, expected a share of the budget"),
        (
            {"quantization": noise(0.95)},
            "quantization.from_frac: got 0.95, expected a share of the budget at which a "
            "step starts: below 1, at most 0.9167",
        ),
        ({"quantization": noise(-0.1)}, "quantization.from_frac: got -0.1"),
        ({"all_loops_every_steps": 1}, "all_loops_every_steps: got 1, expected null, or at least 2"),
        ({"all_loops_every_steps": 13}, "all_loops_every_steps: got 13, expected null, or at least 2 and at most max_"),
        ({"loop_stages": ()}, "loop_stages: got [], expected null or at least one stage"),
        ({"loop_stages": stages((0.1, 1))}, "loop_stages[0].from_frac: got 0.1, expected 0: the first stage begins"),
        ({"loop_stages": stages((0.0, 1), (0.0, 2))}, "loop_stages[1].from_frac: got 0.0, expected above the stage"),
        ({"loop_stages": stages((0.0, 1), (0.99, 2))}, "loop_stages[1].from_frac: got 0.99, expected a share of the"),
        ({"loop_stages": stages((0.0, 0))}, "loop_stages[0].loops: got 0, expected at least 1"),
        ({"context_stages": ()}, "context_stages: got [], expected null or at least one stage"),
        ({"context_stages": contexts((0.1, 8))}, "context_stages[0].from_frac: got 0.1, expected 0: the first stage"),
        (CYCLE | {"muon_momentum_start": 0.95}, "muon_momentum_start: got 0.95, expected below muon_momentum (0.95"),
        (CYCLE | {"muon_momentum_start": 0.99}, "muon_momentum_start: got 0.99, expected below muon_momentum (0.95"),
        (
            {"context_stages": contexts((0.0, 16)), "document_bos_id": 1},
            "document_bos_id: got 1, expected null beside context_stages, which cut anywhere; model.attention",
        ),
    ],
)
def test_what_could_never_take_effect_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train_config(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        CLOCK | {"reserve_seconds": 59.0},
        {"warmdown_frac": 0.084},
        {"warmdown_frac": 1.0},
        COUNTED | {"warmdown_steps": 12},
        COUNTED | CLOCK | {"warmdown_steps": 2},
        COUNTED | CLOCK | {"average": SWA},
        {"average": SwaConfig(kind="swa", every_steps=2)},
        NO_WARMDOWN | {"average": ema(0.0)},
        {"quantization": noise(11 / 12)},
        {"loop_stages": stages((0.0, 1), (11 / 12, 2))},
        {"all_loops_every_steps": 12},
        CLOCK | {"all_loops_every_steps": 5000},
        CYCLE | {"muon_momentum_start": 0.94},
        {"muon_momentum_start": 0.95},
    ],
)
def test_what_takes_effect_at_the_very_last_is_accepted(changes: dict[str, Any]) -> None:
    train_config(**changes)


def test_the_strict_loader_reads_the_tagged_unions() -> None:
    values = train_config().__dict__ | {
        "average": {"kind": "swa", "every_steps": 2},
        "loop_stages": [{"from_frac": 0, "loops": 1}, {"from_frac": 0.5, "loops": 3}],
        "quantization": {"kind": "noise", "from_frac": 0.5, "bits": 6, "clip_std": 12},
    }
    config = parse_value(TrainConfig, values, "train")
    assert config.average == SwaConfig(kind="swa", every_steps=2)
    assert config.loop_stages == stages((0.0, 1), (0.5, 3))
    assert config.quantization == noise(0.5)
    with pytest.raises(ValueError, match=r"train\.average\.decay: got 1.0, expected above 0 and below 1"):
        parse_value(TrainConfig, values | {"average": {"kind": "ema", "decay": 1.0, "from_frac": 0.0}}, "train")
    with pytest.raises(ValueError, match=r"train\.average\.kind: got 'sma'"):
        parse_value(TrainConfig, values | {"average": {"kind": "sma"}}, "train")
