"""Sensitivities are mean squared gradients, and they predict what an error costs."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.base.ranks import Ranks
from pipeline.calibration.moments import find_input_sites
from pipeline.calibration.sensitivity import collect_sensitivities
from tests.networks import TINY, changed, roused

MODEL = changed(TINY, {"vocab_size": 40, "context_tokens": 16, "embed_init_std": 0.3})
LOOPED_UP = "blocks.4.mlp.up"


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3)


def batches(num_sequences=6, batch=2):
    return torch.randint(0, 40, (num_sequences, 16), generator=torch.Generator().manual_seed(4)).split(batch)


def sensitivities(model, parts, first=0):
    """Return those of numbered batches."""
    return collect_sensitivities(model, find_input_sites(model, parts[0][:1]), enumerate(parts, first), Ranks(0, 0, 1))


def test_they_are_squared_gradients_token_by_token(model):
    """One batch, with the same labels drawn again; the looped matrix over all its visits, a table row by row."""
    (ids_BT,) = batches(2, 2)
    found = sensitivities(model, [ids_BT])
    outputs = []
    handle = model.get_submodule(LOOPED_UP).register_forward_hook(lambda _m, _i, y: outputs.append(y))
    tables = []
    table_handle = model.bigram.table.register_forward_hook(lambda _m, i, x: tables.append((i[0], x)))
    logits_MV = model(ids_BT).flatten(0, 1)
    handle.remove()
    table_handle.remove()
    labels_M = torch.multinomial(logits_MV.detach().softmax(-1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    loss = F.cross_entropy(logits_MV, labels_M, reduction="sum")
    ((rows_BT, looked_up_BTC),) = tables
    gradients = torch.autograd.grad(loss, [*outputs, looked_up_BTC, logits_MV])
    for visit, gradient_BTR in enumerate(gradients[:3]):
        expected_R = (gradient_BTR * sum(gradients[:3])).flatten(0, 1).mean(0)
        torch.testing.assert_close(found[f"sensitivity/{LOOPED_UP}.weight/{visit}"], expected_R)
    torch.testing.assert_close(found["sensitivity/head"], gradients[-1].square().mean(0))
    by_row = torch.zeros(model.bigram.table.num_embeddings)
    for row, gradient_C in zip(rows_BT.flatten().tolist(), gradients[3].flatten(0, 1), strict=True):
        by_row[row] += gradient_C.square().mean() / rows_BT.numel()
    torch.testing.assert_close(found["sensitivity/bigram.table.weight"], by_row)


def test_batches_are_averaged_and_the_model_is_left_alone(model):
    parts = batches()
    found = sensitivities(model, parts)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert {len(value) for key, value in found.items() if key.endswith("up.weight/0")} == {64, 96}
    again = sensitivities(model, parts)
    assert all(torch.equal(found[key], again[key]) for key in found)
    renumbered = sensitivities(model, parts[:1], 7)["sensitivity/head"]
    assert not torch.equal(renumbered, sensitivities(model, parts[:1])["sensitivity/head"]), "the same labels for all"
    by_number = [sensitivities(model, [part], number) for number, part in enumerate(parts)]
    for key, value in found.items():
        torch.testing.assert_close(value, sum(part[key] for part in by_number) / 3)


def test_they_predict_the_divergence_that_noise_in_a_row_causes(model):
    """KL(float || disturbed) of noise in one output row, against 1/2 g e H e: the right rows cost the most."""
    ids_NT = torch.cat(batches(64, 8))
    found = sensitivities(model, ids_NT.split(8))
    rows = found["sensitivity/blocks.0.mlp.up.weight/0"]
    weight_RC = model.blocks[0].mlp.up.weight
    inputs = []
    handle = model.blocks[0].mlp.up.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach()))
    with torch.no_grad():
        before = model(ids_NT).log_softmax(-1)
    handle.remove()
    x_NC = inputs[0].flatten(0, 1)
    noise_C = 0.05 * torch.randn(weight_RC.shape[1], generator=torch.Generator().manual_seed(5))
    energy = float((x_NC @ noise_C).square().mean())
    measured = []
    for row in range(len(rows)):
        kept = weight_RC.data[row].clone()
        weight_RC.data[row] += noise_C
        with torch.no_grad():
            after = model(ids_NT).log_softmax(-1)
        weight_RC.data[row] = kept
        measured.append(float((before.exp() * (before - after)).sum(-1).mean()))
    predicted = 0.5 * rows * energy
    measured = torch.tensor(measured)
    assert torch.corrcoef(torch.stack([predicted.log(), measured.log()]))[0, 1] > 0.75
    # Tokens share the row: their errors are not independent, as the estimate assumes.
    assert 0.4 < float(measured.sum() / predicted.sum()) < 2.5
