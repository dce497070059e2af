"""The estimate of a step's memory against real passes, against optimizers that have stepped, against measured peaks."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from pipeline.base.config import load_params
from pipeline.model.attention import LONGEST_PRODUCTS_TOKENS
from pipeline.model.network import LoopedUNet, build
from pipeline.recipes.recipes import recipe_names, recipe_path
from pipeline.training.config import EmaConfig, FakeQuantConfig
from pipeline.training.contexts import ContextStage
from pipeline.training.memory import activation_bytes, state_bytes, step_bytes
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.regime import Regime, settings_at
from tests.networks import architecture, changed
from tests.training.tiny_run import ALONE, MODEL, train_config

REPO = Path(__file__).resolve().parents[2]
GPU_BYTES = 80e9
RECIPES = recipe_names(REPO / "recipes")
MEASURED_GB = {
    ("bwx-9f1c", 48): 26.44,
    ("crawler-3f2c", 32): 17.22,
    ("frugendorff-6x2", 48): 32.49,
    ("helix", 128): 15.04,
    ("microcrawler-4f1c", 48): 16.96,
    ("nightcrawler-7f3c", 48): 38.80,
    ("ouroboros-9f1c", 48): 23.65,
    ("single-h100", 64): 27.16,
    ("sp8192-loop3", 48): 41.11,
    ("universal-4b7l", 24): 48.23,
}
"""Recipe and sequences of a pass -> what torch 2.11's CUDA allocator gave out at most in a compiled step."""


@cache
def estimate(name: str, sequences: int | None = None) -> int:
    """Return the estimate of a recipe, as it stands or with passes of so many sequences."""
    params = load_params(recipe_path(REPO / "recipes", name), ["model", "train", "launch"])
    processes = params.launch.num_processes
    train = replace(params.train, micro_batch_sequences=sequences or params.train.micro_batch_sequences)
    return step_bytes(params.model, train, 1 if processes == "auto" else processes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_a_gpu_with_a_tenth_to_spare(name: str) -> None:
    assert estimate(name) < 0.9 * GPU_BYTES


@pytest.mark.parametrize(("name", "sequences"), MEASURED_GB)
def test_the_estimate_is_a_close_upper_bound(name: str, sequences: int) -> None:
    assert 1 <= estimate(name, sequences) / (1e9 * MEASURED_GB[name, sequences]) < 1.25


@pytest.mark.parametrize("name", ["tiny", "grouped choke", "helix, attention", "frontier"])
def test_activations_are_those_of_a_real_pass(name: str) -> None:
    """In float32, where nothing is cast, and beyond the contexts that a CPU treats by itself."""
    config, num_tokens = architecture(name), LONGEST_PRODUCTS_TOKENS + 8
    network, kept = build(config), {}
    ids_BT = torch.randint(config.vocab_size, (1, num_tokens))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.hidden(ids_BT)
    for tensor in (*network.parameters(), *network.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    real = sum(storage.nbytes() for storage in kept.values())
    with torch.device("meta"):
        meta = LoopedUNet(config)
    assert activation_bytes(meta, num_tokens, bf16=False) == pytest.approx(real, rel=0.02)


def test_activations_grow_with_the_tokens() -> None:
    with torch.device("meta"):
        network = LoopedUNet(MODEL)
    one, two, three = (activation_bytes(network, 1024 * n, bf16=True) for n in (1, 2, 3))
    assert two - one == three - two > 0
    assert two < activation_bytes(network, 2048, bf16=False)


def test_the_state_is_that_of_a_step_that_was_taken() -> None:
    quantization = FakeQuantConfig(
        kind="fake-quant", from_frac=0.0, matrix_bits=6, embedding_bits=8, clip_std=12.0, embedding_clip_ratio=0.6
    )
    config = train_config(average=EmaConfig(kind="ema", decay=0.9, from_frac=0.0), quantization=quantization)
    model = build(MODEL)
    regime, step, settings = Regime(model, config, 0), OptimizerStep(model, config, ALONE), settings_at(config, 0, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters())
    step.take(torch.zeros(()))
    regime.after_step(settings)
    states = [state for optimizer in step.optimizers for state in optimizer.state.values()]
    moments = [value for state in states for key, value in state.items() if key != "step"]
    held = [*model.parameters(), *moments, *regime.average.averages, *regime.perturbation.weights]
    assert state_bytes(model, config) == gradients + sum(tensor.nbytes for tensor in held)


def test_a_pass_over_fewer_sequences_needs_less() -> None:
    assert estimate("universal-4b7l", 12) < 0.6 * estimate("universal-4b7l", 24)
    assert estimate("universal-4b7l", 1000) == estimate("universal-4b7l", 48), "no more than a process has"


def test_stages_need_what_the_longest_does_of_a_batch_that_a_run_takes() -> None:
    """192 tokens are a sequence of 24 for each of 8 processes, but not the span of 48 that holds those of 16, too."""
    config = changed(MODEL, {"context_tokens": 24})
    stages = (ContextStage(from_frac=0.0, context_tokens=16), ContextStage(from_frac=0.5, context_tokens=24))
    train = train_config(batch_tokens=384)
    assert step_bytes(config, replace(train, context_stages=stages), 8) == step_bytes(config, train, 8)
    with pytest.raises(ValueError, match=r"^train\.batch_tokens: got 192, expected a multiple of 48 .* x 8 .* as 384$"):
        step_bytes(config, replace(train, context_stages=stages, batch_tokens=192), 8)


@pytest.mark.parametrize("name", ["tiny", "frontier"])
def test_documents_cost_a_flash_kernel_no_memory(name: str) -> None:
    apart = changed(architecture(name), {"attention.document_bos_id": 1})
    plain, masked = (activation_bytes(LoopedUNet(config), 2048, bf16=True) for config in (architecture(name), apart))
    assert masked == plain
