"""Arm I's tuning of passthrough values on a real tiny quantized network."""

import numpy as np
import pytest
import torch

from benchmarks.passthrough_tuning import TuneSettings, tune_passthrough
from pipeline.codec.container import QuantizedTensor, encode_artifact
from pipeline.quant.dequantize import dequantized_model
from pipeline.quant.gptq import round_to_nearest
from pipeline.quant.roles import tensor_roles
from tests.networks import TINY, changed, roused

MODEL = changed(
    TINY,
    {
        "context_tokens": 24,
        "schedule.unique_blocks": 2,
        "schedule.looped_blocks": 1,
        "attention.exclusive_blocks": [2],
        "value_embedding.readers": [0],
        "rope.dims": 4,
        "rope.loop_scales": [2.0, 1.0, 1.0],
    },
)
SETTINGS = TuneSettings(num_steps=30, learning_rate=0.01, batch_sequences=3)


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3).eval()


@pytest.fixture(scope="module")
def ids_NT():  # noqa: N802
    return torch.randint(0, 48, (16, 24), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def tensors(model):
    """Every matrix and table on a coarse grid: an error that gains can partly take back."""
    roles, tensors = tensor_roles(model), {}
    for name, value in model.state_dict().items():
        if roles[name] == "passthrough":
            tensors[name] = value.half().numpy()
        else:
            step_R = (0.7 * value.std(1)).half()
            codes_RC = round_to_nearest(value, step_R.float(), 31)
            tensors[name] = QuantizedTensor(codes_RC.to(torch.int8).numpy(), step_R.numpy())
    return tensors


@pytest.fixture(scope="module")
def tuning(model, tensors, ids_NT):
    return tune_passthrough(model, tensors, ids_NT, SETTINGS)


def divergence(model, tensors, ids_NT):
    """Return KL(float || artifact) in nats per token, in float64."""
    with torch.no_grad():
        ours = model(ids_NT).double().log_softmax(-1)
        theirs = dequantized_model(tensors, MODEL)(ids_NT).double().log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def test_divergence_falls_on_both_parts_and_is_said_as_it_is(model, tensors, ids_NT, tuning):
    held = torch.arange(len(ids_NT)) % 8 == 0
    for part in (held, ~held):
        assert divergence(model, tuning.tensors, ids_NT[part]) < 0.9 * divergence(model, tensors, ids_NT[part])
    for nats, file in ((tuning.nats_before, tensors), (tuning.nats_after, tuning.tensors)):
        assert nats == pytest.approx(divergence(model, file, ids_NT[held]), rel=1e-4)  # float32 logits


def test_only_passthrough_values_change_and_they_stay_float16(tensors, tuning):
    assert list(tuning.tensors) == list(tensors)
    changes = 0
    for name, before in tensors.items():
        after = tuning.tensors[name]
        if isinstance(before, QuantizedTensor):
            assert np.array_equal(before.codes, after.codes)
            assert np.array_equal(before.step, after.step)
        else:
            assert after.dtype == np.float16
            assert after.shape == before.shape
            assert np.isfinite(after).all()
            changes += not np.array_equal(before, after)
    assert changes > 10


def test_the_same_bytes_twice_and_the_model_is_left_alone(model, tensors, ids_NT, tuning):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = tune_passthrough(model, tensors, ids_NT, SETTINGS)
    assert encode_artifact(again.tensors, {}) == encode_artifact(tuning.tensors, {})
    assert again[1:] == tuning[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


@pytest.mark.parametrize("learning_rate", [30.0, 1e9])
def test_a_rate_that_destroys_changes_nothing(model, tensors, ids_NT, learning_rate):
    """Also where values leave float16."""
    ruined = tune_passthrough(model, tensors, ids_NT, SETTINGS._replace(learning_rate=learning_rate))
    assert ruined.nats_after == ruined.nats_before
    assert ruined.tensors is tensors


def test_no_steps_change_nothing(model, tensors, ids_NT):
    tuning = tune_passthrough(model, tensors, ids_NT, SETTINGS._replace(num_steps=0))
    assert tuning.tensors is tensors


def test_too_few_sequences_are_one_line(model, tensors, ids_NT):
    with pytest.raises(ValueError, match=r"^tuning sequences: got 3, expected enough for a batch of 3 besides"):
        tune_passthrough(model, tensors, ids_NT[:3], SETTINGS)
