"""What the tensors of an artifact cost: bytes that add up, and losses that meet measured ones."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.codec.container import QuantizedTensor, encode_artifact
from pipeline.codec.restore import dequantized_model
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from pipeline.reports.quantization import predicted_losses, tensor_costs
from tests.networks import TINY, changed, roused

MODEL = changed(TINY, {"vocab_size": 64, "context_tokens": 24, "embed_init_std": 0.05})
LOOPED = "blocks.4.mlp.up.weight"


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3).eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 64, (64, 24), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def parts(model, ids, repo):
    """Return statistics, tensors and the size of their file."""
    params = load_params(repo / "params.yaml", ["calibrate", "quantize"])
    config = dataclasses.replace(params.calibrate, num_sequences=64, sensitivity_sequences=64)
    statistics = calibrate(model, ids, config, Ranks(0, 0, 1), torch.device("cpu"), silent)
    tensors = quantize_plan(plan_quantization(model, statistics, params.quantize), 0.001)
    return statistics, tensors, len(encode_artifact(tensors, {}))


def test_bytes_add_up_to_the_file_in_its_order(model, parts):
    statistics, tensors, file_bytes = parts
    costs = tensor_costs(model, statistics, tensors, file_bytes)
    quantized = [name for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)]
    assert list(costs.tensors) == quantized
    assert sum(cost["coded_bytes"] for cost in costs.tensors.values()) + costs.passthrough_bytes == file_bytes
    assert costs.predicted_nats == pytest.approx(sum(cost["predicted_nats"] for cost in costs.tensors.values()))
    assert all(cost["coded_bytes"] > 0 and cost["sensitivity_nats"] >= 0 for cost in costs.tensors.values())
    big = max(quantized, key=lambda name: tensors[name].codes.size)
    without = len(encode_artifact({name: tensor for name, tensor in tensors.items() if name != big}, {}))
    # Alone, a tensor states its steps and its name less cheaply: a few per cent of a file as small as this one.
    assert costs.tensors[big]["coded_bytes"] == pytest.approx(file_bytes - without, rel=0.1)


def test_without_sensitivities_there_are_bytes_only(model, parts):
    statistics, tensors, file_bytes = parts
    poor = {key: entry for key, entry in statistics.items() if not key.startswith("sensitivity/")}
    costs = tensor_costs(model, poor, tensors, file_bytes)
    assert costs.predicted_nats is None
    assert {cost["sensitivity_nats"] for cost in costs.tensors.values()} == {None}


@pytest.mark.parametrize(
    ("name", "visits"), [("blocks.0.mlp.up.weight", 1), (LOOPED, 3), ("token_embedding.weight", 1)]
)
def test_prediction_meets_the_divergence_of_one_tensors_errors(model, parts, ids, name, visits):
    statistics, tensors, _ = parts
    predicted = predicted_losses(model, statistics, {name: tensors[name]})[name].predicted_nats
    values = {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}
    spoiled = dequantized_model({**values, name: tensors[name]}, model.config).eval()
    with torch.no_grad():
        logs, spoiled_logs = (F.log_softmax(net(ids).double(), -1) for net in (model, spoiled))
    divergence = float((logs.exp() * (logs - spoiled_logs)).sum(-1).mean())
    # Rows, tokens and visits are taken as independent: right to some tens of per cent, and as many times too low as
    # there are visits when these agree.
    assert 0.67 < divergence / predicted < 1.5 * visits


def test_sensitivity_is_the_prediction_for_errors_as_large_as_the_weights(model, parts):
    statistics, tensors, _ = parts
    name = "bigram.table.weight"  # its moment is the identity: errors count as if they were independent
    none = tensors[name]._replace(codes=tensors[name].codes * 0)
    loss = predicted_losses(model, statistics, {name: none})[name]
    assert loss.predicted_nats == pytest.approx(loss.sensitivity_nats * none.codes.size, rel=1e-5)
